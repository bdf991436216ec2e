"""Draws samples from a trained run or a published checkpoint, and saves them as pictures and numbers.

    python experiments/sample.py --workdir=runs/digits --n=64 --label=3 --config.sampler.name=ddim
    python experiments/sample.py --checkpoint=checkpoint.pth --source=ncsnv2 --out=samples
    python experiments/sample.py --checkpoint=google/ddpm-cifar10-32 --sampler=unipc --steps=20

Writes into --out: the pictures that training makes, and samples.npz with "x" (images of grey levels clipped to [0, 1],
other data in units of their own: "units" says which), "seed", "conditions" (checkpoint, sampler and its settings, as
JSON) and, of a class-conditional model, "label", and "names", what a run's data call its classes. By default the folder
is one in samples/ of the run, named after sampler, steps, checkpoint, number, label and seed, so that other samples
replace none. Sample i depends on the seed and i alone. Any sampling setting can be overridden; --sampler and --steps
set sampler.name and sampler.steps, and a grid and step size that suit them. A checkpoint (`interop.load` lists the
kinds) needs no PyTorch and is sampled as its authors did, unless settings say otherwise; it comes without data, so
without nearest neighbours, and its samples go to runs/NAME/samples/.
"""

from pathlib import Path

import numpy as np
from absl import flags

from score_jax import command, published, records, runs
from score_jax.interop.sources import SOURCES
from score_jax.types import InputError

command.find_configs()

from configs import base  # noqa: E402


def _published() -> published.Published | None:
    """The checkpoint that the command line names: its settings are the defaults of --config."""
    path = command.given("checkpoint")
    if path is None:
        return None
    if command.given("workdir"):
        raise InputError("--checkpoint and --workdir exclude each other: a published checkpoint or a run's, give one")
    command.configure_backend(base.get_config())
    return published.load(
        path,
        base.get_config(),
        source=command.given("source"),
        source_config=command.given("source_config"),
        use_ema=command.given("weights") != "raw",
        size=command.given_size("size"),
        **command.given_sampler(),
    )


_OPENED = command.attempt(_published)
command.define_run_config(
    _OPENED and _OPENED.config, lambda config: published.change(config, **command.given_sampler())
)
command.define_sampler()
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "published checkpoint, in place of --workdir")
_SOURCE = flags.DEFINE_enum(
    "source", None, list(SOURCES), "whose checkpoint it is: by default what its looks and names say"
)
_SOURCE_CONFIG = flags.DEFINE_string("source_config", None, "its own config file, where the checkpoint doesn't say all")
_WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "take the averages of parameters where it has some")
_SIZE = flags.DEFINE_string("size", None, "side of its images, or height and width, 32x48; by default its config's")
_N = flags.DEFINE_integer("n", 64, "number of samples", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the samples", lower_bound=0, upper_bound=2**63 - 1)
_LABEL = flags.DEFINE_string(
    "label", None, "class to draw, its name or number, of a class-conditional model; -1: any; by default all in turn"
)
_STEP = flags.DEFINE_integer("step", None, "checkpoint of the run to use; the newest by default")
_OUT = flags.DEFINE_string("out", None, "folder to write into; by default one of its own in samples/ of the run")


def main() -> None:
    written = _sample_run() if _OPENED is None else _sample_checkpoint(_OPENED)
    print(*(f"  {path}" for path in written), sep="\n")


def _sample_checkpoint(opened: published.Published) -> list[Path]:
    opened = published.with_settings(opened, flags.FLAGS.config)
    how = {"n": _N.value, "seed": _SEED.value, "label": _number_of_a_class()}
    name = records.name_of(published.conditions(opened, **how))
    by_default = Path("runs", Path(_CHECKPOINT.value).stem, "samples", name)
    folder = command.require_writable(Path(_OUT.value or by_default))
    print(f"{_N.value} samples {opened.shape} of {_CHECKPOINT.value} by {opened.config.sampler.name} into {folder}")
    return published.draw(opened, folder, **how)


def _number_of_a_class() -> int | None:
    """The label of a checkpoint, whose classes have no names here."""
    text = _LABEL.value
    if text is not None and text != "-1" and not (text.isdecimal() and len(text) < 10):
        raise InputError(f"--label of a checkpoint is a number, or -1 for any, got {text}")
    return None if text is None else int(text)


def _sample_run() -> list[Path]:
    config, workdir, n, label = flags.FLAGS.config, Path(flags.FLAGS.workdir), _N.value, _LABEL.value
    run = runs.load(workdir, config, step=_STEP.value)
    labels = runs.classes_in_turn(run, n) if label is None else np.full(n, runs.label_named(run, label), np.int32)
    folder = Path(_OUT.value) if _OUT.value else runs.samples_folder(run, n, _SEED.value, labels)
    command.require_writable(folder)
    print(f"{n} samples of {workdir} at step {int(run.state.step)} by {config.sampler.name} into {folder}")
    drawn = runs.samples(run, n=n, seed=_SEED.value, labels=labels)
    written = runs.draw_pictures(run, drawn, folder, labels=labels)
    return [*written, runs.save_samples(run, drawn, folder, seed=_SEED.value, labels=labels)]


if __name__ == "__main__":
    command.run(main)

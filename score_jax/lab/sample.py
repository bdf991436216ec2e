"""Draws samples from a trained run or a published checkpoint, and saves them as pictures and numbers.

    python experiments/sample.py --workdir=runs/digits --n=64 --label=3 --config.sampler.name=ddim
    python experiments/sample.py --checkpoint=checkpoint.pth --source=ncsnv2 --out=samples
    python experiments/sample.py --checkpoint=google/ddpm-cifar10-32 --sampler=unipc --steps=20

Writes into --out: the pictures that training makes, and samples.npz with "x" (images of grey levels clipped to [0, 1],
other data in units of their own: "units" says which), "seed", "conditions" (checkpoint, sampler and its settings, as
JSON) and, of a class-conditional model, "label", and "names", what its classes are called. By default the folder
is one in samples/ of the run, named after sampler, steps, checkpoint, number, label and seed, so that other samples
replace none. Sample i depends on the seed and i alone. Any sampling setting can be overridden; --sampler and --steps
set sampler.name and sampler.steps, and a grid and step size that suit them. --config.sampler.guidance.scale=2 leads
samples to their labels, by the network itself, or with .guide and .workdir by another run, of a classifier or weaker;
.interval=0.2,5 does so between two noise levels σ/α. A checkpoint (`interop.load` lists the
kinds) needs no PyTorch and is sampled as its authors did, unless settings say otherwise; it comes without data, so
without nearest neighbours, and its samples go to runs/NAME/samples/.
"""

from pathlib import Path

import numpy as np
from absl import flags

from score_jax.lab import build, command, opened, records, run, samples
from score_jax.lab.experiment import Data, Trained
from score_jax.training import hosts


def define() -> None:
    """Defines the flags; reads the checkpoint whose settings are their defaults, if one is named."""
    opened.define()
    flags.DEFINE_integer("n", 64, "number of samples", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of the samples", lower_bound=0, upper_bound=2**63 - 1)
    flags.DEFINE_string(
        "label", None, "class to draw, its name or number, of a conditional model; -1: any; by default all in turn"
    )
    flags.DEFINE_string("out", None, "folder to write into; by default one of its own in samples/ of the run")


def main() -> None:
    """Draws the samples that the flags describe."""
    given = flags.FLAGS
    checkpoint = opened.named_checkpoint()
    if checkpoint:
        trained, data, name = build.of_checkpoint(given.config, checkpoint), None, given.checkpoint
        home = Path("runs", Path(given.checkpoint).stem)
    else:
        home = Path(given.workdir)
        experiment = build.experiment(given.config, before=run.before(home))
        restored = run.restore(experiment, home, step=given.step)
        trained, data, name = restored, experiment.data, f"{home} at step {int(restored.state.step)}"
    written = _draw(trained, data, home, name)
    print(*(f"  {path}" for path in written), sep="\n")


def _draw(trained: Trained, data: Data | None, home: Path, name: str) -> list[Path]:
    n, seed, label = flags.FLAGS.n, flags.FLAGS.seed, flags.FLAGS.label
    turn = samples.classes_in_turn(trained.examples, n)
    labels = turn if label is None else np.full(n, samples.label_named(trained.examples, label), np.int32)
    by_default = home / "samples" / records.name_of(samples.conditions(trained, n=n, seed=seed, labels=labels))
    folder = command.require_writable(hosts.own(Path(flags.FLAGS.out or by_default)))
    print(f"{n} samples {trained.examples.shape} of {name} by {trained.sampling.name} into {folder}")
    drawn = samples.draw_samples(trained, n=n, seed=seed, labels=labels)
    from score_jax.lab import show  # deferred: matplotlib is a sixth of the start

    written = show.show_samples(trained, drawn, folder, labels=labels, data=data)
    return [*written, samples.save_samples(trained, drawn, folder, seed=seed, labels=labels)]


if __name__ == "__main__":
    command.run(main, define, several=True)

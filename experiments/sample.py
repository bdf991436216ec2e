"""Draws samples from a trained run and saves them as pictures and numbers.

    python experiments/sample.py --workdir=runs/digits --n=64 --label=3 --config.sampler.name=ddim

Writes into --out (samples/ of the run): the pictures that training makes, and samples.npz with "x" (images in [0, 1],
or points) and, of a class-conditional model, "label". Any sampling setting of the run can be overridden; sample i
depends on the seed and i alone.
"""

from pathlib import Path

import numpy as np
from absl import flags

from score_jax import command, runs

command.define_run_config()
_N = flags.DEFINE_integer("n", 64, "number of samples", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the samples")
_LABEL = flags.DEFINE_integer(
    "label", None, "class to draw, of a class-conditional model; -1: any; by default all in turn"
)
_STEP = flags.DEFINE_integer("step", None, "checkpoint to use; the newest by default")
_OUT = flags.DEFINE_string("out", None, "folder to write into; samples/ of the run by default")


def main() -> None:
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    folder = Path(_OUT.value) if _OUT.value else workdir / "samples"
    run = runs.load(workdir, config, step=_STEP.value)
    n, label = _N.value, _LABEL.value
    labels = runs.classes_in_turn(run, n) if label is None else np.full(n, label, np.int32)
    print(f"{n} samples of {workdir} at step {int(run.state.step)} by {config.sampler.name} into {folder}")
    drawn = runs.samples(run, n=n, seed=_SEED.value, labels=labels)
    written = runs.draw_pictures(run, drawn, folder)
    np.savez(folder / "samples.npz", x=drawn.x, **({} if labels is None else {"label": labels}))
    print(*(f"  {path}" for path in [*written, folder / "samples.npz"]), sep="\n")


if __name__ == "__main__":
    command.run(main)

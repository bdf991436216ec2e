"""Measures a trained run: how good its score and its samples are, beside what real data give.

    python experiments/evaluate.py --workdir=runs/digits

2-D data: score error against the exact score by noise level, sliced Wasserstein-2, MMD, energy distance, mode weights.
Images: accuracy and class balance by a simple classifier trained on the real images, nearest-neighbour distances.
--config.evaluation.likelihood_n=100: bits/dim of that many held-out images under the probability flow.
--config.evaluation.bound_n=100: the variational bound of an ancestral sampler's steps, in bits/dim, with its parts.
Writes evaluation.json and figures/ into the run folder and prints the numbers.
"""

from pathlib import Path

from absl import flags

from score_jax import command, runs

command.define_run_config()
_STEP = flags.DEFINE_integer("step", None, "checkpoint to use; the newest by default")


def main() -> None:
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    run = runs.load(workdir, config, step=_STEP.value)
    print(f"evaluating {workdir} at step {int(run.state.step)} with {config.evaluation.n} samples")
    for name, value in runs.evaluate(run).items():
        print(f"  {name:38} {_shown(value)}")
    print(f"written to {workdir / 'evaluation.json'} and {workdir / 'figures'}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{k}: {v:.4g}" for k, v in value.items())
    if isinstance(value, list):
        return "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command.run(main)

"""Measures a trained run: how good its score and its samples are, beside what real data give.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/digits --sampler=ddim --steps=50

Of all data: held-out loss by noise level, distances to the nearest training examples. 2-D toys: score error against the
exact score by noise level, mode weights. Points, vectors, sequences: sliced Wasserstein-2, MMD, energy distance.
Images: accuracy and class balance by a simple classifier trained on the real images.
--config.evaluation.likelihood_n=100: the likelihood of that many held-out examples under the probability flow, in
bits/dim of grey levels, else in nats, beside a toy's exact one.
--config.evaluation.bound_n=100: the variational bound of an ancestral sampler's steps, in bits/dim, with its parts.
What the data or the samples don't allow is left out, and the reason printed. Writes evaluation.json, with figures, into
a folder of its own in evaluations/ of the run, named after sampler, steps, checkpoint and seed, or into --out; the
newest checkpoint's by the run's own sampler is evaluation.json of the run too. Prints the numbers.
"""

from pathlib import Path

from absl import flags

from score_jax import command, published, runs

command.define_run_config(change=lambda config: published.change(config, **command.given_sampler()))
command.define_sampler()
_STEP = flags.DEFINE_integer("step", None, "checkpoint to use; the newest by default")
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "seed of the samples and of what is measured; the run's by default",
    lower_bound=0,
    upper_bound=2**63 - 1,
)
_OUT = flags.DEFINE_string("out", None, "folder to write into; by default one of its own in evaluations/ of the run")


def main() -> None:
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    run = runs.load(workdir, config, step=_STEP.value)
    seed = config.seed if _SEED.value is None else _SEED.value
    folder = command.require_writable(Path(_OUT.value) if _OUT.value else runs.evaluation_folder(run, seed))
    n, sampler = config.evaluation.n, config.sampler.name
    print(f"evaluating {workdir} at step {int(run.state.step)} with {n} samples by {sampler}")
    numbers = runs.evaluate(run, seed=seed, folder=Path(_OUT.value) if _OUT.value else None)
    left_out = numbers.pop("left_out")
    for name, value in numbers.items():
        if not name.endswith("_settings"):
            print(f"  {name:38} {_shown(value)}")
    for name, reason in left_out.items():
        print(f"  left out: {name}: {reason}")
    print(f"written to {folder}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{k}: {v:.4g}" for k, v in value.items())
    if isinstance(value, list):
        return "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command.run(main)

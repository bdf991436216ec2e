"""Measures a trained run: how good its score and its samples are, beside what real data give.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/digits --sampler=ddim --steps=50

--config.evaluation.measures lists what is measured. Of all data: held-out loss by noise level, distances to the nearest
training examples. 2-D toys: score error against the exact score by noise level, mode weights. Points, vectors,
sequences: sliced Wasserstein-2, MMD, energy distance. Images: accuracy and class balance by a simple classifier trained
on the real images.
--config.evaluation.likelihood_n=100: the likelihood of that many held-out examples under the probability flow, in
bits/dim of grey levels, else in nats, beside a toy's exact one.
--config.evaluation.bound_n=100: the variational bound of an ancestral sampler's steps, in bits/dim, with its parts.
What the data or the samples don't allow is left out, and the reason printed. Writes evaluation.json, with figures, into
a folder of its own in evaluations/ of the run, named after sampler, steps, checkpoint and seed, or into --out; the
newest checkpoint's by the run's own sampler is evaluation.json of the run too. Prints the numbers.
"""

from pathlib import Path

from absl import flags

from score_jax.lab import build, command, evaluation, run, settings


def define() -> None:
    """Defines the flags."""
    command.define_run(lambda config: settings.with_sampler(config, **command.given_sampler()))
    command.define_sampler()
    flags.DEFINE_integer("step", None, "checkpoint to use; the newest by default")
    flags.DEFINE_integer(
        "seed",
        None,
        "seed of the samples and of what is measured; the run's by default",
        lower_bound=0,
        upper_bound=2**63 - 1,
    )
    flags.DEFINE_string("out", None, "folder to write into; by default one of its own in evaluations/ of the run")


def main() -> None:
    """Measures the run that the flags name."""
    given, workdir = flags.FLAGS, Path(flags.FLAGS.workdir)
    experiment = build.experiment(given.config, before=run.before(workdir))
    trained = run.restore(experiment, workdir, step=given.step)
    seed = experiment.seed if given.seed is None else given.seed
    out = Path(given.out) if given.out else None
    folder = command.require_writable(evaluation.evaluation_folder(trained, seed) if out is None else out)
    n, sampler = experiment.evaluation.n, experiment.sampling.name
    print(f"evaluating {workdir} at step {int(trained.state.step)} with {n} samples by {sampler}")
    numbers = evaluation.evaluate(trained, seed=seed, folder=out)
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
    command.run(main, define)

"""Measures a trained run: how good its score and its samples are, beside what real data give.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/digits --sampler=ddim --steps=50
    python experiments/evaluate.py --workdir=runs/digits --config.evaluation.features.name=grey --watch
    python experiments/evaluate.py --checkpoint=vp/checkpoint_8.pth --config.data.name=cifar10 --config.data.root=DIR

--config.evaluation.measures lists what is measured. Of all data: held-out loss by noise level, distances to the nearest
training examples. 2-D toys: score error against the exact score by noise level, mode weights. Points, vectors,
sequences: sliced Wasserstein-2, MMD, energy distance. Images: accuracy and class balance by a simple classifier trained
on the real images.
--config.evaluation.likelihood_n=100: the likelihood of that many held-out examples under the probability flow, in
bits/dim of grey levels, else in nats, beside a toy's exact one.
--config.evaluation.bound_n=100: the variational bound of an ancestral sampler's steps, in bits/dim, with its parts.
--config.evaluation.features.name=grey, efficientnet_lite0 or inception compares images by a network's features: Fréchet
and kernel distance to the training set, precision, recall, density, coverage. Only Inception's is called FID.
What the data or the samples don't allow is left out, and the reason printed. Writes evaluation.json, with figures, into
a folder of its own in evaluations/ of the run, named after sampler, steps, checkpoint and seed, or into --out; the
newest checkpoint's by the run's own sampler is evaluation.json of the run too. Prints the numbers. Stopped
at any moment and started again, it goes on with the samples that were drawn. --watch measures each new checkpoint.
"""

import time
from pathlib import Path

from absl import flags

from score_jax.lab import build, command, evaluation, opened, run
from score_jax.lab.experiment import Experiment, Run
from score_jax.training import checkpoint
from score_jax.types import InputError

_POLL = 5.0  # seconds between two looks at a run that trains


def define() -> None:
    """Defines the flags; reads the checkpoint whose settings are their defaults, if one is named."""
    opened.define()
    flags.DEFINE_boolean("watch", False, "measure each new checkpoint of a run that trains, until it is trained")
    flags.DEFINE_integer(
        "seed",
        None,
        "seed of the samples and of what is measured; the run's by default",
        lower_bound=0,
        upper_bound=2**63 - 1,
    )
    flags.DEFINE_string("out", None, "folder to write into; by default one of its own in evaluations/ of the run")


def main() -> None:
    """Measures the run or checkpoint that the flags name."""
    given, published = flags.FLAGS, opened.named_checkpoint()
    if published is not None:
        if given.watch:
            raise InputError("--watch is of a run that trains: give --workdir=FOLDER")
        home = Path("runs", Path(given.checkpoint).stem)
        return _measure(run.of_published(build.experiment_of(given.config, published), published, home))
    workdir = Path(given.workdir)
    experiment = build.experiment(given.config, before=run.before(workdir))
    if given.watch:
        return _watch(experiment, workdir)
    return _measure(run.restore(experiment, workdir, step=given.step))


def _watch(experiment: Experiment, workdir: Path) -> None:
    """Measures checkpoints as they come, in their order, those that are measured already left out."""
    if flags.FLAGS.out is not None or flags.FLAGS.step is not None:
        raise InputError("--watch measures each checkpoint, into a folder of its own: leave --out and --step")
    last, seen = experiment.training.steps, set[int]()
    waiting = False
    while last not in seen:
        new = sorted(set(checkpoint.steps(workdir)) - seen)
        for step in new:
            trained = _still_there(experiment, workdir, step)
            if trained is not None and not evaluation.is_done(evaluation.evaluation_folder(trained, _seed(experiment))):
                _measure(trained)
            seen.add(step)
        if not new:
            waiting or print(f"waiting for the next checkpoint of {workdir}, of {last} steps in all", flush=True)
            time.sleep(_POLL)
        waiting = not new


def _still_there(experiment: Experiment, workdir: Path, step: int) -> Run | None:
    """The run at a step; None where training has removed that checkpoint meanwhile."""
    try:
        return run.restore(experiment, workdir, step=step)
    except InputError:
        if step in checkpoint.steps(workdir):
            raise
        return None


def _seed(experiment: Experiment) -> int:
    return experiment.seed if flags.FLAGS.seed is None else int(flags.FLAGS.seed)


def _measure(trained: Run) -> None:
    experiment, seed = trained.experiment, _seed(trained.experiment)
    out = Path(flags.FLAGS.out) if flags.FLAGS.out else None
    folder = command.require_writable(evaluation.evaluation_folder(trained, seed) if out is None else out)
    at = f" at step {trained.origin['step']}" if "step" in trained.origin else ""
    n, sampler = experiment.evaluation.n, experiment.sampling.name
    print(
        f"evaluating {trained.origin.get('checkpoint', trained.workdir)}{at} with {n} samples by {sampler}", flush=True
    )
    numbers = evaluation.evaluate(trained, seed=seed, folder=out)
    left_out = numbers.pop("left_out")
    for name, value in numbers.items():
        if not name.endswith("_settings"):
            print(f"  {name:38} {_shown(value)}")
    for name, reason in left_out.items():
        print(f"  left out: {name}: {reason}")
    print(f"written to {folder}", flush=True)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return _with_conditions(value) if "value" in value else "  ".join(f"{k}: {v:.4g}" for k, v in value.items())
    if isinstance(value, list):
        return "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _with_conditions(number: dict) -> str:
    """A number with its error, and what it is of."""
    error = number.get("standard_error")
    shown = f"{number['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
    rest = {name: v for name, v in number.items() if name not in ("value", "standard_error")}
    return f"{shown}  ({', '.join(f'{name} {v}' for name, v in rest.items())})"


if __name__ == "__main__":
    command.run(main, define)

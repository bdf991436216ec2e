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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from score_jax.lab import build, command, evaluation, opened, run
from score_jax.lab.experiment import Experiment, Run
from score_jax.lab.sharing import Shared
from score_jax.training import checkpoint, hosts
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
    if given.watch:
        shared = Shared()  # the data are read once
        return _watch(lambda: build.experiment(given.config, before=run.before(workdir), shared=shared), workdir)
    experiment = build.experiment(given.config, before=run.before(workdir))
    return _measure(run.restore(experiment, workdir, step=given.step))


def _watch(make: Callable[[], Experiment], workdir: Path) -> None:
    """Measures checkpoints as they come, in their order, those that are measured already left out."""
    if hosts.several():
        raise InputError("--watch is for one process: start it beside those that train")
    if flags.FLAGS.out is not None or flags.FLAGS.step is not None:
        raise InputError("--watch measures each checkpoint, into a folder of its own: leave --out and --step")
    make()  # what is wrong with the settings is told before anything is waited for
    seen = set[int]()
    _await_checkpoint(workdir, seen)
    experiment = make()  # which the run's own settings are known of by now
    while True:
        for step in sorted(set(checkpoint.steps(workdir)) - seen):
            trained = _restored(experiment, workdir, step)
            if trained is not None and not evaluation.is_done(evaluation.evaluation_folder(trained, _seed(experiment))):
                _measure(trained)
            seen.add(step)
        if experiment.training.steps in seen:
            return
        _await_checkpoint(workdir, seen)


def _await_checkpoint(workdir: Path, seen: set[int]) -> None:
    """Waits until there is a checkpoint that was not seen."""
    if not set(checkpoint.steps(workdir)) - seen:
        print(f"waiting for the next checkpoint of {workdir}", flush=True)
    while not set(checkpoint.steps(workdir)) - seen:
        time.sleep(_POLL)


def _restored(experiment: Experiment, workdir: Path, step: int) -> Run | None:
    """The run at a step; None where that checkpoint is gone meanwhile, or damaged, which is told."""
    try:
        return run.restore(experiment, workdir, step=step)
    except InputError as error:
        if step in checkpoint.steps(workdir):
            print(f"left out: {error}", flush=True)
        return None


def _seed(experiment: Experiment) -> int:
    return experiment.seed if flags.FLAGS.seed is None else int(flags.FLAGS.seed)


def _measure(trained: Run) -> None:
    experiment, seed = trained.experiment, _seed(trained.experiment)
    out = Path(flags.FLAGS.out) if flags.FLAGS.out else None
    folder = evaluation.evaluation_folder(trained, seed) if out is None else out
    command.require_writable(hosts.own(folder))
    at = f" at step {trained.origin['step']}" if "step" in trained.origin else ""
    n, sampler = experiment.evaluation.n, experiment.sampling.name
    by = "" if trained.sampling.without_score else f" with {n} samples by {sampler}"
    print(f"evaluating {trained.origin.get('checkpoint', trained.workdir)}{at}{by}", flush=True)
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
        return _with_conditions(value) if "value" in value else "  ".join(f"{k}: {_shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _with_conditions(number: dict[str, Any]) -> str:
    """A number with its error, and what it is of."""
    error = number.get("standard_error")
    shown = f"{number['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
    rest = {name: v for name, v in number.items() if name not in ("value", "standard_error")}
    return f"{shown}  ({', '.join(f'{name} {v}' for name, v in rest.items())})"


if __name__ == "__main__":
    command.run(main, define, several=True)

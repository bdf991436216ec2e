"""Stage "learn": that training learns on this device, not only runs, with the usual evaluation.

Digits as `make demo` has them, and Fashion-MNIST for three minutes where its files are. What a run must show: a
held-out loss below that of the network's start, and samples that a classifier trained on real images recognises (0.1
is chance). Tiny, a few steps of a small network: the loss alone.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from checks.item import Item, Row, Scale

_NEEDS = ("ml_collections", "grain", "sklearn", "orbax")
_SECONDS = 180


def items(scale: Scale) -> list[Item]:
    """Returns the items."""
    fashion = [] if scale.tiny else [Item("Fashion-MNIST, three minutes", partial(_fashion, scale), _NEEDS)]
    return [Item("digits", partial(_digits, scale), _NEEDS), *fashion]


def _digits(scale: Scale) -> Row:
    from configs import digits

    config = digits.get_config("mlp" if scale.tiny else "dsm")
    if scale.tiny:
        config.network.mlp.hidden = (64, 64)
        config.training.update(steps=200, steps_per_dispatch=50, log_every=50, checkpoint_every=200)
        config.sampler.update(steps=4, n=20)
        config.evaluation.n = 20
    return _learned("digits", config, accuracy=0.0 if scale.tiny else 0.6)


def _fashion(scale: Scale) -> Row:
    """As many steps as three minutes hold, by the speed of the first fifty."""
    from configs import fashion_mnist
    from score_jax.lab import build, run

    config = fashion_mnist.get_config("ncsn")
    config.data.update(root=str(scale.fashion_mnist or ""), labels=True)
    trial = config.copy_and_resolve_references()
    trial.training.update(steps=60, log_every=10, checkpoint_every=60)
    trial.optimizer.warmup_steps = 10
    with tempfile.TemporaryDirectory() as folder:
        rate = _last_rate(run.train(build.experiment(trial), folder), folder) / config.training.batch_size
    steps = max(200, int(_SECONDS * rate) // 100 * 100)
    config.training.update(steps=steps, log_every=100, checkpoint_every=steps)
    return _learned("Fashion-MNIST", config, accuracy=0.5)


def _last_rate(_: Any, folder: str) -> float:
    from score_jax.training.logging import read_jsonl

    return read_jsonl(Path(folder) / "metrics.jsonl")[-1]["examples_per_second"]


def _learned(name: str, config: Any, accuracy: float) -> Row:
    """Trains and evaluates; raises where the run didn't learn."""
    from score_jax.lab import build, evaluation, run
    from score_jax.training.logging import read_jsonl

    with tempfile.TemporaryDirectory() as folder:
        experiment = build.experiment(config)
        start = time.perf_counter()
        trained = run.train(experiment, Path(folder) / "run")
        seconds = time.perf_counter() - start
        numbers = evaluation.evaluate(trained)
        losses = [record["loss"] for record in read_jsonl(trained.workdir / "metrics.jsonl")]
    row = {
        "data": name,
        "steps": config.training.steps,
        "training, s": seconds,
        "first loss": losses[0],
        "last loss": losses[-1],
        "accuracy of samples": numbers.get("conditional_accuracy", ""),
        "accuracy of real images": numbers.get("held_out_accuracy", ""),
    }
    if not losses[-1] < losses[0] or (accuracy and not row["accuracy of samples"] >= accuracy):
        raise RuntimeError(f"it did not learn: {row}; expected a falling loss and an accuracy of at least {accuracy}")
    return row

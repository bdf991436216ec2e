"""A toy, trained and sampled on the device in force: whether the whole way works, and to the right numbers.

Two modes at (5, 5) and (−5, −5), standard deviation 1: of exact samples 0.989 lie within three of them of a mode.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from score_jax.data import toy
from score_jax.lab import build, run, samples, settings
from score_jax.lab.doctoring.finding import OK, WRONG, Finding
from score_jax.training.logging import read_jsonl

_SHARE, _FALL = 0.8, 0.85  # at least this many near a mode, at most this much of the loss of the first steps left
_CHANGES = {
    "data.name": "mixture",
    "data.n": 10_000,
    "network.name": "mlp",
    "network.mlp.hidden": (64, 64),
    "sde.ve.sigma_min": 0.05,
    "sde.ve.sigma_max": 10.0,
    "parameterization.name": "edm",
    "parameterization.edm.sigma_data": 5.0,
    "optimizer.learning_rate": 3e-3,
    "training.batch_size": 256,
    "training.steps": 400,
    "training.steps_per_dispatch": 10,
    "training.log_every": 10,
    "training.checkpoint_every": 400,
    "sampler.name": "ddim",
    "sampler.grid": "log_snr",
    "sampler.steps": 20,
}


class TrainedToy(NamedTuple):
    """What came of it: first and last loss, points `(n, 2)`, seconds."""

    first: float
    last: float
    x: np.ndarray
    seconds: float


def train_toy() -> TrainedToy:
    """Trains in a folder that goes, restores the checkpoint, and samples it."""
    start = time.perf_counter()
    experiment = build.experiment(settings.changed(settings.get_config(), _CHANGES))
    with tempfile.TemporaryDirectory(prefix="score_jax_doctor_") as folder:
        run.train(experiment, Path(folder))
        losses = [record["loss"] for record in read_jsonl(Path(folder) / "metrics.jsonl")]
        restored = run.restore(experiment, Path(folder))
        x = samples.draw_samples(restored, n=400, quiet=True).x
    return TrainedToy(losses[0], losses[-1], np.asarray(x), time.perf_counter() - start)


def check_toy(train: Callable[[], TrainedToy] = train_toy) -> Iterator[Finding]:
    """Looks whether the loss fell and samples lie where the data do."""
    first, last, x, seconds = train()
    modes = np.asarray(toy.components("mixture").means)
    near = float((np.linalg.norm(x[:, None] - modes, axis=2).min(1) < 3).mean())
    said = (
        f"loss {first:.3g} → {last:.3g}, {near:.0%} of {len(x)} samples near a mode, "
        f"{seconds:.0f} s on {jax.devices()[0].device_kind}"
    )
    right = np.isfinite(x).all() and last < _FALL * first and near > _SHARE
    yield Finding(OK, "self-test", said) if right else Finding(WRONG, "self-test", said, _CURE)


_CURE = "JAX_PLATFORMS=cpu python -m score_jax.lab.doctor  (right there: the device or its driver is at fault)"

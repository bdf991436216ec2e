"""Trainings of a sweep in one program against one after another: 32 cells of points, compilation included.

    python benchmarks/sweep_together.py

Cells of `configs/toy.py` that differ in the seed and in numbers, through `sweeps.running.train_all` into run folders:
all at once, and each by itself, where those that differ in the seed only share a compiled program. Each measurement is
a fresh process without a compile cache; experiments are built, and packages imported, before its time begins. Target: 5
times as fast where every cell has other numbers. What is saved is compilation: a network that keeps the cores busy by
itself gains little beside, and seeds share their program one after another too.
"""

import contextlib
import io
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from own_training import shorten
from timing import Row, alternate, child, compare, main

from configs import toy
from score_jax.lab import build, settings, sweeps
from score_jax.lab.sharing import Shared
from score_jax.lab.sweeps import running

_spread = lambda low, high: [float(f"{value:.3g}") for value in np.geomspace(low, high, 32)]
GRIDS = {
    "32 seeds, rates, σ_max and weights": sweeps.zip(
        sweeps.axis("seed", list(range(32))),
        sweeps.axis("optimizer.learning_rate", _spread(2e-4, 5e-3)),
        sweeps.axis("sde.ve.sigma_max", _spread(8.0, 12.0)),
        sweeps.axis("weighting.edm.sigma_data", _spread(0.4, 1.0)),
    ),
    "8 seeds × 4 rates": sweeps.product(
        sweeps.axis("optimizer.learning_rate", [5e-4, 1e-3, 2e-3, 4e-3]), sweeps.axis("seed", list(range(8)))
    ),
}


class Size(NamedTuple):
    """Hidden layers, examples a batch, and updates."""

    hidden: tuple[int, ...]
    batch: int
    steps: int


SMALL, OWN = Size((32, 32), 64, 1000), Size((128, 128, 128), 256, 500)  # the config's own network, of fewer steps
SEARCH, REPEATED = GRIDS
ROWS = [(SEARCH, SMALL), (SEARCH, OWN), (REPEATED, SMALL)]


def config_for(size: Size) -> ConfigDict:
    """The toy config with another network, batch and length, and a weight that has a number."""
    config = toy.get_config()
    shorten(config, size.steps, 250)
    config.network.mlp.hidden, config.training.batch_size = size.hidden, size.batch
    config.weighting.name = "edm"
    return config


def measure_child(how: str, row: str, cells: str) -> Row:
    """Seconds of the trainings, in this process; how: "together" or "apart"."""
    import grain  # noqa: F401  which the first training would import
    import orbax.checkpoint  # noqa: F401

    grid, size = ROWS[int(row)]
    config, shared = config_for(size), Shared()
    some = GRIDS[grid][: int(cells)]
    experiments = [build.experiment(settings.changed(config, cell), shared=shared) for cell in some]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        workdirs = [Path(folder) / str(i) for i in range(len(experiments))]
        start = time.perf_counter()
        if how == "together":
            trained = running.train_all(experiments, workdirs)
        else:
            pairs = zip(experiments, workdirs, strict=True)
            trained = [running.train_all([experiment], [workdir])[0] for experiment, workdir in pairs]
        seconds = time.perf_counter() - start
    errors = [one for one in trained if isinstance(one, Exception)]
    if errors:
        raise errors[0]
    return {"seconds": seconds}


def seconds(how: str, row: int, cells: int) -> float:
    """Seconds of the trainings, in a fresh process."""
    return child(__file__, how, str(row), str(cells), JAX_ENABLE_COMPILATION_CACHE="false")["seconds"]


def measure_row(row: int, *, cells: int, pairs: int) -> Row:
    """One row of the table."""
    load = os.getloadavg()[0]
    apart, together, ratio = compare(
        *alternate(lambda: seconds("apart", row, cells), lambda: seconds("together", row, cells), pairs)
    )
    grid, size = ROWS[row]
    about = {"cells": grid, "hidden layers": ", ".join(map(str, size.hidden)), "batch": size.batch, "steps": size.steps}
    times = {"one after another, s": apart, "together, s": together, "ratio": ratio}
    return about | times | {"load before": round(load, 1)}


def measure(quick: bool) -> Row:
    """Measures 32 cells of each grid and size."""
    pairs, cells = (1, 3) if quick else (1, 32)
    return {"rows": [measure_row(row, cells=cells, pairs=pairs) for row in range(len(ROWS))]}


if __name__ == "__main__":
    main(measure, __doc__, measure_child)

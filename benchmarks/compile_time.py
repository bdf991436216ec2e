"""Time from a config to the first training step, with an empty and with a filled compile cache.

    python benchmarks/compile_time.py

Each figure is of a fresh process, from building the run until the first record stands in metrics.jsonl; importing the
package is listed beside it. A first record takes one dispatch: 250 steps of the toy, a single one of the digits. The
cache is JAX's persistent one with the commands' settings, in a folder of its own.
"""

import contextlib
import io
import tempfile
import time

_STARTED = time.time()

from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402

from own_training import shorten  # noqa: E402
from timing import Row, child, main  # noqa: E402

from configs import digits, toy  # noqa: E402
from score_jax import backend  # noqa: E402
from score_jax.lab import build, run  # noqa: E402

_IMPORTED = time.time()
CONFIGS = {"toy": toy.get_config, "digits": digits.get_config}


def first_step(name: str) -> Row:
    """Runs in a fresh process: trains for one dispatch."""
    backend.configure()
    config = CONFIGS[name]()
    k = config.training.steps_per_dispatch
    shorten(config, k, k)
    start = time.time()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        run.train(build.experiment(config), Path(folder) / "run")
        # The record is written before the checkpoint at the end of the run.
        done = (Path(folder) / "run" / "metrics.jsonl").stat().st_mtime
    return {"imports": _IMPORTED - _STARTED, "first step": done - start}


def measure_config(name: str, repetitions: int) -> Row:
    """One row: each repetition is a process with an empty cache, then one with what that left."""
    cold: list[Row] = []
    warm: list[Row] = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as cache:
            for processes in (cold, warm):
                processes.append(child(__file__, name, JAX_COMPILATION_CACHE_DIR=cache))
    first = lambda processes: median(one["first step"] for one in processes)
    return {
        "config": f"configs/{name}.py",
        "imports, s": median(one["imports"] for one in cold + warm),
        "first step, empty cache, s": first(cold),
        "first step, filled cache, s": first(warm),
    }


def measure(quick: bool) -> Row:
    """Measures both configs."""
    return {"rows": [measure_config(name, 1 if quick else 2) for name in CONFIGS]}


if __name__ == "__main__":
    main(measure, __doc__, first_step)

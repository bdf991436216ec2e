"""Trains for half an hour, and shows that memory, file handles and threads don't grow.

    python benchmarks/soak.py --minutes=30

The toy and the digits of `configs/` are trained in turns in one process, each a few seconds at a time into a new
folder, with a record, a checkpoint and a picture of samples every few steps: more of each in half an hour than in weeks
of a usual run. Each is built once. Between two trainings, once a minute, garbage is collected and what the process
holds is written down: resident memory, arrays on the device, file handles, threads.

The process has two of glibc's pools of memory, `MALLOC_ARENA_MAX=2`, where that is not set otherwise: Orbax writes each
checkpoint by new threads, which with glibc's own number, eight a core, leave holes in all of them, more for hours. What
a process uses is as much with either.

The first third is warm-up: programs are compiled, caches fill, the allocator keeps what it was given once. Behind it a
line is fitted to memory over steps. Flat means: along that line memory grows by less than 2 % of its size from the end
of the warm-up to the end, and neither arrays nor handles nor threads are more in the last third than their most in the
second. Exit code 1 if anything is not flat.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from own_training import shorten
from timing import Row, environment, table

from configs import digits, toy
from score_jax.lab import build, run
from score_jax.lab.experiment import Experiment

_GROWTH = 0.02  # of memory behind the warm-up
_COUNTED = ("arrays", "file handles", "threads")


def frequent(config: ConfigDict, steps: int, every: int, pictures: int) -> ConfigDict:
    """A training of so many steps, with records and checkpoints every few and pictures now and then."""
    shorten(config, steps, every)
    config.training.update(checkpoint_every=every, steps_per_dispatch=every, sample_every=pictures, keep_last=2)
    config.sampler.update(n=16, batch_size=16, steps=5)
    return config


def experiments() -> list[Experiment]:
    """The toy and the digits, cut short."""
    toys, small = frequent(toy.get_config(), 1000, 50, 500), frequent(digits.get_config(), 30, 5, 15)
    return [build.experiment(toys), build.experiment(small)]


def holding() -> Row:
    """Returns what the process holds, once what it no longer needs is given back."""
    gc.collect()
    _give_back()
    return {
        "memory, MiB": resident(),
        "arrays": len(jax.live_arrays()),
        "file handles": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def _give_back() -> None:
    """Lets glibc return free memory: what it keeps of threads that have ended is no leak, and comes and goes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> float:
    """Returns the resident memory of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**10


def soak(minutes: float, trained: Sequence[Experiment], samples: int = 30) -> list[Row]:
    """Trains in turns for so long; returns what the process held at so many moments."""
    start, steps, rows = time.monotonic(), 0, []
    for experiment in itertools.cycle(trained):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            run.train(experiment, Path(folder) / "run")
        steps += experiment.training.steps
        passed = (time.monotonic() - start) / 60
        if experiment is trained[-1] and passed >= minutes * (len(rows) + 1) / samples:
            rows.append({"minute": passed, "steps": steps, **holding()})
            print(*(f"{name} {value:.6g}" for name, value in rows[-1].items()), sep=", ", flush=True)
        if passed >= minutes and experiment is trained[-1]:
            return rows
    raise AssertionError


def slope(rows: Sequence[Row]) -> float:
    """Returns the least-squares slope of memory over steps behind the first third, MiB a step."""
    behind = rows[len(rows) // 3 :]
    steps, memory = (np.array([row[name] for row in behind]) for name in ("steps", "memory, MiB"))
    from_mean = steps - steps.mean()
    return float(from_mean @ memory / max(from_mean @ from_mean, 1))


def growing(rows: Sequence[Row]) -> list[str]:
    """Returns what is not flat, with the numbers that show it: see the module's text."""
    if len(rows) < 6:
        return [f"no telling by {len(rows)} moments: give more --minutes"]
    third = len(rows) // 3
    warm, middle, last = rows[third], rows[third : 2 * third], rows[2 * third :]
    grown = slope(rows) * (rows[-1]["steps"] - warm["steps"])
    found = [f"memory by {grown:.1f} MiB of {warm['memory, MiB']:.0f}"]
    found = found if grown > _GROWTH * warm["memory, MiB"] else []
    most = lambda name, part: max(row[name] for row in part)
    more = [name for name in _COUNTED if most(name, last) > most(name, middle)]
    return found + [f"{name} from {most(name, middle)} to {most(name, last)}" for name in more]


def _with_two_pools() -> None:
    """Begins this script anew, where it has to: glibc reads the variable at a process's start."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"MALLOC_ARENA_MAX": "2"})


def main() -> int:
    """Prints a row a minute, the slope, and what grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--quick", action="store_true", help="3 minutes: to see that it runs")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    _with_two_pools()
    rows = soak(3 if options.quick else options.minutes, experiments())
    grows = growing(rows)
    result = {"rows": rows, "MiB per 1,000 steps": 1000 * slope(rows), "grows": grows, "environment": environment()}
    print(f"\n{table(rows)}\n\n{result['environment']}")
    print(f"behind the warm-up memory grows by {result['MiB per 1,000 steps']:.4f} MiB per 1,000 steps")
    print("grows: " + "; ".join(grows) if grows else "flat")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(bool(grows))


if __name__ == "__main__":
    sys.exit(main())

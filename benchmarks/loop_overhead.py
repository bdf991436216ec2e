"""What the loop around the compiled step costs: data loading, records, checkpoints; less than 5 % on the digits U-Net.

    python benchmarks/loop_overhead.py

The bare step is the project's own compiled step, called again and again with a batch that is on the device. The loop is
`run.train` on configs/digits.py for 300 steps, by the clock of its records, compilation left out: its share is its time
a step over that of the bare step, less one, of pairs that take turns; a difference of two noisy times, which can be
negative. The parts are measured apart on an idle device, so that nothing is hidden behind the step as it is in the
loop, where batches are gathered and checkpoints written meanwhile: a batch from the loader put on the device; a report
read and a record written, over the steps between two; a checkpoint from the call to its name, digests included, over
the steps between two, and how long the call holds up the loop. Each is the median of several, as a share of the bare
step.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from own_training import shorten, training_rate
from timing import Row, alternate, compare, main, seconds

from configs import digits
from score_jax import data as datasets
from score_jax import training
from score_jax.lab import build, run, watching
from score_jax.lab.experiment import Experiment
from score_jax.training import checkpoint, logging, loop


class Bare:
    """The compiled step by itself; the state goes round."""

    def __init__(self, experiment: Experiment, batches: Any):
        self._step, self._batches = run.train_step(experiment), batches
        self._state = training.place(run.first_state(experiment), experiment.placement)
        self._state, self.report = self._step(self._state, batches)

    def steps(self, n: int) -> Any:
        """Makes dispatches of n steps in all."""
        for _ in range(n // len(self._batches["x"])):
            self._state, self.report = self._step(self._state, self._batches)
        return self._state

    @property
    def state(self) -> training.TrainState:
        """The state now, until the next step."""
        return self._state


def loader_of(experiment: Experiment) -> datasets.Loader:
    """The batches of a training."""
    how = experiment.training
    return datasets.Loader(
        experiment.data.train, batch_size=how.batch_size, steps_per_batch=how.every.dispatch, seed=experiment.seed
    )


def loop_seconds(experiment: Experiment) -> float:
    """Seconds a step of the project's loop."""
    with tempfile.TemporaryDirectory() as folder:
        return experiment.training.batch_size / training_rate(experiment, Path(folder) / "run")


def times(program: Callable[[], Any], n: int) -> float:
    """Returns the median time of n calls, after one that is not counted."""
    program()
    return median(seconds(program) for _ in range(n))


def record_seconds(bare: Bare, experiment: Experiment, folder: Path, n: int) -> float:
    """Seconds of a report that is read, added up and written as a record."""
    logger, steps = logging.open_loggers([], folder, 0), itertools.count(1)
    rates = watching.rates(experiment.training)(experiment.training.every.log)

    def record() -> None:
        report, _ = loop.arrival(bare.report)
        window = loop.Window().add(report)
        logger.write(next(steps), {**window.record(report.level_sigma), **rates})

    found = times(record, n)
    logger.close()
    return found


def checkpoint_seconds(bare: Bare, experiment: Experiment, folder: Path, n: int) -> tuple[float, float]:
    """Seconds from the call to a checkpoint's name, and those for which the call holds up the loop."""
    found = []
    with checkpoint.open_checkpoints(folder, keep_last=2) as manager:
        for step in range(n + 1):
            start = time.perf_counter()
            checkpoint.save_state(manager, step, bare.state, config=experiment.settings, position={"step": step})
            called = time.perf_counter() - start
            manager.wait_until_finished()
            found.append((time.perf_counter() - start, called))
    whole, called = zip(*found[1:], strict=True)  # the first imports
    return median(whole), median(called)


def measure(quick: bool) -> Row:
    """Measures the loop by pairs, then the parts."""
    pairs, n, steps = (1, 3, 20) if quick else (3, 20, 300)
    config = digits.get_config()
    log, saved = config.training.log_every, config.training.checkpoint_every
    shorten(config, steps + min(log, steps // 2), min(log, steps // 2))
    config.training.checkpoint_every = min(saved, steps)
    experiment = build.experiment(config)
    how = experiment.training
    with tempfile.TemporaryDirectory() as name, contextlib.closing(loader_of(experiment)) as loader:
        folder, mesh = Path(name), experiment.placement.mesh
        next_batches = lambda: training.put_batches(loop.for_device(next(loader)), mesh)
        bare = Bare(experiment, next_batches())
        bare_step = lambda: seconds(partial(bare.steps, steps)) / steps
        a_loop, a_step, ratio = compare(*alternate(partial(loop_seconds, experiment), bare_step, pairs))
        loading = times(next_batches, n) / how.every.dispatch
        recording = record_seconds(bare, experiment, folder, n)
        whole, called = checkpoint_seconds(bare, experiment, folder, max(n // 4, 2))
    parts = {
        "bare step": (1, a_step),
        "loop, all in": (1, a_loop),
        "loading": (1, loading),
        "record": (log, recording),
        "checkpoint, call": (saved, called),
        "checkpoint, whole": (saved, whole),
    }
    rows = [_row(part, every, took, a_step) for part, (every, took) in parts.items()]
    rows[1]["share of the bare step"] = ratio - 1
    return {"rows": rows}


def _row(part: str, every: int, took: float, step: float) -> Row:
    share = took / every / step
    return {"part": part, "once in steps": every, "ms": 1000 * took, "share of the bare step": share}


if __name__ == "__main__":
    main(measure, __doc__)

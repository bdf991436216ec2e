"""The training loop: Python over dispatches of k compiled steps, and everything that has to happen in between.

The device is kept busy: a dispatch is launched before the report of the one before it is read, and the next
batches are gathered meanwhile. What needs the state itself (checkpoints, samples, evaluations) happens at the end of a
dispatch, so every interval is a multiple of k.

A run that was stopped at any moment (killed, interrupted, out of power) and started again with the same command goes on
from its last checkpoint and ends with bit-identical parameters, average and metrics: the state holds the key, the
checkpoint holds the data's position and the metrics' partial sums, and later lines of the metrics file are cut off.

SIGTERM and SIGINT end the run after the dispatch in progress, with a checkpoint; a second one ends it at once.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from score_jax.training import checkpoint
from score_jax.training.logging import Logger, LoggerFactory, Record, environment, open_loggers, write_json
from score_jax.training.sharding import put_batches, replicate
from score_jax.training.state import TrainState
from score_jax.training.step import Failure, Report
from score_jax.types import InputError

_log = logging.getLogger(__name__)

_Dispatch = Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, Report]]


class Batches(Protocol):
    """What the loop asks of a data loader (`data.Loader`): endless, with a position that can be saved and restored."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """Returns the batches of one dispatch: "x" `(k, B, ...)` and possibly "label" `(k, B)`."""

    def get_state(self) -> Any:
        """Returns the position, JSON or bytes."""

    def set_state(self, state: Any) -> None:
        """Goes back to a position."""


class TrainingDiverged(InputError):
    """A loss or gradient became infinite or NaN; the message names step, noise level and last good checkpoint."""


class Every(NamedTuple):
    """Something to do every `interval` steps with `(state, step)`; what it returns is logged at that step."""

    interval: int
    call: Callable[[TrainState, int], Record | None]


class Result(NamedTuple):
    """The end of a run: the state, its step, and the signal that stopped it early (None: it made all its steps)."""

    state: TrainState
    step: int
    stopped_by: signal.Signals | None


class Window(NamedTuple):
    """Sums of reports since the last record, in float64: what a checkpoint between two records has to remember."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    level_loss: Any = 0.0
    level_count: Any = 0

    def add(self, report: Report) -> "Window":
        """Returns the window with a dispatch more."""
        return Window(
            self.steps + int(report.steps),
            self.loss + float(report.loss),
            self.grad_norm + float(report.grad_norm),
            self.level_loss + np.asarray(report.level_loss, np.float64),
            self.level_count + np.asarray(report.level_count, np.int64),
        )

    def record(self, sigmas: np.ndarray) -> dict[str, Any]:
        """Returns the means: loss per dimension, gradient norm, and loss at each noise level that occurred."""
        with_count = zip(sigmas, self.level_loss, self.level_count)
        by_sigma = {f"{sigma:.4g}": float(total / n) for sigma, total, n in with_count if n}
        return {"loss": self.loss / self.steps, "grad_norm": self.grad_norm / self.steps, "loss_by_sigma": by_sigma}

    def as_json(self) -> list[Any]:
        """Returns lists and numbers, exactly: JSON keeps float64."""
        return [np.asarray(value).tolist() for value in self]

    @classmethod
    def from_json(cls, values: list[Any]) -> "Window":
        """Returns the window that `as_json` described."""
        steps, loss, grad_norm, level_loss, level_count = values
        return cls(steps, loss, grad_norm, np.asarray(level_loss, np.float64), np.asarray(level_count, np.int64))


def check_intervals(steps_per_dispatch: int, **intervals: int | None) -> None:
    """Checks that every interval is a positive multiple of the steps per dispatch.

    Raises:
      InputError: with the nearest values that are.
    """
    k = steps_per_dispatch
    if k < 1:
        raise InputError(f"steps_per_dispatch must be at least 1, got {k}")
    for name, value in intervals.items():
        if value is not None and (value < 1 or value % k):
            below = value // k * k
            nearest = f"{below} or {below + k}" if below > 0 else f"{k}"
            raise InputError(f"{name} {value} is not a positive multiple of steps_per_dispatch {k}: use {nearest}")


@contextlib.contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT while the context lasts; a second one interrupts."""
    caught: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python allows handlers in the main thread only
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _any_process(flag: bool) -> bool:
    """Whether the flag is set on any host: all have to stop at the same dispatch."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def _diverged(failure: Failure, manager: ocp.CheckpointManager) -> TrainingDiverged:
    manager.wait_until_finished()
    last = manager.latest_step()
    good = (
        "no checkpoint had been written"
        if last is None
        else f"the last good checkpoint is {manager.directory / str(last)}"
    )
    what = (
        f"the loss became {float(failure.loss)}"
        if not np.isfinite(failure.loss)
        else "the gradient became infinite or NaN"
    )
    largest = "" if not np.isfinite(failure.loss) else ", where the loss was largest,"
    return TrainingDiverged(
        f"{what} in step {int(failure.step)} at noise level sigma/alpha = {float(failure.sigma):.4g} "
        f"(t = {float(failure.t):.6g}){largest}: {good}; in a new workdir, try a smaller learning rate, clipping, "
        "or a larger t_min"
    )


class _Launched(NamedTuple):
    """A dispatch whose report has not been read: the step it ends at, the report, and how many examples it takes."""

    step: int
    report: Report
    images: int


class _Book:
    """Reads reports, adds them up, and writes records: the only mutable thing in the loop."""

    def __init__(self, window: Window, logger: Logger, bar: tqdm, manager: ocp.CheckpointManager, log_every: int):
        self.window, self._logger, self._bar, self._manager, self._log_every = window, logger, bar, manager, log_every
        self._since, self._images = time.perf_counter(), 0

    def settle(self, launched: "_Launched") -> dict[str, Any]:
        """Waits for a dispatch; returns the record if one is due at its end.

        Raises:
          TrainingDiverged: if it met a loss or gradient that is not finite.
        """
        report = jax.device_get(launched.report)
        if report.failure.step >= 0:
            raise _diverged(report.failure, self._manager)
        self.window = self.window.add(report)
        self._images += launched.images
        rate = self._images / (time.perf_counter() - self._since)
        self._bar.set_postfix_str(f"loss {report.loss / report.steps:.4f}, {rate:.0f} images/s", refresh=False)
        self._bar.update(launched.step - self._bar.n)
        if launched.step % self._log_every:
            return {}
        record = {**self.window.record(report.level_sigma), "images_per_second": round(rate, 1)}
        self.window, self._since, self._images = Window(), time.perf_counter(), 0
        return record

    def write(self, step: int, record: Record) -> None:
        """Logs a record unless it is empty."""
        if record:
            self._logger.write(step, record)


def train(
    state: TrainState,
    train_step: _Dispatch,
    loader: Batches,
    *,
    workdir: Path | str,
    config: Mapping[str, Any],
    mesh: Mesh,
    steps: int,
    steps_per_dispatch: int,
    log_every: int,
    checkpoint_every: int,
    periodic: Sequence[Every] = (),
    keep_last: int = 3,
    keep_every: int | None = None,
    may_differ: Collection[str] = (),
    loggers: Sequence[LoggerFactory] = (),
    seed: int | None = None,
    progress: bool = True,
) -> Result:
    """Trains until `steps` updates have been made, from the run's last checkpoint if it has one.

    Writes config.json, environment.json, metrics.jsonl and checkpoints/ into `workdir`.

    Args:
      state: of `state.create`: where a run without checkpoints begins.
      train_step: of `step.make_train_step`.
      loader: yields the batches of a dispatch.
      workdir: a new or empty folder, or that of the run to go on with.
      config: of the run, nested mapping that JSON can hold.
      mesh: of `sharding.data_mesh`.
      steps: number of updates in all.
      steps_per_dispatch: k; all intervals and `steps` are multiples of it.
      log_every: steps between records.
      checkpoint_every: steps between checkpoints; there is always one at the end.
      periodic: other things to do.
      keep_last: number of newest checkpoints to keep.
      keep_every: also keep the checkpoints of these steps.
      may_differ: config keys that may differ from the run's (`checkpoint.claim`).
      loggers: besides metrics.jsonl, such as `logging.tensorboard`.
      seed: for environment.json.
      progress: whether to show a bar.

    Raises:
      InputError: of a setting or folder that cannot be used.
      TrainingDiverged: when a loss or gradient is not finite.
    """
    k = steps_per_dispatch
    check_intervals(k, steps=steps, log_every=log_every, checkpoint_every=checkpoint_every, keep_every=keep_every)
    for action in periodic:
        check_intervals(k, **{"an interval of": action.interval})
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(checkpoint.claim(workdir, config, may_differ=may_differ))
        caught = stack.enter_context(_signals())
        manager = checkpoint.open_checkpoints(workdir, keep_last=keep_last, keep_every=keep_every)
        stack.callback(manager.close)
        state, window, start = _resume(manager, replicate(state, mesh), loader, config, may_differ)
        _write_environment(workdir, start, seed)
        logger = open_loggers(loggers, workdir, start)
        stack.callback(logger.close)
        bar = stack.enter_context(
            tqdm(total=steps, initial=start, unit="step", disable=not progress, dynamic_ncols=True)
        )
        book = _Book(window, logger, bar, manager, log_every)
        step, stop = start, bool(caught)
        waiting: _Launched | None = None
        while step < steps and not stop:
            batches = next(loader)
            state, report = train_step(state, put_batches(_for_device(batches), mesh))
            step += k
            if waiting is not None:
                book.write(waiting.step, book.settle(waiting))
            waiting = _Launched(step, report, k * batches["x"].shape[1])
            stop = step == steps or _any_process(bool(caught))
            due = [action for action in periodic if step % action.interval == 0]
            saving = stop or step % checkpoint_every == 0
            if due or saving:
                record = book.settle(waiting)
                waiting = None
                for action in due:
                    record.update(action.call(state, step) or {})
                book.write(step, record)
            if saving:
                position, sums = loader.get_state(), book.window.as_json()
                checkpoint.save(manager, step, state, config=config, position=position, window=sums)
    return Result(state, step, caught[0] if caught else None)


def _for_device(batches: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what the train step doesn't use: it numbers the examples itself."""
    return {name: value for name, value in batches.items() if name in ("x", "label")}


def _resume(
    manager: ocp.CheckpointManager,
    state: TrainState,
    loader: Batches,
    config: Mapping[str, Any],
    may_differ: Collection[str],
) -> tuple[TrainState, Window, int]:
    """Returns the state, sums and step to go on from, with the loader moved there."""
    restored = checkpoint.restore(manager, state, config=config, may_differ=may_differ)
    step = 0 if restored is None else restored.step
    checkpoint.set_aside_after(manager, step)
    if restored is None:
        return state, Window(), 0
    loader.set_state(restored.position)
    _log.info("going on from step %d of %s", step, manager.directory)
    return restored.state, Window.from_json(restored.window), step


def _write_environment(workdir: Path, start: int, seed: int | None) -> None:
    """Writes environment.json; a run that goes on elsewhere adds environment-<step>.json."""
    if jax.process_index():
        return
    path = workdir / "environment.json"
    write_json(path if not path.exists() else workdir / f"environment-{start}.json", environment(seed))

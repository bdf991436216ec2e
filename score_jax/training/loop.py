"""The training loop: Python over dispatches of k compiled steps, and everything that has to happen in between.

The device is kept busy: a dispatch is launched before the report of the one before it is read, and the next
batches are gathered meanwhile. What needs the state itself (checkpoints, samples, evaluations) happens at the end of a
dispatch, so every interval is a multiple of k.

A run that was stopped at any moment (killed, interrupted, out of power) and started again with the same command goes on
from its last checkpoint and ends with bit-identical parameters, average and metrics: the state holds the key, the
checkpoint holds the data's position and the metrics' partial sums, and later lines of the metrics file are cut off.

A run whose loss or gradient becomes infinite or NaN, beyond what its step skips, stops, or goes back: to its last
checkpoint, and on from there with the batches that come after the dispatch that failed. How often depends on the run
alone, and what had been recorded since the checkpoint is removed, so this too is repeated bit for bit.

SIGTERM and SIGINT end the program after the dispatch in progress, with a checkpoint; a second one ends it at once.

    course  ──batches──▶  launch  ──report, state──▶  course  ──batches──▶  …

What a run does in between is its `course`, a generator that asks for dispatches and knows nothing of who makes them:
`train` makes those of one run, `together.train_together` those of several in one program.
"""

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from score_jax.devices import sizes
from score_jax.training import checkpoint, hosts, saving, signals
from score_jax.training.logging import (
    Logger,
    LoggerFactory,
    Record,
    environment,
    last_environment,
    open_loggers,
    rounded_otherwise,
    write_json,
)
from score_jax.training.progress import Progress
from score_jax.training.sharding import Placement, described, place, put_batches
from score_jax.training.state import TrainState
from score_jax.training.step import Failure, Report
from score_jax.types import InputError

_log = logging.getLogger(__name__)

_ADVICE = "in a new workdir, try a smaller learning rate, clipping, or a larger t_min"

_Step = Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, Report]]


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


class Seen(NamedTuple):
    """What is to be logged at a step: numbers by name, and pictures, PNG files, by name."""

    numbers: Record
    pictures: Mapping[str, Path] = MappingProxyType({})


class Every(NamedTuple):
    """Something to do every `interval` steps with `(state, step)`; what it returns, if anything, is logged there."""

    interval: int
    call: Callable[[TrainState, int], Seen | None]


class Result(NamedTuple):
    """The end of a run: the state and its step."""

    state: TrainState
    step: int


class Window(NamedTuple):
    """Sums of reports since the last record, in float64: what a checkpoint between two records has to remember."""

    steps: int = 0
    skipped: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    level_loss: Any = 0.0
    level_count: Any = 0

    def add(self, report: Report) -> "Window":
        """Returns the window with a dispatch more."""
        return Window(
            self.steps + int(report.steps),
            self.skipped + int(report.skipped),
            self.loss + float(report.loss),
            self.grad_norm + float(report.grad_norm),
            self.level_loss + np.asarray(report.level_loss, np.float64),
            self.level_count + np.asarray(report.level_count, np.int64),
        )

    def record(self, sigmas: np.ndarray) -> dict[str, Any]:
        """Returns the means: loss per dimension, gradient norm, and loss at each noise level that occurred.

        And how many steps were skipped, if any were; of a window of these alone, nothing else.
        """
        skipped = {"skipped": self.skipped} if self.skipped else {}
        if not self.steps:
            return skipped
        with_count = zip(sigmas, self.level_loss, self.level_count)
        by_sigma = {f"{sigma:.4g}": float(total / n) for sigma, total, n in with_count if n}
        means = {"loss": self.loss / self.steps, "grad_norm": self.grad_norm / self.steps}
        return {**means, "loss_by_sigma": by_sigma, **skipped}

    @property
    def mean_loss(self) -> float:
        """The mean loss; NaN where all steps were skipped."""
        return self.loss / self.steps if self.steps else math.nan

    def as_json(self) -> list[Any]:
        """Returns lists and numbers, exactly: JSON keeps float64."""
        return [np.asarray(value).tolist() for value in self]

    @classmethod
    def from_json(cls, values: list[Any]) -> "Window":
        """Returns the window that `as_json` described."""
        steps, skipped, loss, grad_norm, level_loss, level_count = values
        by_level = np.asarray(level_loss, np.float64), np.asarray(level_count, np.int64)
        return cls(steps, skipped, loss, grad_norm, *by_level)


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


def _met(failure: Failure, batch: np.ndarray) -> str:
    """Says what a step met, whose stored examples are `batch`: where, and whether it is their fault."""
    finite = np.isfinite(failure.loss)
    what = "the gradient became infinite or NaN" if finite else f"the loss became {float(failure.loss)}"
    data = "" if np.isfinite(batch).all() else ", whose batch holds NaN or infinite values,"
    largest = ", where the loss was largest" if finite else ""
    return (
        f"{what} in step {int(failure.step)}{data} at noise level sigma/alpha = {float(failure.sigma):.4g} "
        f"(t = {float(failure.t):.6g}){largest}"
    )


class _NotFinite(Exception):
    """A dispatch met a loss or gradient that is not finite, and training stopped there.

    Args:
      met: what it met, in words.
      step: at which the dispatch would have ended.
      position: of the data behind it, where the run may go back.
    """

    def __init__(self, met: str, step: int, position: Any):
        super().__init__(met)
        self.met, self.step, self.position = met, step, position


class Asked(NamedTuple):
    """A dispatch that a run asks for: its batches, `(k, B, ...)`, and what gives the state that it begins with.

    `afresh`: whether this is another state than the one after its last dispatch.
    """

    batches: Mapping[str, np.ndarray]
    state: Callable[[], TrainState]
    afresh: bool


class Arrival(NamedTuple):
    """A report, as numbers of the host, and when it came: the clock in seconds."""

    report: Report
    at: float


def arrival(report: Report) -> Arrival:
    """Waits for a report of the device."""
    return Arrival(jax.device_get(report), time.perf_counter())


class Launched(NamedTuple):
    """A dispatch in progress: what waits for its report, and what gives the state after it.

    The state can be had until the next dispatch is launched.
    """

    report: Callable[[], Arrival]
    state: Callable[[], TrainState]


# None asks for nothing but to be gone on with, after others: a last checkpoint is being written meanwhile.
Course: TypeAlias = Generator[Asked | None, Launched | None, Result]
Launch: TypeAlias = Callable[[Mapping[int, Asked]], Mapping[int, Launched]]


class _Start(NamedTuple):
    """Where a run goes on from: the state, the sums of the record in progress, the step, and the state's `undone`."""

    state: TrainState
    window: Window
    step: int
    undone: int


class _Waiting(NamedTuple):
    """A dispatch whose report has not been read: the step it ends at, its report, its batches `(k, B, ...)`.

    `position`: of the data behind it, where the run may go back.
    """

    step: int
    report: Callable[[], Arrival]
    x: np.ndarray
    position: Any


class _Reports:
    """Reads reports, adds them up, and writes records: the only mutable thing in the loop."""

    def __init__(
        self,
        start: _Start,
        logger: Logger,
        progress: Progress,
        saved: saving.Saving,
        log_every: int,
        rates: Callable[[int], Record],
    ):
        self.window, self._logger, self._progress, self._saved = start.window, logger, progress, saved
        self._log_every, self._rates = log_every, rates
        self._undone = start.undone
        self._since, self._examples = time.perf_counter(), 0

    def read_report(self, waiting: _Waiting) -> dict[str, Any]:
        """Waits for a dispatch; returns the record if one is due at its end.

        Raises:
          _NotFinite: if it met a loss or gradient that is not finite, and didn't skip it.
        """
        report, now = waiting.report()
        if report.stopped or (report.skipped and not self.window.skipped):
            self._tell_of(report, waiting)
        self.window = self.window.add(report)
        self._examples += waiting.x.shape[0] * waiting.x.shape[1] * jax.process_count()
        rate = self._examples / (now - self._since)
        self._progress.dispatched(waiting.step, Window().add(report).mean_loss, rate)
        if waiting.step % self._log_every:
            return {}
        left = self._progress.recorded(waiting.step, self.window.mean_loss, rate)
        speed = {"examples_per_second": round(rate, 1), "seconds_left": round(left, 1)}
        undone = {"undone": self._undone} if self._undone else {}
        means = self.window.record(np.asarray(report.level_sigma))
        record = {**means, **undone, **self._rates(waiting.step), **speed}
        self.window, self._since, self._examples = Window(), now, 0
        return record

    def _tell_of(self, report: Report, waiting: _Waiting) -> None:
        """Warns of the first step that is skipped in a record's window, or raises where training stopped."""
        met = _met(report.failure, waiting.x[int(report.failure.step) - waiting.step + len(waiting.x)])
        if not report.stopped:
            _log.warning("%s: skipped; records say how many are", met)
            return
        in_a_row = f", the last of {int(report.stopped)} such steps in a row" if report.stopped > 1 else ""
        raise _NotFinite(met + in_a_row, waiting.step, waiting.position)

    def write_record(self, step: int, record: Record, pictures: Mapping[str, Path] | None = None) -> None:
        """Logs a record unless it is empty, and pictures."""
        if not record and not pictures:
            return
        try:
            self._saved.check_folder()
            if record:
                self._logger.write(step, record)
            for name, path in (pictures or {}).items():
                self._logger.picture(step, name, path)
        except OSError as error:
            self._saved.failed(f"the record of step {step}", error)


def train(state: TrainState, train_step: _Step, loader: Batches, *, placement: Placement, **told: Any) -> Result:
    """Trains until `steps` updates have been made, from the run's last checkpoint if it has one.

    Writes config.json, environment.json, metrics.jsonl and checkpoints/ into `workdir`.

    Args:
      state: of `state.create`: where a run without checkpoints begins.
      train_step: of `step.make_train_step`.
      loader: yields the batches of a dispatch.
      placement: of `sharding.make_placement`.
      told: further arguments of `course`: `workdir`, `config`, `steps`, …

    Raises:
      InputError: of a setting or folder that cannot be used.
      TrainingDiverged: when a loss or gradient is not finite, and it is neither skipped nor gone back from.
      saving.NotWritten: when a checkpoint or record could not be written.
      KeyboardInterrupt: after the last checkpoint, of SIGINT; at once of a second one.
      SystemExit: with code 143, of SIGTERM likewise.
    """

    def launch(asked: Mapping[int, Asked]) -> dict[int, Launched]:
        (only,) = asked.values()
        state, report = train_step(only.state(), put_batches(only.batches, placement.mesh))
        return {0: Launched(partial(arrival, report), lambda: state)}

    with signals.noted() as caught:
        (result,) = drive([course(state, loader, placement=placement, caught=caught, **told)], launch)
        if isinstance(result, Exception):
            raise result
    signals.end_if_any(caught, result.step)  # one may have come during the last checkpoint
    return result


def drive(courses: Sequence[Course], launch: Launch) -> list[Result | Exception]:
    """Takes runs to their ends, a dispatch of each at a time; returns the result of each, or what it raised.

    Args:
      courses: of the runs.
      launch: starts the dispatches that are asked for, by the place of the run. What it raises, all of these raise.
    """
    found: dict[int, Result | Exception] = {}

    def go_on(place: int, call: Callable[..., Asked | None], *sent: Any) -> Asked | None:
        try:
            return call(*sent)
        except StopIteration as end:
            found[place] = end.value
        except Exception as error:  # this run's: the others go on
            found[place] = error
        return None

    with contextlib.ExitStack() as stack:
        for one in courses:
            stack.enter_context(contextlib.closing(one))
        sent: dict[int, Launched | None] = dict.fromkeys(range(len(courses)))
        while sent:
            answers = {place: go_on(place, courses[place].send, launched) for place, launched in sent.items()}
            asked = {place: answer for place, answer in answers.items() if answer is not None}
            sent = {place: None for place in answers if place not in asked and place not in found}
            try:
                sent.update(launch(asked) if asked else {})
            except Exception as error:
                for place in asked:
                    go_on(place, courses[place].throw, error)
    return [found[place] for place in range(len(courses))]


def course(
    state: TrainState,
    loader: Batches,
    *,
    placement: Placement,
    caught: Sequence[Any],
    workdir: Path | str,
    config: Mapping[str, Any],
    steps: int,
    steps_per_dispatch: int,
    log_every: int,
    checkpoint_every: int,
    periodic: Sequence[Every] = (),
    rates: Callable[[int], Record] = lambda step: {},
    keep_last: int = 3,
    keep_every: int | None = None,
    may_differ: Collection[str] = (),
    on_save_error: str = "stop",
    loggers: Sequence[LoggerFactory] = (),
    seed: int | None = None,
    progress: bool = True,
    rollbacks: int = 0,
) -> Course:
    """Yields what is to be launched of a run until it has made `steps` updates, and does all that is between.

    Args:
      state: where a run without checkpoints begins.
      loader: yields the batches of a dispatch.
      placement: of `sharding.make_placement`.
      caught: of `signals.noted`, which is for a whole process.
      workdir: a new or empty folder, or that of the run to go on with.
      config: of the run, nested mapping that JSON can hold.
      steps: number of updates in all.
      steps_per_dispatch: k; all intervals and `steps` are multiples of it.
      log_every: steps between records.
      checkpoint_every: steps between checkpoints; there is always one at the end.
      periodic: other things to do.
      rates: step -> what its record has beside the means: the learning rate of its last update, say.
      keep_last: number of newest checkpoints to keep.
      keep_every: also keep the checkpoints of these steps.
      may_differ: config keys that may differ from the run's (`checkpoint.claim`).
      on_save_error: "stop", or "continue", when a checkpoint or record cannot be written.
      loggers: besides metrics.jsonl, such as `logging.tensorboard`.
      seed: for environment.json.
      progress: whether to show it: a bar, or where there is no terminal a line every `log_every` steps.
      rollbacks: how often it goes back to the same checkpoint when a loss or gradient is not finite, before it stops.
        Beyond 0 there is a checkpoint of step 0 as well. Those that are gone back to are of multiples of
        `checkpoint_every`, so that one that a signal left changes nothing.

    Raises:
      InputError, TrainingDiverged, saving.NotWritten: see `train`.
    """
    k = steps_per_dispatch
    check_intervals(k, steps=steps, log_every=log_every, checkpoint_every=checkpoint_every, keep_every=keep_every)
    for action in periodic:
        check_intervals(k, **{"an interval of": action.interval})
    if on_save_error not in saving.ON_ERROR:
        raise InputError(f"on_save_error is one of {', '.join(saving.ON_ERROR)}, got {on_save_error!r}")
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(checkpoint.claim(workdir, config, may_differ=may_differ))
        start = _resume(workdir, state, placement, loader, config, may_differ)
        if start.step:
            check_intervals(k, **{"the checkpoint's step": start.step})
        manager = checkpoint.open_checkpoints(workdir, keep_last=keep_last, keep_every=keep_every)
        saved = stack.enter_context(saving.opened(manager, config, on_save_error))
        _write_environment(workdir, start.step, seed, placement)
        if rollbacks and not hosts.told_by_first(lambda: checkpoint.steps(workdir)):
            saved.save(0, start.state, loader.get_state(), start.window.as_json())
        undoing = _Undoing(rollbacks, saved, start.state, placement, loader, checkpoint_every)
        while True:
            with contextlib.ExitStack() as shown:
                logger = open_loggers(loggers, workdir, start.step)
                shown.callback(logger.close)
                bar = Progress(start.step, steps, shown=progress and hosts.is_first())
                shown.callback(bar.close)
                reports = _Reports(start, logger, bar, saved, log_every, rates)
                every = _Plan(k, steps, checkpoint_every, periodic, rollbacks > 0)
                try:
                    return (yield from _go_on(start, loader, reports, saved, every, caught))
                except _NotFinite as error:
                    failed = error.met, error.step, error.position  # and not its frames, which hold a state
            start = undoing.go_back(start.undone, *failed)


class _Plan(NamedTuple):
    """What is to be done when: see `course`; `may_undo`: whether positions of the data are kept for going back."""

    steps_per_dispatch: int
    steps: int
    checkpoint_every: int
    periodic: Sequence[Every]
    may_undo: bool


def _go_on(
    start: _Start, loader: Batches, reports: _Reports, saved: saving.Saving, plan: _Plan, caught: Sequence[Any]
) -> Course:
    """Yields what is to be launched from `start` to the end, or to where a signal stops it.

    Raises:
      _NotFinite: of a dispatch that stopped.
    """
    step, stop = start.step, bool(signals.agreed(caught))
    state, latest, afresh = start.state, lambda: start.state, True
    waiting: _Waiting | None = None
    while step < plan.steps and not stop:
        batches = next(loader)
        position = loader.get_state() if plan.may_undo else None
        launched = yield Asked(for_device(batches), latest, afresh)
        assert launched is not None
        latest, afresh, step = launched.state, False, step + plan.steps_per_dispatch
        if waiting is not None:
            reports.write_record(waiting.step, reports.read_report(waiting))
        waiting = _Waiting(step, launched.report, batches["x"], position)
        saved.check()
        stop = step == plan.steps or bool(signals.agreed(caught))
        due = [action for action in plan.periodic if step % action.interval == 0]
        saving_now = stop or step % plan.checkpoint_every == 0
        if due or saving_now:
            record = reports.read_report(waiting)
            waiting = None
            state = latest()
            pictures: dict[str, Path] = {}
            for action in due if due and saved.is_there(f"what is due at step {step}") else ():
                if (seen := action.call(state, step)) is not None:
                    record.update(seen.numbers)
                    pictures.update(seen.pictures)
            reports.write_record(step, record, pictures)
        if saving_now:
            saved.save(step, state, loader.get_state(), reports.window.as_json())
    yield None
    return Result(state, step)


class _Undoing:
    """Goes back to checkpoints, at most so often to the same: a run that is repeated from it counts from 0 again."""

    def __init__(
        self, most: int, saved: saving.Saving, state: TrainState, placement: Placement, loader: Batches, every: int
    ):
        self._most, self._saved, self._loader, self._every = most, saved, loader, every
        self._placement, self._like = placement, described(jax.eval_shape(lambda: state), placement)
        self._times: Counter[int] = Counter()

    def go_back(self, undone: int, met: str, step: int, position: Any) -> _Start:
        """Returns where to go on from: the last checkpoint, but with the batches that come at `position`.

        Args:
          undone: steps that had been undone before.
          met: why, in words.
          step: at which the dispatch that failed would have ended.
          position: of the data behind it.

        Raises:
          TrainingDiverged: if that has been done too often.
        """
        self._saved.wait()
        if not self._most:
            raise TrainingDiverged(f"{met}: {self._saved.last_good()}; {_ADVICE}, or see training.on_nan")
        restored = self._saved.restore(self._like, every=self._every)
        self._times[restored.step] += 1
        if (times := self._times[restored.step]) > self._most:
            last = f"{self._saved.last_good()}, which it has gone back to {self._most} times"
            raise TrainingDiverged(f"{met}: {last}; {_ADVICE}")
        then = "back to the checkpoint of step %d, and on with other batches (%d of at most %d times)"
        _log.warning(f"%s: {then}", met, restored.step, times, self._most)
        self._loader.set_state(position)
        undone += step - restored.step
        here = place(np.int32(undone), self._placement)
        return _Start(replace(restored.state, undone=here), Window.from_json(restored.window), restored.step, undone)


def for_device(batches: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what the train step doesn't use: it numbers the examples itself."""
    return {name: value for name, value in batches.items() if name in ("x", "label")}


def _resume(
    workdir: Path,
    state: TrainState,
    placement: Placement,
    loader: Batches,
    config: Mapping[str, Any],
    may_differ: Collection[str],
) -> _Start:
    """Returns where to go on from, with the loader moved there."""
    if not hosts.told_by_first(lambda: checkpoint.steps(workdir)):
        return _Start(place(state, placement), Window(), 0, 0)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        restored = checkpoint.restore_state(manager, described(state, placement), config=config, may_differ=may_differ)
    assert restored is not None  # it names what is damaged, where nothing is whole
    checkpoint.set_aside_after(workdir, restored.step)
    loader.set_state(restored.position)
    _log.info("going on from step %d of %s", restored.step, workdir)
    window, undone = Window.from_json(restored.window), int(restored.state.undone)
    return _Start(restored.state, window, restored.step, undone)


def _write_environment(workdir: Path, start: int, seed: int | None, placement: Placement) -> None:
    """Writes environment.json; a run that goes on adds environment-<step>.json, and what rounds otherwise is named."""
    if hosts.is_first():
        told = {**environment(seed), "mesh": sizes(placement.mesh)}
        changed = rounded_otherwise(last_environment(workdir, start), told) if start else []
        if changed:
            _log.warning("going on from step %d with %s: not bit for bit as without", start, "; ".join(changed))
        write_json(workdir / (f"environment-{start}.json" if start else "environment.json"), told)

"""Losses and gradients that are not finite: skipped, gone back from, or the end; by the network, or by the data."""

import functools
import os
import re
import signal
from dataclasses import replace
from functools import partial

import chex
import jax
import numpy as np
import pytest

from score_jax.lab.build.training import on_nan
from score_jax.losses import times
from score_jax.training import (
    Every,
    Recipe,
    TrainingDiverged,
    checkpoint,
    ema_decay,
    loop,
    make_joint_step,
    make_train_step,
    place,
    put_batches,
    train,
    train_together,
)
from score_jax.training.logging import read_jsonl
from score_jax.types import InputError
from tests.helpers import compiled
from tests.training import tiny

_SKIPS = 2
_HOW = {"log_every": 10, "checkpoint_every": 15, "progress": False, "config": tiny.CONFIG}
_HOW |= {"steps": 40, "steps_per_dispatch": tiny.K}


@functools.lru_cache
def _skipping_step():
    how = {"times": times.uniform(), "placement": tiny.placement(), "decay": ema_decay(0.9), "skips": _SKIPS}
    return make_train_step(tiny.model(), tiny.objective, tiny.chain(), **how)


class _Bad(tiny.Batches):
    """Example 2 of some steps (from 0, as the loader counts) has this number in it."""

    def __init__(self, steps, number=tiny.FATAL):
        super().__init__()
        self.steps, self.bad = steps, number

    def __next__(self):
        first, batches = self.number * self.k, super().__next__()
        for step in self.steps:
            if first <= step < first + self.k:
                batches["x"][step - first, 2, 0] = self.bad
        return batches


def _dispatch(step, bad, state=None):
    state = place(tiny.state(), tiny.placement()) if state is None else state
    state, report = step(state, put_batches({"x": next(_Bad(bad))["x"]}, tiny.mesh()))
    return state, jax.device_get(report)


def _numbers(state):
    return jax.device_get(replace(state, key=jax.random.key_data(state.key)))


def test_a_skipped_step_moves_the_step_alone():
    """Steps 3 and 4 of a dispatch are bad: what is left is the state after three updates, at step 5."""
    state, report = _dispatch(_skipping_step(), [3, 4])
    stopped, _ = _dispatch(tiny.step(), [3, 4])
    chex.assert_trees_all_equal(_numbers(stopped).params, _numbers(state).params)
    chex.assert_trees_all_equal(_numbers(stopped).opt_state, _numbers(state).opt_state)
    chex.assert_trees_all_equal(_numbers(stopped).ema, _numbers(state).ema)
    assert (int(stopped.step), int(state.step), int(state.failures)) == (3, 5, 2)
    assert (report.steps, report.skipped, report.stopped, report.failure.step) == (3, 2, 0, 3)
    assert report.level_count.sum() == 3 * tiny.BATCH and np.isfinite(report.level_loss).all()


def test_so_many_steps_in_a_row_are_skipped_and_no_more():
    state, report = _dispatch(_skipping_step(), [0, 1, 3, 4])
    assert (report.skipped, report.stopped, int(state.failures)) == (4, 0, 2)
    before = _numbers(state)
    state, report = _dispatch(_skipping_step(), [0, 1], state)  # the row goes on in the next dispatch
    assert (report.steps, report.skipped, report.stopped, report.failure.step) == (0, 0, 3, 5)
    state, report = _dispatch(_skipping_step(), [], state)
    assert (report.steps, report.stopped, report.failure.step) == (0, 3, 5)
    chex.assert_trees_all_equal(replace(_numbers(state), failures=before.failures), before)


def _run(workdir, bad, *, step=tiny.step, number=tiny.FATAL, **changes):
    loader = changes.pop("loader", None) or _Bad(bad, number)
    return train(tiny.state(), step(), loader, workdir=workdir, placement=tiny.placement(), **_HOW | changes)


def _records(workdir):
    return tiny.without_speed(read_jsonl(workdir / "metrics.jsonl"))


def _assert_same(result, workdir, whole, of):
    chex.assert_trees_all_equal(_numbers(result.state), _numbers(whole.state))
    assert _records(workdir) == _records(of) and result.step == whole.step


@pytest.mark.parametrize(
    ("number", "data"), [(tiny.FATAL, ""), (np.nan, ", whose batch holds NaN or infinite values,")]
)
def test_skipped_steps_are_a_warning_and_a_number_of_the_record(tmp_path, caplog, number, data):
    whole = _run(tmp_path / "whole", [12, 14, 33], step=_skipping_step, number=number)
    warned = [record.getMessage() for record in caplog.records]
    where = r"at noise level sigma/alpha = [\d.]+ \(t = [\d.]+\)"
    for line, step in zip(warned, (12, 33), strict=True):  # one a record
        assert re.fullmatch(
            rf"the loss became nan in step {step}{data} {where}: skipped; records say how many are", line
        )
    assert [record.get("skipped", 0) for record in _records(tmp_path / "whole")] == [0, 2, 0, 1]
    assert whole.step == 40 and int(whole.state.step) == 40
    chex.assert_tree_all_finite((whole.state.params, whole.state.ema))
    _run(tmp_path / "run", [12, 14, 33], step=_skipping_step, number=number, steps=15)  # between two skipped steps
    again = _run(tmp_path / "run", [12, 14, 33], step=_skipping_step, number=number)
    _assert_same(again, tmp_path / "run", whole, tmp_path / "whole")


def test_a_record_of_skipped_steps_alone_has_no_loss(tmp_path):
    bad = [step for step in range(10) if step != 9]
    with pytest.raises(
        TrainingDiverged, match=r"nan in step 2 at noise .*, the last of 3 such steps in a row: no check"
    ):
        _run(tmp_path / "stopped", bad, step=_skipping_step)
    window = loop.Window(skipped=10)
    assert window.record(np.ones(1)) == {"skipped": 10} and np.isnan(window.mean_loss)
    assert loop.Window.from_json(window.as_json()) == window


@pytest.mark.parametrize(
    ("number", "data"), [(tiny.FATAL, ""), (np.nan, ", whose batch holds NaN or infinite values,")]
)
def test_it_stops_with_one_line_that_says_whether_it_is_the_data(tmp_path, number, data):
    with pytest.raises(TrainingDiverged) as error:
        _run(tmp_path / "run", [7], number=number)
    where = r"at noise level sigma/alpha = [\d.]+ \(t = [\d.]+\)"
    then = "in a new workdir, try a smaller learning rate, clipping, or a larger t_min, or see training.on_nan"
    said = rf"the loss became nan in step 7{data} {where}: no checkpoint had been written; {then}"
    assert re.fullmatch(said, str(error.value))


@pytest.fixture(scope="module")
def gone_back(tmp_path_factory):
    """A run that meets a bad example in steps 21 and, when it has gone back to 15 and passed that over, 41."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return _run(workdir, [21, 41], rollbacks=2), workdir


def test_going_back_is_a_run_from_the_checkpoint_with_the_batches_behind_the_failure(tmp_path, gone_back):
    """Steps 15 … 24 are undone, then those from 30, whose batches were 40 … 44: what is left is known by hand."""
    whole, workdir = gone_back
    parts = [(range(3), 0), (range(5, 8), 10), (range(9, 11), 15)]  # hand-outs of 5 batches, and steps undone before
    state = place(tiny.state(), tiny.placement())
    for numbers, undone in parts:
        state = replace(state, undone=place(np.int32(undone), tiny.placement()))
        for number in numbers:
            loader = tiny.Batches()
            loader.number = number
            state, _ = tiny.step()(state, put_batches({"x": next(loader)["x"]}, tiny.mesh()))
    chex.assert_trees_all_equal(_numbers(whole.state), _numbers(state))
    assert [record["step"] for record in _records(workdir)] == [10, 20, 30, 40]
    assert [record.get("undone", 0) for record in _records(workdir)] == [0, 10, 10, 15]
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        assert checkpoint.restore_state(manager, tiny.state()).position == {"number": 11}


def test_going_back_compiles_nothing_and_says_a_line_each_time(tmp_path, gone_back, caplog):
    with compiled() as names:
        again = _run(tmp_path / "run", [21, 41], rollbacks=2)
    assert "jit(dispatch)" not in names
    _assert_same(again, tmp_path / "run", *gone_back)
    back = "back to the checkpoint of step {}, and on with other batches (1 of at most 2 times)"
    for record, step, to in zip(caplog.records, (21, 31), (15, 30), strict=True):
        line = record.getMessage()
        assert line.startswith(f"the loss became nan in step {step} at noise level") and line.endswith(back.format(to))


class _Dies(_Bad):
    """Fails where a process could die: before the hand-out of this number."""

    def __init__(self, steps, at):
        super().__init__(steps)
        self.at = at

    def __next__(self):
        if self.number == self.at:
            raise RuntimeError("the power went out")
        return super().__next__()


@pytest.mark.parametrize("at", [6, 9])  # 6: gone back to 15, and no checkpoint since; 9: at 30, before the next failure
def test_a_run_that_died_after_going_back_ends_the_same(tmp_path, gone_back, at):
    with pytest.raises(RuntimeError, match="power"):
        _run(tmp_path / "run", [], rollbacks=2, loader=_Dies([21, 41], at))
    again = _run(tmp_path / "run", [21, 41], rollbacks=2)
    _assert_same(again, tmp_path / "run", *gone_back)


def test_the_checkpoint_of_a_signal_changes_nothing(tmp_path, gone_back):
    """It is at 20, nearer to the failure than 15, to which the undisturbed run goes back."""
    call = lambda state, step: os.kill(os.getpid(), signal.SIGTERM) if step == 15 else None
    with pytest.raises(SystemExit, match="stopped by SIGTERM at step 20"):
        _run(tmp_path / "run", [21, 41], rollbacks=2, periodic=[Every(5, call)])
    again = _run(tmp_path / "run", [21, 41], rollbacks=2)
    _assert_same(again, tmp_path / "run", *gone_back)
    assert (tmp_path / "run" / "damaged" / "20").is_dir()


def test_it_goes_back_to_the_start_and_stops_when_it_has_so_often(tmp_path):
    workdir = tmp_path / "run"
    for _ in range(2):  # started again it does the same
        with pytest.raises(TrainingDiverged) as error:
            _run(workdir, range(8, 100), rollbacks=2)
        last = f"the last good checkpoint is {workdir / 'checkpoints' / '0'}, which it has gone back to 2 times"
        assert "nan in step 0 " in str(error.value) and last in str(error.value)
        assert checkpoint.steps(workdir) == [0] and _records(workdir) == []


@pytest.mark.parametrize(
    ("skips", "rollbacks", "step", "counted"),
    [(0, 2, tiny.step, {"undone": 15}), (_SKIPS, 0, _skipping_step, {"skipped": 2})],
)
def test_runs_in_one_program_skip_or_go_back_each_by_itself(tmp_path, skips, rollbacks, step, counted):
    recipe = Recipe(tiny.model(), tiny.objective, tiny.chain(), times.uniform(), decay=ema_decay(0.9), skips=skips)
    folders, bad = [tmp_path / name for name in ("bad", "good")], [21, 41 if rollbacks else 23]
    loaders = [_Bad(bad), tiny.Batches()]
    courses = [
        partial(loop.course, tiny.state(), one, workdir=to, **_HOW | {"rollbacks": rollbacks})
        for one, to in zip(loaders, folders, strict=True)
    ]
    results = train_together(
        courses, make_joint_step(lambda numbers: recipe, mesh=tiny.mesh()), [{}] * 2, placement=tiny.placement()
    )
    # One program for two runs adds up in another order than that for one: by 1e-7 a step, over 40.
    close = partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-6)
    for found, folder, steps, told in zip(results, folders, (bad, []), (counted, {}), strict=True):
        alone = _run(tmp_path / f"{folder.name}-alone", steps, step=step, rollbacks=rollbacks)
        close(_numbers(found.state).params, _numbers(alone.state).params)
        whole = [
            {name: record[name] for name in ("skipped", "undone") if name in record} for record in _records(folder)
        ]
        assert {name: max(record.get(name, 0) for record in whole) for one in whole for name in one} == told


def test_the_setting_is_two_numbers_of_which_one_counts():
    assert [on_nan(name, 3) for name in ("stop", "skip", "roll_back")] == [(0, 0), (3, 0), (0, 3)]
    with pytest.raises(
        InputError, match=r"training.on_nan 'ignore' does not exist: choose one of stop, skip, roll_back"
    ):
        on_nan("ignore", 3)

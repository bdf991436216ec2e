import contextlib
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from score_jax.losses import times
from score_jax.training import (
    Every,
    Recipe,
    TrainingDiverged,
    checkpoint,
    logging,
    loop,
    make_joint_step,
    place,
    put_batches,
    signals,
    train_together,
)
from score_jax.training.loop import Seen, check_intervals
from score_jax.types import InputError
from tests.training import tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import kills


def _saved(workdir):
    """The state of the newest checkpoint, as numpy arrays."""
    manager = checkpoint.open_checkpoints(workdir, read_only=True)
    read = checkpoint.restore_state(manager, tiny.state())
    manager.close()
    state = read.state.replace(key=jax.random.key_data(read.state.key))
    return read.step, jax.device_get(state), read.position


def _metrics(workdir):
    return tiny.without_speed(logging.read_jsonl(Path(workdir) / "metrics.jsonl"))


def _assert_same_run(a, b):
    (step_a, state_a, position_a), (step_b, state_b, position_b) = _saved(a), _saved(b)
    assert (step_a, position_a) == (step_b, position_b)
    chex.assert_trees_all_equal(state_a, state_b)  # bit for bit
    assert _metrics(a) == _metrics(b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    tiny.run(workdir)
    return workdir


def test_run_folder_holds_config_environment_metrics_and_checkpoints(uninterrupted):
    assert json.loads((uninterrupted / "config.json").read_text()) == tiny.CONFIG
    environment = json.loads((uninterrupted / "environment.json").read_text())
    assert environment["backend"] == "cpu" and environment["mesh"] == {"data": 1, "fsdp": 1}
    metrics = _metrics(uninterrupted)
    assert [record["step"] for record in metrics] == [10, 20, 30, 40]
    assert all(np.isfinite(record["loss"]) for record in metrics)
    assert _saved(uninterrupted)[0] == 40


def test_record_is_the_mean_over_its_window(uninterrupted):
    metrics = _metrics(uninterrupted)
    by_sigma = metrics[0]["loss_by_sigma"]
    assert min(map(float, by_sigma)) > 0.1 and max(map(float, by_sigma)) < 10.0
    # The same ten steps by hand, dispatch by dispatch.
    state, loader, total = place(tiny.state(), tiny.placement()), tiny.Batches(), 0.0
    for _ in range(2):
        state, report = tiny.step()(state, put_batches({"x": next(loader)["x"]}, tiny.mesh()))
        total += float(report.loss)
    assert metrics[0]["loss"] == total / 10


def _signal_at(step, *numbers):
    """Raises signals while that step is finished off."""

    def call(state, now):
        for number in numbers if now == step else ():
            os.kill(os.getpid(), number)

    return Every(tiny.K, call)


@contextlib.contextmanager
def _ends_by(number, *, at=None):
    """Expects what ends a program as the signal would; it says where a run stopped, but nothing of a second signal."""
    said = f"stopped by {number.name} at step {at}; the same command goes on from there"
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
        yield
    assert str(ended.value) == ("" if at is None else said)
    assert getattr(ended.value, "code", 130) == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_script_after_a_checkpoint_from_which_it_goes_on_bit_identically(
    tmp_path, uninterrupted, number
):
    before = signal.getsignal(number)
    with _ends_by(number, at=25):
        tiny.run(tmp_path / "run", periodic=[_signal_at(20, number)])
    # Raised while step 20 is finished off, so seen after the next dispatch; 25 is in the middle of a window of 10.
    assert _saved(tmp_path / "run")[0] == 25
    assert signal.getsignal(number) == before
    tiny.run(tmp_path / "run")
    _assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_script_at_once_as_itself(tmp_path, first, second):
    before = [signal.getsignal(number) for number in (first, second)]
    with _ends_by(second):
        tiny.run(tmp_path / "run", periodic=[_signal_at(10, first, second)])
    assert checkpoint.steps(tmp_path / "run") == []
    assert [signal.getsignal(number) for number in (first, second)] == before


class _Signals(tiny.Batches):
    """Raises SIGTERM when it is moved to its position, or in its first batch."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def __next__(self):
        self._signal("first step")
        return super().__next__()

    def set_state(self, state):
        self._signal("restoring")
        super().set_state(state)

    def get_state(self):
        self._signal("last checkpoint")
        return super().get_state()

    def _signal(self, when):
        if self.when == when:
            self.when = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("when", "before", "steps", "at"),
    [("restoring", 10, 40, 10), ("first step", 0, 40, 5), ("last checkpoint", 0, 10, 10)],
)
def test_signal_is_not_lost_whenever_it_comes(tmp_path, when, before, steps, at):
    if before:
        tiny.run(tmp_path / "run", before)
    with _ends_by(signal.SIGTERM, at=at):
        tiny.run(tmp_path / "run", steps, loader=_Signals(when))
    assert _saved(tmp_path / "run")[0] == at


def test_signal_before_the_first_step_leaves_a_folder_that_any_config_can_have(tmp_path):
    raised = lambda workdir, start: os.kill(os.getpid(), signal.SIGINT) or logging.combine([])
    with _ends_by(signal.SIGINT, at=0):
        tiny.run(tmp_path / "run", loggers=[raised])
    assert tiny.run(tmp_path / "run", 10, config={"other": 1}).step == 10


def test_ignored_signal_stays_ignored_and_a_handler_of_the_callers_is_called_after_the_checkpoint(tmp_path):
    before, seen = signal.getsignal(signal.SIGINT), []
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert tiny.run(tmp_path / "ignored", 20, periodic=[_signal_at(10, signal.SIGINT)]).step == 20
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(checkpoint.steps(tmp_path / "own")))
        with _ends_by(signal.SIGINT, at=15):
            tiny.run(tmp_path / "own", 20, periodic=[_signal_at(10, signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [[15]]


def test_an_error_after_a_signal_ends_the_program_all_the_same():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT, after: it diverged"), signals.noted():
        signal.raise_signal(signal.SIGINT)
        raise InputError("it diverged")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_between_two_dispatches_is_refused_rather_than_its_end_passed_by(tmp_path):
    k = tiny.K
    tiny.run(tmp_path, 2 * k, log_every=k, checkpoint_every=k)
    every = {"steps_per_dispatch": 3 * k, "log_every": 3 * k, "checkpoint_every": 3 * k}
    options = {"workdir": tmp_path, "placement": tiny.placement(), "config": tiny.CONFIG, "progress": False}
    with pytest.raises(InputError, match=f"the checkpoint's step {2 * k} is not a positive multiple of .* {3 * k}"):
        tiny.train(tiny.state(), tiny.step(), tiny.Batches(0.0), steps=6 * k, **every, **options)


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    before, steps = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: steps.append(tiny.run(tmp_path / "run", 10).step))
    thread.start()
    assert signal.getsignal(signal.SIGINT) == before
    thread.join()
    assert steps == [10]


def test_all_processes_stop_for_the_signal_of_one(monkeypatch):
    monkeypatch.setattr(signals.hosts, "any_of", lambda number: number or signal.SIGTERM)
    with _ends_by(signal.SIGTERM, at=30):
        signals.end_if_any([], 30)


@pytest.mark.parametrize("failure", ["diverged", "no logger", "signal"])
def test_start_that_failed_before_a_checkpoint_leaves_nothing_of_itself(tmp_path, failure):
    workdir, other = tmp_path / "run", tiny.CONFIG | {"network": {"width": 9}}
    changes = {
        "diverged": {"loader": _Fatal()},
        "no logger": {"loggers": [logging.wandb("project")]},
        "signal": {"periodic": [_signal_at(10, signal.SIGTERM, signal.SIGTERM)]},
    }[failure]
    with pytest.raises((InputError, SystemExit)):
        tiny.run(workdir, 60, checkpoint_every=60, config=other, seed=1, **changes)
    tiny.run(workdir, 10, seed=2)
    assert checkpoint.read_config(workdir) == tiny.CONFIG
    assert [record["step"] for record in _metrics(workdir)] == [10]
    assert json.loads((workdir / "environment.json").read_text())["seed"] == 2
    assert {f.name for f in workdir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "environment.json", "metrics.jsonl",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"network\.width: 8 → 9"):  # from its first checkpoint on
        tiny.run(workdir, 20, config=other)


def test_finished_run_is_left_as_it_is_and_can_be_lengthened(tmp_path, uninterrupted):
    tiny.run(tmp_path / "run", 20)
    assert tiny.run(tmp_path / "run", 20).step == 20
    tiny.run(tmp_path / "run", 40)
    _assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.usefixtures("abandoned_reads")
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, uninterrupted, caplog):
    tiny.run(tmp_path / "run", 40)
    (tmp_path / "run" / "checkpoints" / "40" / "run" / "metadata").write_text("{")
    tiny.run(tmp_path / "run", 40)
    assert "checkpoints/40" in caplog.text and (tmp_path / "run" / "damaged" / "40").is_dir()
    _assert_same_run(tmp_path / "run", uninterrupted)


def test_run_that_goes_on_with_other_versions_or_options_says_so(tmp_path, caplog):
    tiny.run(tmp_path / "run", 20)
    tiny.run(tmp_path / "run", 40)
    assert "not bit for bit" not in caplog.text
    written = tmp_path / "run" / "environment-20.json"
    told = json.loads(written.read_text())
    now = told["packages"]["jaxlib"], told["settings"].get("XLA_FLAGS") or "none"
    told["packages"]["jaxlib"], told["settings"]["XLA_FLAGS"] = "0.0", "--xla_one=1"
    written.write_text(json.dumps(told))
    tiny.run(tmp_path / "run", 60)
    assert f"step 40 with jaxlib {now[0]}, was 0.0; XLA_FLAGS {now[1]}, was --xla_one=1: not bit for bit" in caplog.text
    (tmp_path / "run" / "environment-40.json").write_text("{")
    tiny.run(tmp_path / "run", 80)  # what can't be read is not compared with


def _start(workdir, *seconds):
    """Starts the run as a program of its own."""
    command = [sys.executable, "-m", "tests.training.tiny", str(workdir), "40", *map(str, seconds)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=os.environ | cache)


def test_killed_run_goes_on_bit_identically(tmp_path, uninterrupted):
    """In short what benchmarks/kills.py does: killed at a random moment, then while a checkpoint is being written."""
    workdir, rng, rows = tmp_path / "killed", random.Random(), []
    for kill in (kills.Kill(rng.uniform(0, 4), False, (0,)), kills.Kill(0, True, (0,))):
        process = _start(workdir, 0.15)
        rows.append(kills.strike([process], workdir, kill, rng))
        assert process.wait() == (0 if rows[-1] is None else -signal.SIGKILL), rows
    assert _start(workdir).wait() == 0
    assert _saved(workdir)[0] == 40, rows
    _assert_same_run(workdir, uninterrupted)


class _Fatal(tiny.Batches):
    """Plants a fatal example, number 2, in step 33 (from 0)."""

    def __next__(self):
        batches = super().__next__()
        if self.number == 7:
            batches["x"][3, 2, 0] = tiny.FATAL
        return batches


def test_divergence_names_step_noise_level_and_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingDiverged) as error:
        tiny.run(tmp_path / "run", 60, loader=_Fatal())
    t = tiny.times_of(33)[2]
    message = str(error.value)
    assert f"nan in step 33 at noise level sigma/alpha = {tiny.SDE.sigma(t):.4g} (t = {t:.6g})" in message
    assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '30'}" in message
    step, state, _ = _saved(tmp_path / "run")
    assert step == 30
    chex.assert_tree_all_finite(state.params)
    assert [record["step"] for record in _metrics(tmp_path / "run")] == [10, 20, 30]


def test_periodic_results_join_the_record_of_their_step(tmp_path):
    calls = []

    def evaluate(state, step):
        calls.append(int(state.step))
        return Seen({"held_out": float(step)})

    tiny.run(tmp_path / "run", 30, periodic=[Every(15, evaluate)])
    assert calls == [15, 30]
    metrics = {record["step"]: record for record in _metrics(tmp_path / "run")}
    assert metrics[15] == {"step": 15, "held_out": 15.0}
    assert metrics[30]["held_out"] == 30.0 and "loss" in metrics[30]


def test_other_config_and_foreign_folder_are_refused_before_anything_is_done(tmp_path, uninterrupted):
    before = sorted(uninterrupted.rglob("*"))
    with pytest.raises(InputError, match=r"network\.width: 8 → 16"):
        tiny.run(uninterrupted, config={**tiny.CONFIG, "network": {"width": 16}})
    assert sorted(uninterrupted.rglob("*")) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt but no config\.json"):
        tiny.run(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("value", "advice"), [(12, "use 10 or 15"), (3, "use 5"), (0, "use 5")])
def test_interval_that_is_no_multiple_names_the_nearest(value, advice):
    with pytest.raises(InputError, match=f"log_every {value} is not a positive multiple .* 5: {advice}"):
        check_intervals(5, log_every=value, checkpoint_every=10)


def test_progress_is_a_bar_on_a_terminal_and_a_line_a_record_elsewhere(tmp_path, capsys, monkeypatch):
    tiny.run(tmp_path / "run", 20, progress=True)
    lines = capsys.readouterr().err.splitlines()
    loss = [f"{record['loss']:.4f}" for record in _metrics(tmp_path / "run")]
    for line, step, mean in zip(lines, (10, 20), loss, strict=True):
        assert re.fullmatch(rf"step {step}/20, loss {mean}, \d+ examples/s, \d\d:\d\d left", line)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tiny.run(tmp_path / "terminal", 20, progress=True)
    shown = capsys.readouterr().err
    assert "\r" in shown and "20/20" in shown and "loss " in shown and "examples/s" in shown and "left" not in shown


def test_both_loggers_are_given_the_records(tmp_path):
    seen = []
    collect = lambda workdir, start: logging.Logger(lambda step, record: seen.append(step), lambda: seen.append("end"))
    tiny.run(tmp_path / "run", 20, loggers=[collect])
    assert seen == [10, 20, "end"]


def test_settings_are_checked_before_the_folder_is_made(tmp_path):
    with pytest.raises(InputError, match="steps 42"):
        tiny.run(tmp_path / "run", 42)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("runs", [1, 2])
def test_the_speed_is_that_of_the_reports_as_they_come(tmp_path, monkeypatch, runs):
    """By a clock that goes on by 2 s for every report that is waited for, also where the last two are read at once."""
    clock, whole = [0.0], loop.arrival

    def arrival(report):
        clock[0] += 2
        return whole(report)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for module in (loop, importlib.import_module("score_jax.training.together")):
        monkeypatch.setattr(module, "arrival", arrival)
    told = {"config": tiny.CONFIG, "progress": False, "steps": 4 * tiny.K, "steps_per_dispatch": tiny.K}
    told |= {"log_every": tiny.K, "checkpoint_every": 4 * tiny.K}
    folders = [tmp_path / str(i) for i in range(runs)]
    if runs == 1:
        tiny.train(tiny.state(), tiny.step(), tiny.Batches(), workdir=folders[0], placement=tiny.placement(), **told)
    else:
        recipe = lambda numbers: Recipe(tiny.model(), tiny.objective, tiny.chain(), times=times.uniform())
        courses = [partial(loop.course, tiny.state(), tiny.Batches(), workdir=folder, **told) for folder in folders]
        train_together(courses, make_joint_step(recipe, mesh=tiny.mesh()), [{}] * runs, placement=tiny.placement())
    for folder in folders:
        records = logging.read_jsonl(folder / "metrics.jsonl")
        assert [record["examples_per_second"] for record in records] == 4 * [tiny.K * tiny.BATCH / 2]

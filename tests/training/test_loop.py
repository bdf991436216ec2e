import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from score_jax.training import Every, TrainingDiverged, checkpoint, logging, put_batches, replicate
from score_jax.training.loop import check_intervals
from score_jax.types import InputError
from tests.training import tiny


def _saved(workdir):
    """The state of the newest checkpoint, as numpy arrays."""
    manager = checkpoint.open_checkpoints(workdir, read_only=True)
    read = checkpoint.restore(manager, tiny.state())
    manager.close()
    state = read.state.replace(key=jax.random.key_data(read.state.key))
    return read.step, jax.device_get(state), read.position


def _metrics(workdir):
    records = logging.read_jsonl(Path(workdir) / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name != "examples_per_second"} for record in records]


def _assert_same_run(a, b):
    (step_a, state_a, position_a), (step_b, state_b, position_b) = _saved(a), _saved(b)
    assert (step_a, position_a) == (step_b, position_b)
    jax.tree.map(np.testing.assert_array_equal, state_a, state_b)  # bit for bit
    assert _metrics(a) == _metrics(b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    assert tiny.run(workdir).stopped_by is None
    return workdir


def test_run_folder_holds_config_environment_metrics_and_checkpoints(uninterrupted):
    assert json.loads((uninterrupted / "config.json").read_text()) == tiny.CONFIG
    assert json.loads((uninterrupted / "environment.json").read_text())["backend"] == "cpu"
    metrics = _metrics(uninterrupted)
    assert [record["step"] for record in metrics] == [10, 20, 30, 40]
    assert all(np.isfinite(record["loss"]) for record in metrics)
    assert _saved(uninterrupted)[0] == 40


def test_record_is_the_mean_over_its_window(uninterrupted):
    metrics = _metrics(uninterrupted)
    by_sigma = metrics[0]["loss_by_sigma"]
    assert min(map(float, by_sigma)) > 0.1 and max(map(float, by_sigma)) < 10.0
    # The same ten steps by hand, dispatch by dispatch.
    state, loader, total = replicate(tiny.state(), tiny.mesh()), tiny.Batches(), 0.0
    for _ in range(2):
        state, report = tiny.step()(state, put_batches({"x": next(loader)["x"]}, tiny.mesh()))
        total += float(report.loss)
    assert metrics[0]["loss"] == total / 10


def _signal_at(step, number):
    return Every(tiny.K, lambda state, now: os.kill(os.getpid(), number) if now == step else None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_with_a_checkpoint_from_which_it_goes_on_bit_identically(tmp_path, uninterrupted, number):
    before = signal.getsignal(number)
    result = tiny.run(tmp_path / "run", periodic=[_signal_at(20, number)])
    # Raised while step 20 is finished off, so seen after the next dispatch; 25 is in the middle of a window of 10.
    assert (result.stopped_by, result.step, _saved(tmp_path / "run")[0]) == (number, 25, 25)
    assert signal.getsignal(number) == before
    assert tiny.run(tmp_path / "run").stopped_by is None
    _assert_same_run(tmp_path / "run", uninterrupted)


def test_second_signal_interrupts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path / "run", periodic=[_signal_at(10, signal.SIGINT), _signal_at(10, signal.SIGINT)])


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


def _start(workdir, *seconds):
    """Starts the run as a program of its own."""
    command = [sys.executable, "-m", "tests.training.tiny", str(workdir), "40", *map(str, seconds)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=os.environ | cache, stderr=subprocess.PIPE)


def _wait_for_step(process, workdir, step):
    path = workdir / "metrics.jsonl"
    for _ in range(3000):
        assert process.poll() is None, process.stderr.read().decode()
        if path.exists() and any(record["step"] >= step for record in logging.read_jsonl(path)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no record of step {step} after 30 s")


def test_killed_run_goes_on_bit_identically(tmp_path, uninterrupted):
    workdir = tmp_path / "killed"
    first = _start(workdir, 0.15)
    _wait_for_step(first, workdir, 20)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert _saved(workdir)[0] < 40  # it was in the middle
    assert _start(workdir).wait() == 0
    assert _saved(workdir)[0] == 40
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
    assert step == 30 and all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert [record["step"] for record in _metrics(tmp_path / "run")] == [10, 20, 30]


def test_periodic_results_join_the_record_of_their_step(tmp_path):
    calls = []

    def evaluate(state, step):
        calls.append(int(state.step))
        return {"held_out": float(step)}

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


def test_progress_shows_loss_rate_and_time_left(tmp_path, capfd):
    tiny.run(tmp_path / "run", 20, progress=True)
    shown = capfd.readouterr().err
    assert "20/20" in shown and "loss " in shown and "images/s" in shown


def test_both_loggers_are_given_the_records(tmp_path):
    seen = []
    collect = lambda workdir, start: logging.Logger(lambda step, record: seen.append(step), lambda: seen.append("end"))  # noqa: E731
    tiny.run(tmp_path / "run", 20, loggers=[collect])
    assert seen == [10, 20, "end"]


def test_settings_are_checked_before_the_folder_is_made(tmp_path):
    with pytest.raises(InputError, match="steps 42"):
        tiny.run(tmp_path / "run", 42)
    assert not (tmp_path / "run").exists()

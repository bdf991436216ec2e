"""What cannot be written: by the kernel's limit on file sizes, which fails in Orbax's threads as a full disk does."""

import contextlib
import os
import re
import resource
import shutil
import signal
import time
import types

import chex
import numpy as np
import pytest

from score_jax import data
from score_jax.data import npy
from score_jax.training import Every, checkpoint, digests, logging, saving
from score_jax.types import InputError
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("abandoned_reads")  # and the writes beside one that failed


@contextlib.contextmanager
def _files_limited_to(size):
    """No file of this process grows beyond `size` bytes: a write fails half way, with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _too_full_at(monkeypatch, *steps):
    """The checkpoints of these steps cannot be written."""
    save_state = checkpoint.save_state

    def limited(manager, step, *args, **options):
        with _files_limited_to(1000) if step in steps else contextlib.nullcontext():
            save_state(manager, step, *args, **options)
            while manager.is_saving_in_progress():
                time.sleep(0.001)

    monkeypatch.setattr(checkpoint, "save_state", limited)


def _records(workdir):
    return tiny.without_speed(logging.read_jsonl(workdir / "metrics.jsonl"))


def _assert_same(workdir, result, whole):
    assert _records(workdir) == _records(whole.workdir)
    for part in ("params", "ema", "opt_state"):
        chex.assert_trees_all_equal(getattr(result.state, part), getattr(whole.state, part))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run to which nothing happened."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return types.SimpleNamespace(workdir=workdir, state=tiny.run(workdir).state)


def _could_not(what, reason, last, then):
    good = rf"the last good checkpoint is .*/checkpoints/{last}" if last else "no checkpoint had been written"
    return rf"{what} could not be written \({reason}\): {good}; {then}"


_NO_FILE = "No such file or directory"
_STOP, _CONTINUE = "mend that and start the same command again", "training goes on"


def test_full_disk_stops_the_run_with_one_line_and_it_goes_on_bit_identically(
    tmp_path, whole, monkeypatch, caplog, capfd
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(saving.NotWritten) as error:
        _too_full_at(patch, 30)
        tiny.run(workdir)
    assert re.fullmatch(_could_not("the checkpoint of step 30", "File too large", 15, _STOP), str(error.value))
    assert caplog.text == "" and capfd.readouterr().err == ""  # nothing of Orbax's either
    assert checkpoint.steps(workdir) == [15]
    _assert_same(workdir, tiny.run(workdir), whole)
    assert {f.name for f in (workdir / "checkpoints").iterdir()} == {"15", "30", "40"}


def test_full_disk_is_a_warning_where_training_is_to_go_on(tmp_path, whole, monkeypatch, caplog):
    _too_full_at(monkeypatch, 15, 40)
    result = tiny.run(tmp_path / "run", on_save_error="continue")
    found = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(_could_not("the checkpoint of step 15", "File too large", None, _CONTINUE), found[0])
    assert re.fullmatch(_could_not("the checkpoint of step 40", "File too large", 30, _CONTINUE), found[1])
    assert len(found) == 2 and checkpoint.steps(tmp_path / "run") == [30]
    _assert_same(tmp_path / "run", result, whole)
    monkeypatch.undo()
    _assert_same(tmp_path / "run", tiny.run(tmp_path / "run"), whole)


def test_checkpoint_for_which_there_is_no_room_is_not_begun(tmp_path, monkeypatch):
    room = lambda path: types.SimpleNamespace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", room)
    monkeypatch.setattr(checkpoint, "save_state", lambda *args, **options: pytest.fail("begun"))
    what = _could_not("the checkpoint of step 15", "No space left on device", None, _STOP)
    with pytest.raises(saving.NotWritten, match=what):
        tiny.run(tmp_path / "run")


@pytest.mark.parametrize("on_save_error", saving.ON_ERROR)
def test_record_that_cannot_be_written_leaves_no_half_of_itself(tmp_path, whole, caplog, on_save_error):
    workdir, stack = tmp_path / "run", contextlib.ExitStack()

    def fill(state, step):
        if step == 20:  # its record is written after this, and no checkpoint meanwhile
            stack.enter_context(_files_limited_to((workdir / "metrics.jsonl").stat().st_size + 10))
        stack.close() if step == 25 else None

    options = {"periodic": [Every(tiny.K, fill)], "checkpoint_every": 30, "on_save_error": on_save_error}
    stopping = on_save_error == "stop"
    with stack, pytest.raises(saving.NotWritten) if stopping else contextlib.nullcontext() as error:
        tiny.run(workdir, **options)
    said = str(error.value) if stopping else caplog.messages[0]
    what = _could_not("the record of step 20", "File too large", None, _STOP if stopping else _CONTINUE)
    assert re.fullmatch(what, said)
    assert [record["step"] for record in _records(workdir)] == ([10] if stopping else [10, 30, 40])
    assert (workdir / "metrics.jsonl").read_text().endswith("}\n")
    _assert_same(workdir, tiny.run(workdir), whole) if stopping else None


@pytest.mark.parametrize(("size", "name"), [(50, "config.json"), (200, "environment.json")])
def test_start_that_cannot_write_is_one_line_and_can_be_repeated(tmp_path, size, name):
    with _files_limited_to(size), pytest.raises(InputError) as error:
        tiny.run(tmp_path / "run", 10)
    assert str(error.value) == f"{tmp_path / 'run' / name} cannot be written (File too large)"
    assert not [f for f in (tmp_path / "run").iterdir() if f.name.startswith(".") and f.name != ".lock"]
    assert tiny.run(tmp_path / "run", 10, config={"other": 1}).step == 10


def test_data_that_vanish_in_mid_training_are_one_line_and_the_run_goes_on_when_they_are_back(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "_IN_MEMORY", 0)  # read row by row, as large files are
    file, away, workdir = tmp_path / "x.npy", tmp_path / "away.npy", tmp_path / "run"
    np.save(file, np.random.default_rng(0).normal(size=(64, tiny.DIMS)).astype(np.float32))
    loader = lambda: data.Loader(data.array_file(file), batch_size=tiny.BATCH, steps_per_batch=tiny.K)
    vanish = Every(20, lambda state, step: file.rename(away) and None)
    whole = tiny.run(tmp_path / "whole", loader=loader())
    with pytest.raises(InputError) as error:
        tiny.run(workdir, loader=loader(), periodic=[vanish])
    assert str(error.value) == f"{file}: cannot be read ({_NO_FILE})"
    away.rename(file)
    result = tiny.run(workdir, loader=loader())
    _assert_same(workdir, result, types.SimpleNamespace(workdir=tmp_path / "whole", state=whole.state))


def _moved(workdir):
    workdir.rename(workdir.with_name("elsewhere"))


def _replaced(workdir):
    shutil.rmtree(workdir)
    workdir.mkdir()


def _replaced_by_another_run(workdir):
    _replaced(workdir)
    (workdir / "config.json").write_text("{}")
    os.utime(workdir / "config.json", (1e9, 1e9))


def _of_the_run(workdir):
    return sorted(path.name for path in workdir.rglob("*")) if workdir.exists() else None


@pytest.mark.parametrize("how", [shutil.rmtree, _moved, _replaced])
@pytest.mark.parametrize(("what", "step", "log_every"), [("record", 10, 10), ("checkpoint", 15, 40)])
def test_a_run_folder_that_is_gone_is_said_at_the_next_write_and_not_made_anew(tmp_path, how, what, step, log_every):
    workdir = tmp_path / "run"

    class Removing(tiny.Batches):
        def __next__(self):
            how(workdir) if self.number * self.k == step - self.k else None
            return super().__next__()

    with pytest.raises(saving.NotWritten) as error:
        tiny.run(workdir, loader=Removing(), log_every=log_every)
    gone = f"{workdir} was removed, moved or replaced, and the checkpoints with it"
    assert str(error.value) == f"the {what} of step {step} could not be written ({_NO_FILE}): {gone}; {_STOP}"
    assert _of_the_run(workdir) == ([] if how is _replaced else None)
    assert tiny.run(workdir, 10).step == 10  # the same command begins anew


def _mounted_anew(workdir):
    """The same files under other inodes."""
    shutil.copytree(workdir, workdir.with_name("copy"))
    shutil.rmtree(workdir)
    workdir.with_name("copy").rename(workdir)


def _not_reached(workdir):
    """For a moment; as a file system over a network may be."""
    (workdir / "config.json").rename(workdir / "kept")
    (workdir / "config.json").symlink_to("config.json")  # ELOOP


@pytest.mark.parametrize(("how", "end"), [(_mounted_anew, 40), (_not_reached, 40), (_replaced_by_another_run, 20)])
def test_a_run_folder_is_known_by_when_it_was_begun(tmp_path, how, end):
    workdir = tmp_path / "run"

    def change(state, step):
        while any((workdir / "checkpoints").glob("*tmp*")):
            time.sleep(0.001)
        how(workdir) if step == 20 else None

    call = Every(20, change)
    with pytest.raises(saving.NotWritten, match="replaced") if end == 20 else contextlib.nullcontext():
        tiny.run(workdir, 40, periodic=[call])
    assert max(checkpoint.steps(workdir), default=20) == end


def test_a_run_folder_removed_while_a_checkpoint_is_written_into_it_is_said(tmp_path, monkeypatch):
    workdir, write = tmp_path / "run", digests.write_digests
    monkeypatch.setattr(digests, "write_digests", lambda folder: (shutil.rmtree(workdir), write(folder)))
    with pytest.raises(saving.NotWritten) as error:
        tiny.run(workdir)
    gone = f"{workdir} was removed, moved or replaced, and the checkpoints with it"
    assert str(error.value) == f"the checkpoint of step 15 could not be written ({_NO_FILE}): {gone}; {_STOP}"
    assert not workdir.exists()


def test_pictures_are_not_drawn_into_a_folder_that_is_gone(tmp_path, caplog):
    """Where training is to go on, each thing that cannot be written is a line."""
    workdir, drawn = tmp_path / "run", []
    remove = Every(5, lambda state, step: shutil.rmtree(workdir) if step == 5 else None)
    draw = Every(20, lambda state, step: drawn.append(step))
    assert tiny.run(workdir, 20, periodic=[remove, draw], on_save_error="continue").step == 20
    assert not workdir.exists() and drawn == []
    said = [message.split(" could not")[0] for message in caplog.messages]
    due = [f"what is due at step {step}" for step in (10, 15, 20)]
    records = [f"the {what}" for what in ("record of step 10", "checkpoint of step 15", "record of step 20")]
    assert said == [due[0], records[0], due[1], records[1], due[2], records[2], "the checkpoint of step 20"]


class _Failing(tiny.Batches):
    def __next__(self):
        if self.number == 4:
            raise RuntimeError("the power went out")
        return super().__next__()


@pytest.mark.parametrize("slow", [False, True])
def test_error_while_a_checkpoint_is_being_written_waits_for_it(tmp_path, whole, monkeypatch, slow):
    write = digests.write_digests
    monkeypatch.setattr(digests, "write_digests", lambda folder: (time.sleep(0.3 * slow), write(folder)))
    with pytest.raises(RuntimeError, match="power"):
        tiny.run(tmp_path / "run", loader=_Failing(), checkpoint_every=20)
    assert checkpoint.steps(tmp_path / "run") == [20]
    _assert_same(tmp_path / "run", tiny.run(tmp_path / "run", checkpoint_every=20), whole)


def test_error_comes_before_that_of_a_checkpoint_that_could_not_be_written(tmp_path, monkeypatch, caplog):
    _too_full_at(monkeypatch, 20)
    with pytest.raises(RuntimeError, match="power"):
        tiny.run(tmp_path / "run", loader=_Failing(), checkpoint_every=20)
    assert re.fullmatch(_could_not("the checkpoint of step 20", "File too large", None, _STOP), caplog.messages[0])


def test_second_signal_does_not_wait_for_a_checkpoint_that_is_being_written(tmp_path, monkeypatch):
    written = []

    def slow(folder):
        time.sleep(0.5)
        written.append(folder)

    monkeypatch.setattr(digests, "write_digests", slow)
    interrupt = Every(20, lambda state, step: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] and None)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path / "run", periodic=[interrupt])
    assert not written
    while not written:
        time.sleep(0.01)


def test_setting_that_does_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(InputError, match="on_save_error is one of stop, continue, got 'never'"):
        tiny.run(tmp_path / "run", on_save_error="never")
    assert not (tmp_path / "run").exists()

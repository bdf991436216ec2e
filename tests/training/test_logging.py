import json
import sys
import types
from importlib import metadata

import numpy as np
import pytest

from score_jax.training import logging
from score_jax.types import InputError


def _steps(workdir):
    return [record["step"] for record in logging.read_jsonl(workdir / "metrics.jsonl")]


def _log(workdir, start, steps):
    logger = logging.jsonl(workdir, start)
    for step in steps:
        logger.write(step, {"loss": np.float32(0.5), "loss_by_sigma": {"0.1": np.float64(2)}})
    logger.close()


def test_records_behind_the_resumed_step_are_cut_off(tmp_path):
    _log(tmp_path, 0, [10, 20, 30])
    _log(tmp_path, 20, [30, 40])
    assert _steps(tmp_path) == [10, 20, 30, 40]
    assert logging.read_jsonl(tmp_path / "metrics.jsonl")[0] == {"step": 10, "loss": 0.5, "loss_by_sigma": {"0.1": 2.0}}


@pytest.mark.parametrize("tail", ['{"step": 30, "lo', '{"step": 30}'])
def test_line_cut_off_by_a_kill_is_dropped(tmp_path, tail):
    _log(tmp_path, 0, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    _log(tmp_path, 20, [30])
    assert _steps(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize(
    "line",
    ["3", "[1]", '{"loss": 1.0}', '{"step": "15"}', '{"step": NaN}', '{"step": true}', "null", "\0\0", "[" * 100_000],
)
def test_line_that_is_no_record_is_left_out_and_the_file_kept(tmp_path, caplog, line):
    _log(tmp_path, 0, [10, 20, 30])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    spoilt = "".join([lines[0], line, "\n", *lines[1:]])
    path.write_text(spoilt)
    assert _steps(tmp_path) == [10, 20, 30]
    _log(tmp_path, 20, [30, 40])
    assert _steps(tmp_path) == [10, 20, 30, 40] and path.read_text().startswith("".join(lines[:2]))
    assert (tmp_path / "damaged" / "metrics-20.jsonl").read_text() == spoilt
    assert f"line 2 of {path} is no record and left out" in caplog.text


def test_run_that_starts_anew_leaves_no_old_records(tmp_path):
    _log(tmp_path, 0, [10, 20])
    _log(tmp_path, 0, [10])
    assert _steps(tmp_path) == [10]


def test_json_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    logging.write_json(path, {"a": 1})

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logging.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            logging.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_tensorboard_gets_every_scalar(tmp_path, monkeypatch):
    written = []
    fake = types.SimpleNamespace(
        SummaryWriter=lambda folder, purge_step: types.SimpleNamespace(
            add_scalar=lambda *args: written.append(args), close=lambda: written.append(purge_step)
        )
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    logger = logging.tensorboard(tmp_path, 20)
    logger.write(30, {"loss": np.float32(0.5), "loss_by_sigma": {"0.1": 2.0}, "note": "text"})
    logger.close()
    assert written == [("loss", 0.5, 30), ("loss_by_sigma/0.1", 2.0, 30), 21]


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    seen, logged = [], []

    def init(**settings):
        seen.append(settings)
        return types.SimpleNamespace(id="abc", log=lambda r, step: logged.append((step, r)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for start in (0, 20):
        logger = logging.wandb("project", {"a": 1})(tmp_path, start)
        logger.write(start + 10, {"loss": 1.0})
        logger.close()
    assert [settings["id"] for settings in seen] == [None, "abc"]
    assert logged == [(10, {"loss": 1.0}), (30, {"loss": 1.0})]


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"two words", b"x" * 1000])
def test_an_odd_id_of_a_wandb_run_is_one_line(tmp_path, monkeypatch, content):
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace())
    (tmp_path / "wandb_run.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"wandb_run\.txt should hold the id of a Weights & Biases run"):
        logging.wandb("project")(tmp_path, 20)


@pytest.mark.parametrize(("package", "factory"), [("tensorboardX", logging.tensorboard), ("wandb", logging.wandb("p"))])
def test_asking_for_a_logger_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch, package, factory):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'score-jax\["):
        factory(tmp_path, 0)


@pytest.mark.parametrize(
    ("tracked", "changes", "expected"),
    [("logging.py", "", "1a2b"), ("logging.py", "+x", "1a2b+changes-04a6fb16"), ("", "", "score-jax ")],
)
def test_the_code_that_runs_has_a_name_also_where_it_was_edited_or_installed(monkeypatch, tracked, changes, expected):
    said = {"ls-files": tracked, "rev-parse": "1a2b", "diff": changes}
    monkeypatch.setattr(logging, "_git", lambda *command: said[command[0]])
    found = logging.revision.__wrapped__()
    assert found == expected or (not tracked and found == expected + metadata.version("score-jax"))


def test_environment_is_json_and_names_versions_devices_and_seed():
    environment = json.loads(json.dumps(logging.environment(seed=3)))
    assert environment["seed"] == 3 and len(environment["devices"]) == 8 and environment["backend"] == "cpu"
    assert environment["packages"]["jax"] == sys.modules["jax"].__version__
    assert environment["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")


def test_the_environment_of_a_state_is_that_of_the_part_before_it(tmp_path):
    """Of a run that went on from steps 20 and 40: what it went on with from 40 made none of the state at 40."""
    assert logging.last_environment(tmp_path, 40) == {}
    for name, step in (("environment", 0), ("environment-20", 20), ("environment-40", 40)):
        (tmp_path / f"{name}.json").write_text(f'{{"seed": {step}}}')
    assert [logging.last_environment(tmp_path, start)["seed"] for start in (20, 40, 60)] == [0, 20, 40]

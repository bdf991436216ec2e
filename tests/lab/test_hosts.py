"""The commands in several processes: the files and numbers of one, printed once; what differs is refused in a line."""

import json
import re
import signal

import numpy as np
import pytest

from score_jax.lab import command as lab_command
from score_jax.lab import joining
from score_jax.training import checkpoint, peers
from score_jax.types import InputError
from tests.training import joined

TINY = {
    "data.n": 512,
    "data.name": "eight_gaussians",
    "evaluation.likelihood_n": 6,
    "evaluation.n": 20,
    "mesh.min_size": 0,
    "network.mlp.hidden": "(8,8)",
    "network.name": "mlp",
    "sampler.batch_size": 12,
    "sampler.n": 20,
    "sampler.name": "ddim",
    "sampler.steps": 4,
    "training.batch_size": 16,
    "training.checkpoint_every": 10,
    "training.evaluate_every": 20,
    "training.log_every": 10,
    "training.steps": 20,
    "training.steps_per_dispatch": 5,
}
SETTINGS = [f"--config.{key}={value}" for key, value in TINY.items()]


def started(name, *flags, n, devices=1, each=None):
    """Starts a command in n processes; the flags of each are followed by its own."""
    told = joined.flags(n, joined.free_port()) if n > 1 else [[]]
    commands = [
        [f"score_jax.lab.{name}", *map(str, flags), *more, *where] for more, where in zip(each or [[]] * n, told)
    ]
    return joined.Processes(commands, devices)


def command(name, *flags, n=1, **how):
    """Runs a command in n processes; how each ended."""
    return started(name, *flags, n=n, **how).ended()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "checkpoints" not in path.parts)


class Ended(Exception):
    """How a process ended: what the others are told, if anything, and its code."""


class Peer:
    """A process among others that ends by raising."""

    def __init__(self, cluster, join_timeout):
        del cluster, join_timeout

    def listen(self):
        """Nobody says anything."""

    def fail(self, error, line, code, shown=None):
        raise Ended(line, code)

    def leave(self, code):
        raise Ended(None, code)


@pytest.mark.parametrize(("cause", "told"), [(InputError("the disk is full"), "the disk is full"), (None, None)])
def test_an_error_after_a_signal_is_told_to_the_others(monkeypatch, capsys, cause, told):
    """Else they would wait for this process in a sum: a signal alone they have too, and end with it."""
    monkeypatch.setattr(peers, "_Peer", Peer)
    monkeypatch.setattr(peers.hosts, "join", lambda cluster, *, join_timeout: None)

    def call():
        ending = SystemExit("stopped by SIGTERM")
        ending.code, ending.__cause__ = 143, cause
        lab_command._end(ending)

    with pytest.raises(Ended) as ended:
        peers.run_joined(call, peers.Cluster(), join_timeout=1)
    assert ended.value.args == (told, 143) and capsys.readouterr().out == "stopped by SIGTERM\n"


@pytest.mark.slow
def test_commands_in_two_processes_make_the_files_and_numbers_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = command("train", f"--workdir={one}", *SETTINGS)
    first, second = command("train", f"--workdir={two}", *SETTINGS, n=2, devices=2)
    assert [alone.code, first.code, second.code] == [0, 0, 0], first.err + second.err
    told = alone.out.replace(str(one), str(two)).replace("device_count=1", "device_count=2")  # in XLA_FLAGS
    assert first.out == told and (second.out, second.err) == ("", "")
    assert files(two) == files(one)
    last = lambda folder: json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(last(two)["loss"], last(one)["loss"], rtol=1e-4)
    held_out = [[*last(folder)["held_out_loss_by_sigma"].values()] for folder in (one, two)]
    np.testing.assert_allclose(held_out[1], held_out[0], rtol=1e-4)
    # Of one checkpoint from here on: rows are the same, whoever draws them, but for how a product of so many is added.
    for name in ("sample", "evaluate"):
        (alone,) = command(
            name, f"--workdir={one}", "--n=20" if name == "sample" else "--seed=0", f"--out={tmp_path}/{name}1"
        )
        told = [f"--workdir={one}", "--n=20" if name == "sample" else "--seed=0", f"--out={tmp_path}/{name}2"]
        first, second = command(name, *told, "--config.mesh.fsdp=2", n=2, devices=2)
        assert [alone.code, first.code, second.code] == [0, 0, 0], first.err + second.err
        assert (second.out, second.err) == ("", "")
        assert files(tmp_path / f"{name}2") == files(tmp_path / f"{name}1")
    drawn = [np.load(tmp_path / f"sample{k}" / "samples.npz")["x"] for k in (1, 2)]
    np.testing.assert_allclose(drawn[1], drawn[0], rtol=1e-4, atol=1e-4)
    measured = [json.loads((tmp_path / f"evaluate{k}" / "evaluation.json").read_text()) for k in (1, 2)]
    assert measured[0].keys() == measured[1].keys() and measured[0]["left_out"] == measured[1]["left_out"]
    for name, value in measured[0].items():
        if isinstance(value, float):
            np.testing.assert_allclose(measured[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert "log_likelihood" in " ".join(measured[0]) or "nats" in " ".join(measured[0])


@pytest.mark.slow
def test_processes_that_were_started_otherwise_are_refused_before_anything_is_written(tmp_path):
    each = [[], ["--config.training.batch_size=32"]]
    first, second = command("train", f"--workdir={tmp_path}/run", *SETTINGS, n=2, each=each)
    said = "all processes have to be started alike: --config.training.batch_size is 32 here and 16 in process 0"
    assert (first.code, second.code) == (2, 2) and not (tmp_path / "run").exists()
    assert second.err == f"error: {said}\n" and first.err == f"error: process 1 refused: {said}\n"


@pytest.mark.slow
def test_the_folder_of_another_run_is_refused_by_all(tmp_path):
    command("train", f"--workdir={tmp_path}/run", *SETTINGS)
    first, second = command(
        "train", f"--workdir={tmp_path}/run", *SETTINGS, "--config.optimizer.learning_rate=0.5", n=2
    )
    assert (first.code, second.code) == (2, 2)
    assert first.err.startswith(
        f"error: {tmp_path}/run belongs to another config (optimizer.learning_rate: 0.001 → 0.5)"
    )
    assert second.err == first.err.replace("error: ", "error: process 0 refused: ")


@pytest.mark.slow
@pytest.mark.parametrize(("who", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGINT)])
def test_the_signal_of_one_process_ends_all_after_a_checkpoint(who, number, tmp_path):
    endless = ["--config.training.steps=1000000", "--config.training.checkpoint_every=500000"]
    processes = started("train", f"--workdir={tmp_path}/run", *SETTINGS, *endless, n=2)
    assert re.match(r"step 10/1000000, loss", processes.all[0].stderr.readline())
    processes.all[who].send_signal(number)
    ended = processes.ended()
    (step,) = checkpoint.steps(tmp_path / "run")
    line = f"stopped by {number.name} at step {step}; the same command goes on from there"
    assert [one.code for one in ended] == [128 + number] * 2
    assert ended[0].out.splitlines()[-1] == line and ended[1].err == f"{line}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distributed", "--process_id=1"], "--distributed finds out what --coordinator"),
        (["--num_processes=0"], "num_processes=0"),
        (["--process_id=1", "--num_processes=2"], "--coordinator missing"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message, monkeypatch):
    monkeypatch.setattr(joining.sys, "argv", ["train", *flags])
    with pytest.raises(InputError, match=message):
        joining.asked_for()


def test_a_command_is_one_process_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(joining.sys, "argv", ["train", "--workdir=x", "--config.training.steps=3"])
    assert joining.asked_for() is None

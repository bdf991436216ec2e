"""Several processes train as one does, and end together: on CPUs, whose collective operations are gloo's.

What may differ is the order in which the gradients of devices are added, √(B·D)·ε in the mean of a step's gradient.
Adam divides by √v̂, so after n updates of size lr a parameter differs by some n·lr·√(B·D)·ε·|g|₁/|g|, here
30·0.01·√(16·2)·ε = 1.7 ε·|g|₁/|g|, where single examples' gradients and their mean are at most 10² apart but where a
gradient passes through 0. Allowed are 10³ ε = 1e-4 of parameters of size one, as on meshes of one process.
"""

import json
import re
import signal

import chex
import jax
import numpy as np
import pytest

from score_jax.training import checkpoint, hosts
from score_jax.training.logging import read_jsonl
from score_jax.types import InputError
from tests.training import joined

AT_MOST_ONCE = r"\(1 of at most 1 times\)"
GOES_ON = "the same command goes on from the last checkpoint"


def alone(workdir, steps):
    return joined.train_on(workdir, steps, devices=jax.devices()[:1])


def assert_same_training(result, workdir, expected, expected_workdir):
    parts = lambda state: jax.device_get((state.params, state.ema, state.opt_state))
    chex.assert_trees_all_close(parts(result.state), parts(expected.state), rtol=1e-4, atol=1e-4)
    found, wanted = (read_jsonl(path / "metrics.jsonl") for path in (workdir, expected_workdir))
    assert [record["step"] for record in found] == [record["step"] for record in wanted]
    losses = lambda records: [record["loss"] for record in records]
    np.testing.assert_allclose(losses(found), losses(wanted), rtol=1e-4)
    counts = lambda records: [record["loss_by_sigma"].keys() for record in records]
    assert counts(found) == counts(wanted)


def test_a_training_goes_on_with_two_processes_and_then_with_one_again_and_ends_as_of_one(tmp_path):
    """The first two checkpoints are one's, the third is of two processes, of whom one then refuses to go on."""
    expected = alone(tmp_path / "whole", 30)
    alone(tmp_path / "run", 10)
    first, second = joined.launch("train", tmp_path / "run", 20)
    assert (first.code, first.out) == (2, "20 steps by 2 processes\n")
    assert (second.code, second.out, second.err) == (2, "", "error: its data are gone\n")
    assert first.err.splitlines()[-1] == "error: process 1 refused: its data are gone" and "Traceback" not in first.err
    assert checkpoint.steps(tmp_path / "run") == [20, 10]
    assert json.loads((tmp_path / "run" / "environment-10.json").read_text())["processes"] == 2
    assert_same_training(alone(tmp_path / "run", 30), tmp_path / "run", expected, tmp_path / "whole")
    assert not [path.name for path in (tmp_path / "run").iterdir() if hosts.is_mark(path.name)]


def test_where_a_process_is_killed_the_other_ends_soon_with_a_line():
    other, killed = joined.launch("die", 1, "sum")
    assert killed.code == -signal.SIGKILL and other.code == 1
    assert other.err == f"error: process 1 died or cannot be reached; {GOES_ON}\n"
    assert other.at - float(re.search(r"killed at ([\d.]+)", killed.err)[1]) < 30  # 3 s, on a machine with time


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "devices", "fsdp", "order"), [(4, 1, 1, "plain"), (2, 2, 2, "plain"), (2, 2, 1, "interleaved")]
)
def test_any_number_of_processes_trains_as_one(n, devices, fsdp, order, tmp_path):
    """Interleaved devices: rows 0 and 2 of four parts of a batch are one process's."""
    expected = alone(tmp_path / "whole", 20)
    ended = joined.launch("train", tmp_path / "run", 20, fsdp, order, n=n, devices=devices)
    assert [one.code for one in ended] == [2] * n and ended[0].out == f"20 steps by {n} processes\n"
    told = ["error: its data are gone" if k == 1 else "error: process 1 refused: its data are gone" for k in range(n)]
    assert [one.err.splitlines()[-1] for one in ended] == told
    assert_same_training(alone(tmp_path / "run", 20), tmp_path / "run", expected, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_what_one_refuses_ends_all_within_seconds(who):
    ended = joined.launch("refuse", who, n=3)
    assert [one.code for one in ended] == [2] * 3
    own, other = "error: its data are gone\n", f"error: process {who} refused: its data are gone\n"
    refusing = [0] if who == 0 else [1, 2]
    assert all(one.err in ((own, other) if who else (own if k == 0 else other,)) for k, one in enumerate(ended))
    assert any(ended[k].err == own for k in refusing)
    assert max(one.at for one in ended) - min(one.at for one in ended) < 30


@pytest.mark.slow
@pytest.mark.parametrize(("who", "how", "limit"), [(0, "sum", 10), (0, "busy", 10), (1, "busy", hosts.HEARTBEAT + 20)])
def test_whoever_is_killed_and_whatever_the_others_do_they_end(who, how, limit):
    ended = joined.launch("die", who, how, n=3)
    left = [one for k, one in enumerate(ended) if k != who]
    assert ended[who].code == -signal.SIGKILL and [one.code for one in left] == [1, 1]
    assert [one.err for one in left] == [f"error: process {who} died or cannot be reached; {GOES_ON}\n"] * 2
    killed = float(re.search(r"killed at ([\d.]+)", ended[who].err)[1])
    assert max(one.at for one in left) - killed < limit


@pytest.mark.slow
def test_data_that_are_gone_in_mid_training_end_all_with_whole_checkpoints(tmp_path):
    first, second = joined.launch("vanish", tmp_path / "run", 1)
    assert (first.code, second.code) == (2, 2) and abs(first.at - second.at) < 30
    assert second.err.splitlines()[-1] == "error: row 7 cannot be read"
    assert first.err.splitlines()[-1] == "error: process 1 refused: row 7 cannot be read"
    assert checkpoint.steps(tmp_path / "run")[0] in (30, 40)  # step 40 is the last that it had data for
    assert alone(tmp_path / "run", 50).step == 50


@pytest.mark.slow
def test_all_go_back_where_the_batch_of_one_is_bad(tmp_path):
    """To step 10, and on with other batches, as one process that has all rows."""
    first, second = joined.launch("back", tmp_path / "run")
    assert (first.code, second.code) == (0, 0)
    where = f"the loss became nan in step 12 at noise level .*: back to the checkpoint of step 10, .*{AT_MOST_ONCE}"
    assert re.search(where, first.err) and second.err == ""
    whole = joined.train_on(tmp_path / "whole", 30, devices=jax.devices()[:1], met=joined.fatal_in_step_12, rollbacks=1)
    assert_same_training(alone(tmp_path / "run", 30), tmp_path / "run", whole, tmp_path / "whole")
    assert [record.get("undone", 0) for record in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [0, 5, 5]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_full_disk_of_one_ends_all_at_once(tmp_path, who):
    """Whose write fails is found out from Orbax at once, which else waits 20 minutes for the others, as they for it."""
    ended = joined.launch("full", tmp_path / "run", who)
    assert [one.code for one in ended] == [2, 2] and abs(ended[0].at - ended[1].at) < 30
    failed, good = re.search(r"of step (10|20) could not", ended[who].err)[1], checkpoint.steps(tmp_path / "run")
    said = f"the checkpoint of step {failed} could not be written (File too large): "
    assert ended[who].err.startswith(f"error: {said}") and good == ([10] if failed == "20" else [])
    assert ended[1 - who].err == ended[who].err.replace("error: ", f"error: process {who} refused: ")
    assert ended[who].err.count("\n") == 1
    assert alone(tmp_path / "run", 30).step == 30


@pytest.mark.slow
def test_a_folder_that_the_processes_do_not_share_is_refused(tmp_path):
    first, second = joined.launch("apart", tmp_path / "here", tmp_path / "there")
    assert (first.code, second.code) == (2, 2) and not (tmp_path / "there").exists()
    assert re.search(r"^error: .*there on \S+ is not the folder that process 0 writes into", second.err)
    assert first.err.startswith("error: process 1 refused: ") and first.err.count("\n") == second.err.count("\n") == 1


@pytest.mark.slow
def test_processes_that_do_not_come_together_are_told_in_a_line():
    port = joined.free_port()
    missing, alone_ = joined.flags(2, port), joined.flags(2, joined.free_port())
    few = ["--join_timeout=5"]
    ended = joined.Processes(
        [
            ["tests.training.joined", "refuse", "0", *missing[1], *few],  # whose process 0 was never started
            ["tests.training.joined", "refuse", "0", *alone_[0], *few],  # whose process 1 was not
            ["tests.training.joined", "refuse", "0", "--distributed"],
        ],
        1,
    ).ended()
    assert [one.code for one in ended] == [1, 1, 2]
    assert ended[0].err.startswith(f"error: process 0 wasn't reached at localhost:{port}")
    assert "within 5 s" in ended[0].err and ended[0].err.count("\n") == 1
    assert ended[1].err.startswith("error: not all of 2 processes came to ") and ended[1].err.count("\n") == 1
    assert ended[2].err.startswith("error: --distributed: JAX finds no cluster here")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", 2, None), "^--process_id missing: several processes need"),
        ((None, None, 1), "^--coordinator and --num_processes missing"),
        (("here:1", 2, 2), "^--process_id is 0 to 1 of --num_processes=2, got 2"),
        (("here", 2, 0), "^--coordinator is HOST:PORT of process 0, such as node1:12345, got 'here'"),
        (("here:70000", 2, 0), "got 'here:70000'"),
    ],
)
def test_processes_that_cannot_meet_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        hosts.cluster_of(*given)


def test_one_process_agrees_with_itself(tmp_path):
    hosts.wait_for_all()
    hosts.require_shared(tmp_path)
    hosts.require_alike({"--seed": 1})
    assert hosts.told_by_first(lambda: {"a": [1]}) == {"a": [1]} and hosts.own(tmp_path) == tmp_path
    assert hosts.arrays_by_first(lambda: None) is None

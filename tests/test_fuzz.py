"""300 cases of `make fuzz`, and that its guard sees what no case may do."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from tests.fuzz import cases, guard, mutations
from tests.fuzz.readers import READERS

CASES = 300


@pytest.fixture(scope="module")
def warm():
    cases.warm()


@pytest.mark.parametrize("first", range(0, CASES, 60))
def test_damaged_files_are_read_or_refused_in_a_line(first, warm):
    found = [cases.run(0, case) for case in range(first, first + 60)]
    assert [outcome for outcome in found if outcome.state == cases.WRONG] == []
    states = Counter(outcome.state for outcome in found)
    assert states[cases.READ] > 6 and states[cases.REFUSED] > 20  # not all of it shows, and not all is beyond repair


def test_a_case_is_the_same_for_the_same_seed_and_number(tmp_path):
    for case in (3, 40, 77):
        for name in ("a", "b"):
            cases.lay(tmp_path / name / str(case), 5, case)
    files = lambda name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
    assert files("a") == files("b") and files("a")


def test_every_reader_has_cases_in_the_suite():
    assert {cases.reader_of(case) for case in range(CASES)} == set(READERS)


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: subprocess.run(["true"]), "subprocess.Popen"),
        (lambda folder: exec(compile("1", "theirs", "exec")), "exec of code of theirs"),
        (lambda folder: eval("1 + 1"), "exec of code of <string>"),
        (lambda folder: (folder.parent / "beside").write_text(""), "open .*beside for writing"),
        (lambda folder: os.mkdir(folder.parent / "beside"), "os.mkdir"),
        (lambda folder: __import__("socket").create_connection(("127.0.0.1", 9)), "socket"),
    ],
)
def test_the_guard_sees_what_no_case_may_do(act, what, tmp_path):
    (tmp_path / "in").mkdir()

    def hidden():
        with contextlib.suppress(BaseException):
            act(tmp_path / "in")

    with pytest.raises(guard.Forbidden, match=what), guard.watched(tmp_path / "in"):
        hidden()  # also where a reader swallows it
    (tmp_path / "in" / "x").write_text("")  # nothing is watched any more
    assert not (tmp_path / "beside").exists()


def test_the_guard_lets_a_case_write_into_its_folder(tmp_path):
    with guard.watched(tmp_path):
        (tmp_path / "x").write_text("x")


def test_the_guard_ends_what_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    with pytest.raises(guard.Forbidden, match=r"took more than 0\.05 seconds"), guard.watched(tmp_path):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is told by /proc")
def test_the_peak_of_memory_is_that_of_the_case():
    peak = guard.Peak()
    held = os.urandom(1) * 2**25
    del held
    assert abs(peak.bytes() - 2**25) < 2**20  # Linux counts resident pages in batches: 41 to 84 pages are missing
    assert guard.Peak().bytes() < 2**24


def test_mutations_put_instructions_into_pickles_that_would_run(tmp_path):
    import numpy as np

    original = READERS["cifar, python"].original()["test_batch"]
    made = [mutations.of_pickle(np.random.default_rng(i), original) for i in range(200)]
    assert sum(mutations.CANARY.encode() in content for content in made) > 10

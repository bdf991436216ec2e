"""benchmarks/check_device.py keeps what it found, goes on with what was left, and survives what breaks."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import check_device  # noqa: E402
from checks import families, in_torch, learn, throughput  # noqa: E402
from checks.item import Item, Scale  # noqa: E402
from checks.results import Results  # noqa: E402

ENVIRONMENT = {"device": "H100", "platform": "gpu", "devices": 1, "versions": {"jax": "0.11"}, "absent": ["grain"]}
TINY = Scale(tiny=True)

# A child whose items are one that works, one that raises nothing but dies, and one that hangs.
_CHILD = """
import json, os, sys, time
events, done = sys.argv[1], sys.argv[2:]
def tell(**event):
    print(json.dumps(event), file=open(events, "a"), flush=True)
tell(items=["works", "fails", "dies", "hangs"])
for name in ["works", "fails", "dies", "hangs"]:
    if name in done: continue
    tell(start=name)
    if name == "works": tell(done=name, row={"what": name, "ms": 1.5})
    if name == "fails": tell(failed=name, why="ValueError: no")
    if name == "dies": os.abort()
    if name == "hangs":
        open(events + ".hung", "w").close()
        time.sleep(60)
"""


def watched(results, monkeypatch, seconds):
    """Runs the stage of that child for some seconds."""

    def child(*arguments, environment, log):
        events = next(a for a in arguments if a.startswith("--events=")).removeprefix("--events=")
        done = [a.removeprefix("--done=") for a in arguments if a.startswith("--done=")]
        return subprocess.Popen([sys.executable, "-c", _CHILD, events, *done], stdout=log, stderr=log)

    monkeypatch.setattr(check_device, "child", child)
    options = check_device.Options(("families",), 1.0, None, TINY)
    check_device.Watch("families", options, results).until(time.monotonic() + seconds)


def test_an_item_that_dies_is_named_and_one_that_hangs_is_left_for_the_next_call(tmp_path, monkeypatch):
    results = Results(tmp_path, ENVIRONMENT)
    watched(results, monkeypatch, 2.5)
    assert results.done("families") == ["works"]
    assert results.failed(["families"])[0] == "families: fails: ValueError: no"
    assert results.failed(["families"])[1].startswith("families: dies: its process ended with code -6")
    assert results.left("families") == ["hangs"] and (tmp_path / "families.events.hung").exists()
    assert not list(tmp_path.glob("*.events")) and results.failed(["families"])[2:] == []
    # The same command goes on: what is done is not done again, and is in both files.
    again = Results(tmp_path, ENVIRONMENT)
    assert again.done("families") == ["works"] and again.left("families") == ["hangs"]
    page = (tmp_path / "table.md").read_text()
    assert "| works | 1.5 |" in page and "Failed: fails: ValueError: no" in page and "Not tried yet: hangs" in page
    assert "absent: grain" in page and "device: H100" in page


@pytest.mark.parametrize(
    ("other", "message"),
    [({"device": "A100"}, "another device, 'H100' where this is 'A100'"), (None, "is no result of")],
)
def test_results_of_another_device_are_neither_mixed_nor_overwritten(tmp_path, other, message):
    Results(tmp_path, ENVIRONMENT).add("families", "ddpm", {"ms": 1.0})
    path = tmp_path / "results.json"
    if other is None:
        path.write_text("[]")
    before = path.read_text()
    with pytest.raises(SystemExit, match=message):
        Results(tmp_path, ENVIRONMENT | (other or {}))
    assert path.read_text() == before


def test_of_the_tests_the_comparison_nearest_to_its_bound_is_shown(tmp_path):
    results = Results(tmp_path, ENVIRONMENT)
    results.add("tests", "test_a.py::test_norm[x]", {"test": "", "errors": {"GroupNorm": [1e-7, 1e-6]}})
    results.add("tests", "test_a.py::test_norm[y]", {"test": "", "errors": {"InstanceNorm++": [2e-8, 4e-8]}})
    results.fail("tests", "test_a.py::test_norm[z]", "AssertionError")
    row = (tmp_path / "table.md").read_text().splitlines()
    assert "| test_a.py, test_norm | 2 | 1 | InstanceNorm++ | 2e-08 | 4e-08 |" in row


def test_an_item_that_raises_or_lacks_a_package_does_not_keep_the_others_from_running(tmp_path):
    tell = check_device.Teller(tmp_path / "events")
    items = [Item("broken", lambda: 1 / 0), Item("absent", dict, ("no_such_package",)), Item("fine", lambda: {"ms": 2})]
    for item in items:
        check_device._run_item(item, tell)
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert told == [
        {"start": "broken"},
        {"failed": "broken", "why": "ZeroDivisionError: division by zero"},
        {"left_out": "absent", "why": "needs no_such_package"},
        {"start": "fine"},
        {"done": "fine", "row": {"ms": 2}},
    ]


def test_a_stage_that_cannot_start_says_so_and_is_tried_again(tmp_path, monkeypatch):
    results = Results(tmp_path, ENVIRONMENT)
    monkeypatch.setitem(globals(), "_CHILD", "raise SystemExit(4)")
    watched(results, monkeypatch, 5.0)
    assert results.failed(["families"]) == ["families: start: its process ended with code 4: see its log"]
    monkeypatch.setitem(globals(), "_CHILD", "pass")
    watched(results, monkeypatch, 5.0)
    assert results.failed(["families"]) == []


def test_where_pytest_is_absent_the_tests_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(check_device, "absent", lambda *packages: list(packages))
    check_device.run_stage("tests", TINY, set(), check_device.Teller(tmp_path / "events"))
    assert json.loads((tmp_path / "events").read_text())["why"] == "needs pytest"


def test_every_stage_names_its_items_once_and_the_published_ones_are_all_there():
    for stage in (families, throughput, learn, in_torch):
        for scale in (TINY, Scale(tiny=False)):
            names = [item.name for item in stage.items(scale)]
            assert len(names) == len(set(names)) > 0
    published = [item.name for item in families.items(Scale(tiny=False))]
    assert len(published) == 2 * 7 and published[0] == "ddpm, bfloat16"
    trained = [item.name for item in throughput.items(Scale(tiny=False)) if item.name.startswith("training")]
    assert len(trained) == 4 * 3


def command(tmp_path, *arguments):
    options = [f"--out={tmp_path}", "--tiny", *arguments]
    return subprocess.run([sys.executable, FOLDER / "check_device.py", *options], capture_output=True, text=True)


@pytest.mark.slow
def test_a_stage_runs_from_the_command_and_is_not_run_twice(tmp_path):
    first = command(tmp_path, "--stage=learn")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "learn: 1 done, 0 failed, 0 left out, 0 not tried yet" in first.stdout and "nothing is left" in first.stdout
    row = json.loads((tmp_path / "results.json").read_text())["stages"]["learn"]["done"]["digits"]
    assert row["last loss"] < row["first loss"]
    (tmp_path / "learn.log").unlink()
    assert command(tmp_path, "--stage=learn").returncode == 0
    assert not (tmp_path / "learn.log").read_text().count("examples/s")  # nothing was trained


@pytest.mark.slow
def test_every_stage_passes_on_a_cpu_with_tiny_networks(tmp_path):
    done = command(tmp_path, "--minutes=20")
    assert done.returncode == 0, done.stdout
    assert "nothing is left" in done.stdout

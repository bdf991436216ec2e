"""The command of sweeps in processes of its own: killed, with workers, as jobs, with a stranger's folder."""

import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from score_jax.lab.sweeps import outcomes, slurm, workers
from tests.helpers import refused
from tests.lab.sweeping import Engine, tables

ROOT = Path(__file__).parents[2]
# A measure and a logger that end the process the first time that they come to a cell, as SWEEP_KILL says.
KILLER = """
import os, signal
from pathlib import Path
from score_jax.training.logging import Logger

def at(place):
    for told in os.environ.get("SWEEP_KILL", "").split(";"):
        name, _, number = told.partition("=")
        mark = Path(os.environ.get("SWEEP_MARKS", "."), name.replace("/", "_"))
        if name and place.endswith(name) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), int(number))

def measure(measured):
    at(f"{measured.run.workdir.name.rpartition('-')[0]}/{measured.run.sampling.conditions['sampler_steps']}")
    return {"zero": 0}

def log(workdir, start):
    return Logger(lambda step, record: at(f"{workdir.name.rpartition('-')[0]}/step{step}"), lambda: None)
"""
FILE = """
from tests.lab.sweeping import base, CELLS

def get_config():
    config = base()
    config.evaluation.measures = ("score_error", "distances", "killer:measure")
    config.training.loggers = ("killer:log",)
    return config

def get_sweep():
    return CELLS
"""


class Command:
    """`python experiments/sweep.py` with a sweep file, in an environment of its own."""

    def __init__(self, folder):
        (folder / "killer.py").write_text(KILLER)
        (folder / "file.py").write_text(FILE)
        self.folder, self.path = folder, f"{ROOT}:{folder}"

    def __call__(self, *arguments, command="sweep", **variables):
        environment = os.environ | {"PYTHONPATH": self.path, "SWEEP_MARKS": str(self.folder)} | variables
        line = [sys.executable, f"experiments/{command}.py", *arguments]
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)

    def sweep(self, out, *arguments, **variables):
        return self(f"--sweep={self.folder / 'file.py'}", f"--out={out}", *arguments, **variables)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The command, and the folder of a sweep that nothing stopped."""
    folder = tmp_path_factory.mktemp("command")
    command = Command(folder)
    done = command.sweep(folder / "whole")
    assert done.returncode == 0, done.stderr
    return command, folder / "whole", done.stdout


@pytest.mark.slow
def test_the_command_prints_the_plan_and_what_it_wrote(whole):
    _, out, said = whole
    lines = said.splitlines()
    assert lines[0] == "5 cells: 3 trainings, 5 evaluations" and lines[4].startswith("estimated time: ")
    assert "5 cells: 5 done" in lines
    written = {line.strip() for line in lines if line.startswith(f"  {out}")}
    names = ("cells.csv", "table.md", "table.tex", "report.html", "figures/bars_sliced_wasserstein2.png")
    assert {str(out / name) for name in names} <= written and all(Path(path).exists() for path in written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "code"),
    [
        ({"dsm-seed1/step6": signal.SIGKILL}, -9),  # in a training
        ({"dsm-seed0/3": signal.SIGKILL, "ssm-seed0/3": signal.SIGKILL}, -9),  # in evaluations, twice
        ({"dsm-seed0/step6": signal.SIGTERM}, 143),  # with a checkpoint
    ],
    ids=["training", "evaluation", "terminated"],
)
def test_killed_at_any_moment_the_same_command_ends_with_the_same_table(whole, tmp_path, kill, code):
    command, expected, _ = whole
    told = ";".join(f"{place}={number:d}" for place, number in kill.items())
    for _ in kill:
        stopped = command.sweep(tmp_path / "out", SWEEP_KILL=told, SWEEP_MARKS=str(tmp_path))
        assert stopped.returncode == code, stopped.stderr
    if code == 143:
        assert re.search(r"stopped by SIGTERM at step [68]; the same command goes on from there", stopped.stdout)
    done = command.sweep(tmp_path / "out", SWEEP_KILL=told, SWEEP_MARKS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "out") == tables(expected)


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_cells_alone_and_they_are_tried_again(whole, tmp_path):
    command, expected, _ = whole
    kill = {"SWEEP_KILL": f"dsm-seed1/2={signal.SIGKILL:d}", "SWEEP_MARKS": str(tmp_path)}
    done = command.sweep(tmp_path / "out", "--workers=2", **kill)
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stderr
    states = [(o.state, o.reason) for o in outcomes.read_outcomes(tmp_path / "out").outcomes]
    assert [state for state, _ in states] == ["done", "done", "failed", "failed", "done"]
    assert states[2][1] == "the process that ran it ended with signal 9 (SIGKILL)"
    again = command.sweep(tmp_path / "out", "--workers=2", **kill)
    assert again.returncode == 0, again.stderr
    assert tables(tmp_path / "out") == tables(expected)


@pytest.mark.slow
def test_jobs_of_submitit_end_with_the_same_table(whole, tmp_path):
    """By its executor for one machine, which starts jobs as SLURM's does."""
    submitit = pytest.importorskip("submitit")
    command, expected, _ = whole
    command.path += f":{Path(submitit.__file__).parents[1]}"
    done = command.sweep(tmp_path / "out", "--slurm", "--slurm_options=cluster=local,timeout_min=5")
    assert done.returncode == 0, done.stderr
    assert "3 jobs submitted" in done.stdout and tables(tmp_path / "out") == tables(expected)


@pytest.mark.slow
def test_the_folder_alone_goes_on_and_an_axis_is_extended(whole, tmp_path):
    command, out, _ = whole
    done = command(f"--out={out}", "--dry_run")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "sweep.json names killer:measure, code of another package" in done.stderr
    done = command(f"--out={out}", "--dry_run", "--trust=killer")
    assert done.returncode == 0 and "5 cells are done" in done.stdout
    for extra, message in [
        (["--config.seed=1"], "another sweep (seed: 0 → 1)"),
        (["--grid.training.steps=1,x"], "training.steps is of type int"),
        (["--grid.sampler.stepz=1"], "no setting 'sampler.stepz': did you mean sampler.steps"),
        (["--grid.seed=0,1"], "'seed' is set twice"),
        (["--grid.evaluation.n="], "--grid.evaluation.n has an empty value"),
        (["--columns=fid", "--report"], "no cell has the number 'fid'"),
    ]:
        done = command.sweep(out, *extra, "--dry_run")
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    done = command.sweep(tmp_path / "new", "--grid.optimizer.b1=0.8,0.9", "--dry_run")
    assert done.returncode == 0 and done.stdout.startswith("10 cells: 6 trainings") and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_strangers_folder_has_nothing_executed(whole, tmp_path):
    """`os:system`, and a module that would leave a file, planted in sweep.json and in a run's config.json."""
    command, _, _ = whole
    (tmp_path / "planted.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w')\ndef code(measured): return {{}}\n"
    )
    command.path += f":{tmp_path}"
    engine, out = Engine(), tmp_path / "out"
    engine.run(out, [{"seed": 0}, {"seed": 1}])
    described = json.loads((out / "sweep.json").read_text())
    for name in ("os:system", "planted:code"):
        described["base"]["evaluation"]["measures"].append(name)
        described["cells"][1]["sde.name"] = name
        (out / "sweep.json").write_text(json.dumps(described))
        for path in out.glob("runs/*/config.json"):
            config = json.loads(path.read_text())
            config["sampler"]["name"] = config["objective"]["name"] = name
            path.write_text(json.dumps(config))
        done = command(f"--out={out}")
        assert done.returncode == 2 and "sweep.json names os:system, code of another package" in done.stderr
        done = command(f"--out={out}", "--report")
        assert done.returncode == 1 and "1 not run yet" in done.stdout and "system" in (out / "report.html").read_text()
        run = next(out.glob("runs/*"))
        for folder in (out, run):
            assert command(f"--workdir={folder}", command="report").returncode == 0
        assert name in (run / "report.html").read_text()
    assert not (tmp_path / "executed").exists()


class Job:
    """A job of a submitit that runs nothing: the second fails."""

    def __init__(self, number, command):
        self.job_id, self.command, self.state = f"7_{number}", command, "COMPLETED" if number != 1 else "OUT_OF_MEMORY"

    def wait(self):
        return self


@pytest.fixture
def submitted(monkeypatch):
    """What a submitit in its place was told."""
    told = {"jobs": [], "options": {}}

    class Executor:
        def __init__(self, folder, cluster=None):
            told["folder"] = folder

        def update_parameters(self, **options):
            told["options"] = options

        def batch(self):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def submit(self, command):
            told["jobs"].append(Job(len(told["jobs"]), command))
            return told["jobs"][-1]

    module, helpers = types.ModuleType("submitit"), types.ModuleType("submitit.helpers")
    module.AutoExecutor, helpers.CommandFunction, module.helpers = Executor, lambda line: line, helpers
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)
    return told


def test_trainings_that_go_together_are_a_job_of_an_array_and_one_without_numbers_has_failed(tmp_path, submitted):
    engine, said = Engine(), []
    made = engine.plan(tmp_path)
    options = slurm.options_of("partition=gpu,timeout_min=60,gpus_per_node=1,slurm_time=3")
    slurm.run_jobs(tmp_path, made, ["--out=here", "--grid.seed=0,1"], options, 2, said.append)
    assert submitted["options"] == {
        "name": "sweep",
        "slurm_array_parallelism": 2,
        "slurm_partition": "gpu",
        "timeout_min": 60,
        "gpus_per_node": 1,
        "slurm_time": 3,
    }
    tails = [job.command[-3:] for job in submitted["jobs"]]
    assert tails == [["--out=here", "--grid.seed=0,1", f"--only={cells}"] for cells in ("0,1,2,3", "4")]
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "cells").iterdir())]
    assert all(record["state"] == "failed" for record in records) and len(records) == 5
    assert any("job 7_1 ended in state OUT_OF_MEMORY" in record["reason"] for record in records)


def test_slurm_without_submitit_or_with_odd_options_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused("--slurm needs submitit: pip install 'score-jax", slurm.require_submitit)
    refused("written partition=gpu,timeout_min=60, got 'gpu'", slurm.options_of, "gpu")


def test_a_worker_is_handed_job_by_job_and_replaced_where_it_ends(tmp_path, monkeypatch):
    """Processes that answer, but for two trainings that go together, at which the first dies."""
    code = (
        "import sys, pathlib\n"
        "for line in sys.stdin:\n"
        f"    mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "    if line.strip() == '0,1,2,3' and not mark.exists():\n"
        "        mark.touch()\n"
        "        sys.exit('no more memory')\n"
        "    print('ran', line.strip(), end='')\n"  # as an object's own progress, without an end of its line
        f"    print({workers.ANSWER!r}, flush=True)\n"
    )
    monkeypatch.setattr(workers, "_COMMAND", (sys.executable, "-c", code))
    engine, said = Engine(), []
    made = engine.plan(tmp_path)
    (tmp_path / "cells").mkdir()
    workers.run_workers(tmp_path, made, [], 1, said.append)
    assert [line for line in said if line.startswith("ran")] == ["ran 4"]
    reason = "the process that ran it ended with exit code 1: no more memory"
    lost = [f"{group.run}: failed: {reason}" for group in made.groups[:2]]
    assert [line for line in said if not line.startswith("ran")] == lost
    failed = [json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()]
    assert len(failed) == 4 and all(re.match(reason, record["reason"]) for record in failed)

"""The cells of a plan run as an array of jobs, which are the same command on some of the cells.

A job is for a training, or for those that go together.
"""

import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from score_jax.lab import evaluation
from score_jax.lab.sweeps.folder import read_record, run_folder
from score_jax.lab.sweeps.plan import Plan, places_of
from score_jax.lab.sweeps.running import begin, record_failed
from score_jax.types import InputError

_SHARED = ("name", "nodes", "timeout_min", "mem_gb", "tasks_per_node", "cpus_per_task", "gpus_per_node")


def options_of(text: str) -> dict[str, Any]:
    """Returns the options of "partition=gpu,timeout_min=60", as submitit calls them; others are SLURM's own."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--slurm_options is written partition=gpu,timeout_min=60, got {part!r}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        found[name if name in (*_SHARED, "cluster") or name.startswith("slurm_") else f"slurm_{name}"] = parsed
    return found


def require_submitit() -> Any:
    """Returns the module, or raises InputError where it is not installed."""
    try:
        import submitit  # deferred: for those who have SLURM
    except ImportError as error:
        raise InputError("--slurm needs submitit: pip install 'score-jax[slurm]', or give --workers=N") from error
    return submitit


def run_jobs(
    out: Path, made: Plan, arguments: Sequence[str], options: dict[str, Any], n: int, say: Callable[[str], None]
) -> None:
    """Submits the jobs of trainings that are not done, and waits for all.

    Killed while it waits, the jobs go on; the same command submits what is left, and what a job works on is waited for.

    Args:
      out: the folder of the sweep, which the machines share.
      made: its plan.
      arguments: of this command, which the jobs are given too.
      options: of `options_of`.
      n: jobs that run at once; 0 is as many as there are.
      say: is told how it goes, in lines.
    """
    submitit = require_submitit()
    begin(out, made.cells)
    pending = made.jobs(n)
    if not pending:
        return
    options = {"name": "sweep", **options}
    executor = submitit.AutoExecutor(folder=out / "logs", cluster=options.pop("cluster", None))
    try:
        executor.update_parameters(slurm_array_parallelism=n or len(pending), **options)
    except (NameError, TypeError, ValueError) as error:
        raise InputError(f"--slurm_options: {' '.join(str(error).split())}") from error
    with executor.batch():
        jobs = [executor.submit(_command(arguments, places_of(groups))) for groups in pending]
    say(f"{len(jobs)} jobs submitted, {jobs[0].job_id} the first; their output is in {out / 'logs'}")
    for job, groups in zip(jobs, pending, strict=True):
        job.wait()
        for cell in [made.cells[i] for i in places_of(groups)]:
            done = evaluation.is_done(run_folder(out, cell.run) / cell.evaluation)
            if not done and read_record(out, cell.record).get("state") != "failed":
                record_failed(out, [cell], f"job {job.job_id} ended in state {job.state} before its numbers were there")
        for group in groups:
            say(f"{group.run}: job {job.job_id} ended")


def _command(arguments: Sequence[str], cells: Sequence[int]) -> Any:
    from submitit.helpers import CommandFunction

    only = ",".join(map(str, cells))
    return CommandFunction([sys.executable, "-m", "score_jax.lab.sweep", *arguments, f"--only={only}"])

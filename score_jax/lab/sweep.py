"""Runs every combination of some settings, and makes one table of what comes out.

    python experiments/sweep.py --config=configs/toy.py --out=sweeps/objectives \\
        --grid.objective.name=dsm,ssm,fd_ssm --grid.sde.name=ve,vp --grid.seed=0,1,2
    python experiments/sweep.py --sweep=FILE.py --out=sweeps/mine --workers=2
    python experiments/sweep.py --out=sweeps/mine --report

Each --grid.KEY=VALUE,VALUE is an axis, and any setting can be one, of objects of your own too; commas in brackets or
quotes belong to a value. --sweep=FILE.py has get_sweep(), which returns cells, dictionaries of settings by dotted key:
score_jax.lab.sweeps makes them by axis, product and zip; and it may have get_config(). --config and its overrides are
what all cells have. First comes the plan: trainings, evaluations, what is done, what cannot work and why, and an
estimate of the time; --dry_run stops there and writes nothing.

Cells that differ in sampling or evaluation only share one training, a run folder in runs/ of --out; those of points
that differ in numbers only are trained together, in one program: the plan says which. Stopped at any moment and started
again with the same command, or with --out alone, the sweep goes on; more values of an axis extend it. A cell that fails
is in the table with its error, is tried again the next time, and the exit code is 1. --workers=N runs N processes,
--slurm an array of jobs (pip install 'score-jax[slurm]'), N at once.

Writes cells.csv (a row a cell and number, with its conditions), table.md and table.tex (means over seeds with standard
errors), figures/ and report.html; --report makes these again from what is there, and runs nothing. --columns chooses
the numbers of the table.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from score_jax.lab import build, command, own, reports, settings, sweeps
from score_jax.lab.build.variants import Variants
from score_jax.lab.sweeps import axes, estimate, folder, outcomes, outputs, plan, running, slurm, workers
from score_jax.lab.sweeps.axes import Cell
from score_jax.types import InputError

_ARGUMENTS: list[str] = []  # the command line as it was given, for workers
_GRID: list[tuple[str, str]] = []  # the axes that it gives, taken out of it
_FILE: list[Any] = []  # the module of --sweep


def define() -> None:
    """Defines the flags; reads the settings that all cells have."""
    _ARGUMENTS[:] = [*sys.argv[1:], "--workers=0", "--noslurm"]  # the last of a flag counts
    _GRID[:] = command.attempt(lambda: command.taken("grid"))
    flags.DEFINE_string(
        "out", None, "folder of the sweep: new, empty, or that of the sweep to go on with", required=True
    )
    flags.DEFINE_string("sweep", None, "Python file with get_sweep(), and get_config() where --config is not given")
    flags.DEFINE_string("trust", "", "packages whose code the folder's files may name, separated by commas")
    flags.DEFINE_string("columns", None, "numbers of the table, separated by commas; by default those of most use")
    flags.DEFINE_boolean("dry_run", False, "print the plan and stop")
    flags.DEFINE_boolean("report", False, "make tables, figures and report again; run nothing")
    flags.DEFINE_integer("workers", 0, "processes; 0 runs one cell after another in this one", lower_bound=0)
    flags.DEFINE_boolean("slurm", False, "submit an array of jobs")
    flags.DEFINE_string("slurm_options", "", "such as partition=gpu,timeout_min=60,gpus_per_node=1")
    flags.DEFINE_boolean("worker", False, "be a process of --workers")
    flags.DEFINE_string("only", None, "places of the cells to run, separated by commas: a job of --slurm")
    if command.given("workers"):  # whose processes share a device's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not _is_report():
        config = command.attempt(_base)
        command.define_overrides(config, "config file, of what all cells have")


def _is_report() -> bool:
    return any(word in ("--report", "-report", "--report=true", "--report=True") for word in sys.argv[1:])


def _base() -> settings.ConfigDict:
    """The settings of --config, or the sweep file's, or those of the sweep that is gone on with."""
    file, sweep, out = command.given("config"), command.given("sweep"), command.given("out")
    if sweep is not None:
        _FILE[:] = [command.read_module(f"--sweep={sweep}", sweep, "expected one with get_sweep()")]
        if file is None and hasattr(_FILE[0], "get_config"):
            return command.of_user(f"--sweep={sweep}", _FILE[0].get_config)
    if _is_alone() and out is not None and folder.is_sweep(Path(out)):
        described = folder.read_sweep(Path(out))
        own.require_trust(Path(out) / "sweep.json", described._asdict(), command.trusted())
        return settings.of_json(described.base)
    return command.read_file(file)


def _is_alone() -> bool:
    """Whether the folder alone says which sweep it is."""
    return not _GRID and command.given("config") is None and command.given("sweep") is None


def ablate(variants: Variants, cells: Sequence[Cell], out: str | Path) -> Path:
    """Runs the cells of a sweep one after another, as the command does, from Python; returns the path of table.md.

    Args:
      variants: of what all cells have, `build.variants_of(config)`.
      cells: made by `sweeps.axis`, `product` and `zip`.
      out: folder of the sweep: new, empty, or that of the sweep to go on with.

    Raises:
      InputError: of a folder or cells that cannot be used.
    """
    out, cells = Path(out), axes.without_repeats(map(variants.normal, axes.require_cells(cells)), variants.base)
    folder.require_ours(out, variants.base, cells)
    made = plan.plan(out, cells, variants.build)
    print(*plan.plan_lines(made, estimated=False), sep="\n", flush=True)
    with folder.claimed(out, variants.base, cells):
        running.run_groups(out, made, variants.build, _say)
        _report(out, None)
    return out / "table.md"


def main() -> int:
    """Runs the sweep that the flags describe."""
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    columns = None if given.columns is None else [name for name in given.columns.split(",") if name]
    if given.report:
        return _report(out, columns)
    variants = build.variants_of(given.config)
    cells = _cells(out, variants)
    base, make = variants.base, variants.build
    if given.worker or given.only is not None:
        folder.require_same(out, base, cells)
        return _work(out, cells, make)
    folder.require_ours(out, base, cells)
    if given.slurm:
        slurm.require_submitit()
    options = slurm.options_of(given.slurm_options)
    made = plan.plan(out, cells, make, speeds=estimate.Speeds(out))
    print(*plan.plan_lines(made, estimated=True), sep="\n", flush=True)
    if given.dry_run:
        return 0
    with folder.claimed(out, base, cells):
        if given.slurm:
            slurm.run_jobs(out, made, _ARGUMENTS, options, given.workers, _say)
        elif given.workers:
            workers.run_workers(out, made, _ARGUMENTS, given.workers, _say)
        else:
            running.run_groups(out, made, make, _say)
        return _report(out, columns)


def _say(line: str) -> None:
    print(line, flush=True)


def _cells(out: Path, variants: Variants) -> list[Cell]:
    """The cells that the command line, the sweep file or the folder gives, as JSON gives them back."""
    given = flags.FLAGS
    if _is_alone() and folder.is_sweep(out):
        described = folder.read_sweep(out)
        own.require_trust(out / "sweep.json", described._asdict(), command.trusted())
        return list(described.cells)
    parts = [axes.axis(key, [_value(key, text) for text in axes.parts_of(texts)]) for key, texts in _GRID]
    if given.sweep is not None:
        found = command.of_user(f"--sweep={given.sweep}", lambda: axes.require_cells(_FILE[0].get_sweep()))
        parts.insert(0, found)
    if not parts:
        raise InputError("a sweep has axes: give --grid.KEY=VALUE,VALUE or --sweep=FILE.py")
    return axes.without_repeats(map(variants.normal, sweeps.product(*parts)), variants.base)


def _value(key: str, text: str) -> object:
    if not text:
        raise InputError(f"--grid.{key} has an empty value: separate values by single commas, and quote an empty text")
    base = flags.FLAGS.config
    is_text = isinstance(settings.value_of(base, key), str)
    return settings.value_of(command.overridden(base, key, axes.unquoted(text) if is_text else text), key)


def _work(out: Path, cells: list[Cell], make: plan.Build) -> int:
    """Runs the cells that --only names, or those that a parent process names, a line each."""
    lines = [flags.FLAGS.only] if flags.FLAGS.only is not None else sys.stdin
    for line in lines:
        made = plan.plan(out, cells, make, only=[int(place) for place in line.split(",")])
        for groups in made.jobs():
            running.run_together(out, made, groups, make, _say)
        if flags.FLAGS.worker:
            _say(workers.ANSWER)
    return 0


def _report(out: Path, columns: list[str] | None) -> int:
    """Makes tables, figures and report of what is there; 1 if a cell failed or is still to be run."""
    read = outcomes.read_outcomes(out)
    try:
        written = outputs.write_outputs(out, read, columns)
    except InputError:  # of a column that there is none of: the table is not to be lost for it
        outputs.write_outputs(out, read, None)
        reports.write_sweep(out, read, None)
        raise
    written.append(reports.write_sweep(out, read, columns))
    print(*outputs.counts(read), sep="\n")
    print(*(f"  {path}" for path in written), sep="\n")
    return int(any(outcome.state not in ("done", "left out") for outcome in read.outcomes))


if __name__ == "__main__":
    command.run(main, define)

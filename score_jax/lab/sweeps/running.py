"""The cells of a plan run in this process: each training once, some together, then the evaluations that share it.

What a cell raises is its own: it is recorded with its line, the others finish, and it is tried again when the sweep is
started again. A signal ends the process after a checkpoint, as it ends a training.
"""

import contextlib
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from score_jax.lab import evaluation, own, run
from score_jax.lab.experiment import Experiment, Run
from score_jax.lab.sweeps import folder, joint
from score_jax.lab.sweeps.axes import Cell
from score_jax.lab.sweeps.plan import Build, Group, Plan, Planned, in_time, programs_of
from score_jax.training import checkpoint
from score_jax.training.logging import read_jsonl
from score_jax.types import InputError

_LINE = 600  # letters of an error that a table can bear


def run_groups(out: Path, made: Plan, build: Build, say: Callable[[str], None]) -> None:
    """Trains and evaluates what is not done yet, one training after another but for those that go together.

    Args:
      out: the folder of the sweep.
      made: its plan.
      build: makes the experiment of a cell.
      say: is told how it goes, in lines.
    """
    begin(out, made.cells)
    total, start = len(made.pending()), time.perf_counter()
    number = 0
    for groups in made.jobs():
        run_together(out, made, groups, build, say)
        number += len(groups)
        if number < total:
            left = (time.perf_counter() - start) / number * (total - number)
            say(f"{number} of {total} trainings done, about {in_time(left)} left")


def run_together(out: Path, made: Plan, groups: Sequence[Group], build: Build, say: Callable[[str], None]) -> None:
    """Trains groups that go together and evaluates their cells; what another process works on is waited for."""
    with contextlib.ExitStack() as stack:
        for group in sorted(groups, key=lambda group: group.run):  # in one order, so that none waits for each other
            waiting = partial(say, f"{group.run}: another process works on it: waiting for it to end")
            stack.enter_context(folder.locked(out / "locks" / group.run, waiting))
        cells = {group.run: [made.cells[i] for i in group.cells] for group in groups}
        workdirs = [folder.run_folder(out, group.run) for group in groups]
        experiments = [_built(build, cells[workdir.name][0].values, workdir) for workdir in workdirs]
        for group, trained in zip(groups, train_all(experiments, workdirs), strict=True):
            if not isinstance(trained, Run):
                _record_failed(out, cells[group.run], trained, say)
                continue
            seconds = _seconds_a_step(trained)
            done = [_evaluate(out, cell, trained, seconds, build, say) for cell in cells[group.run]]
            say(f"{group.run}: {sum(done)} of {len(done)} cells done")


def _built(build: Build, values: Cell, workdir: Path) -> Experiment | Exception:
    try:
        return build(values, run.before(workdir))
    except Exception as error:
        return error


def train_all(experiments: Sequence[Experiment | Exception], workdirs: Sequence[Path]) -> list[Run | Exception]:
    """Trains several experiments, each into its folder, to its end; returns the run of each, or what it raised.

    Those that are there already are restored; those that differ in numbers only train together in one program.
    """
    results: dict[int, Run | Exception] = {}
    left: list[tuple[int, Experiment]] = []
    for place, experiment in enumerate(experiments):
        if isinstance(experiment, Exception):
            results[place] = experiment
        elif experiment.training.steps in checkpoint.steps(workdirs[place]):
            try:
                results[place] = run.restore(experiment, workdirs[place], step=experiment.training.steps)
            except InputError:  # the checkpoint is damaged: training goes on from the one before
                left.append((place, experiment))
            except Exception as error:
                results[place] = error
        else:
            left.append((place, experiment))
    for part in joint.parts([experiment for _, experiment in left]):
        places, some = zip(*(left[i] for i in part.places), strict=True)
        trained = _trained(some, [workdirs[place] for place in places], part.names)
        results.update(zip(places, trained, strict=True))
    return [results[place] for place in range(len(experiments))]


def _trained(
    experiments: Sequence[Experiment], workdirs: Sequence[Path], names: Sequence[str]
) -> Sequence[Run | Exception]:
    """The runs of a part of `joint.parts` at their ends."""
    try:
        if len(experiments) == 1:
            return [run.train(experiments[0], workdirs[0])]
        values = [joint.numbers(experiment) for experiment in experiments]
        return run.train_together(experiments, workdirs, [{name: of_one[name] for name in names} for of_one in values])
    except Exception as error:  # of their objects, their numbers, the device: not of the others
        return [error] * len(experiments)


def _evaluate(
    out: Path, cell: Planned, trained: Run, seconds_a_step: float | None, build: Build, say: Callable[[str], None]
) -> bool:
    """Evaluates a cell, unless that is done, and writes down what became of it: whether it has numbers."""
    where = trained.workdir / cell.evaluation
    start, seconds = time.perf_counter(), folder.read_record(out, cell.record).get("evaluate_seconds")
    try:
        experiment = build(cell.values, run.before(trained.workdir))
        if not evaluation.is_done(where):
            evaluation.evaluate(run.of_state(experiment, trained.state, trained.workdir))
            seconds = time.perf_counter() - start
    except Exception as error:  # whatever a measure, a sampler or the device raises
        _record_failed(out, [cell], error, say)
        return False
    done = {
        "state": "done",
        "seconds_a_step": seconds_a_step,
        "evaluate_seconds": seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.state.params)),
        "programs": programs_of(experiment),
    }
    folder.write_record(out, cell.record, _place(cell) | done)
    return True


def _seconds_a_step(trained: Run) -> float | None:
    """The seconds of a step of a run, its share of one with others: the median of its metrics, whose first compiles."""
    metrics = trained.workdir / "metrics.jsonl"
    records = read_jsonl(metrics) if metrics.exists() else []
    rates = [record.get("examples_per_second", 0) * record.get("trained_together", 1) for record in records]
    known = [rate for rate in rates if rate]
    return float(trained.experiment.training.batch_size / statistics.median(known)) if known else None


def _place(cell: Planned) -> dict[str, Any]:
    return {"cell": cell.values, "run": cell.run, "evaluation": cell.evaluation}


def begin(out: Path, cells: Iterable[Planned]) -> None:
    """Forgets what became of cells that are tried again, and writes down why others cannot be."""
    for cell in cells:
        if cell.done or folder.read_record(out, cell.record).get("state") == "done":
            continue  # also of one that cannot be built here, and was elsewhere
        folder.forget_record(out, cell.record)
        if cell.left_out:
            folder.write_record(out, cell.record, _place(cell) | {"state": "left out", "reason": cell.left_out})


def _record_failed(out: Path, cells: Sequence[Planned], error: Exception, say: Callable[[str], None]) -> None:
    record_failed(out, cells, line_of(error, cells[0].values, out), traceback.format_exception(error))
    say(f"{cells[0].run}: failed: {line_of(error, cells[0].values, out)}")


def record_failed(out: Path, cells: Iterable[Planned], reason: str, trace: Sequence[str] = ()) -> None:
    """Writes down that cells failed, but for those whose numbers are there."""
    for cell in cells:
        done = evaluation.is_done(folder.run_folder(out, cell.run) / cell.evaluation)
        told = {"state": "done"} if done else {"state": "failed", "reason": reason, "traceback": [*trace]}
        if folder.read_record(out, cell.record).get("state") != "done":
            folder.write_record(out, cell.record, _place(cell) | told)


def line_of(error: Exception, values: Mapping[str, Any], out: Path) -> str:
    """Returns an error as one line, with the place of an own object that raised it."""
    text = (
        str(error) if isinstance(error, InputError) else own.blamed(error, [*own.names_in(values)]) or own.told(error)
    )
    line = " ".join(text.split()).replace(f"{out.absolute()}/", "").replace(f"{out}/", "")
    return line if len(line) <= _LINE else f"{line[:_LINE]}…"

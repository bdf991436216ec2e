"""The plan of a sweep: which trainings and evaluations its cells take, what is done, what cannot work and why.

Every cell is built before anything runs. A training is known by the settings that a run cannot go on with changed, and
its length: cells that differ in sampling or evaluation share it.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from score_jax import training
from score_jax.lab import evaluation, own, records
from score_jax.lab.experiment import OF_SAMPLING, OF_TRAINING, Before, Experiment
from score_jax.lab.sweeps import joint
from score_jax.lab.sweeps.axes import Cell
from score_jax.lab.sweeps.estimate import Speeds
from score_jax.lab.sweeps.folder import cell_words, read_record, run_folder
from score_jax.training import checkpoint
from score_jax.types import InputError

Build: TypeAlias = Callable[[Cell, Before | None], Experiment]  # a cell and what its run folder holds already

# What a run may go on with changed, and is another training all the same: its parameters come out otherwise.
_ANOTHER = {"training.steps", "network.attention_implementation", "data.root"}
_OF_A_PROCESS = ("device", "mesh")


class Planned(NamedTuple):
    """A cell and where its numbers will be.

    Attributes:
      values: its settings.
      record: name of its record.
      run: name of its run folder.
      evaluation: folder of its numbers, below the run's.
      left_out: why it cannot be.
      done: whether the numbers are there.
      seconds: that evaluating it is estimated to take.
    """

    values: Cell
    record: str
    run: str = ""
    evaluation: str = ""
    left_out: str = ""
    done: bool = False
    seconds: float = 0.0


class Group(NamedTuple):
    """A training and the cells that share it.

    Attributes:
      run: name of its folder.
      cells: places of its cells among all.
      steps: of the training.
      reached: step of its newest checkpoint.
      program: of equal ones, the compiled step is the same.
      together: of equal ones, the trainings are one program; None of one by itself.
      seconds: that the rest of it is estimated to take.
    """

    run: str
    cells: tuple[int, ...]
    steps: int
    reached: int
    program: str
    together: int | None = None
    seconds: float = 0.0


class Plan(NamedTuple):
    """The cells and trainings of a sweep."""

    cells: list[Planned]
    groups: list[Group]

    def pending(self) -> list[Group]:
        """Returns the groups with cells whose numbers are not there, those of one program beside each other."""
        return [group for group in self._ordered() if not self._is_done(group)]

    def jobs(self, workers: int = 1) -> list[list[Group]]:
        """Returns the pending groups, those that are trained together in one list, cut until each worker has one.

        The cuts are those of the whole sweep, so that what was stopped goes on in the company that it began in.
        """
        found: dict[Hashable, list[Group]] = {}
        for group in self._ordered():
            found.setdefault(group.run if group.together is None else group.together, []).append(group)
        jobs = list(found.values())
        while 0 < len(jobs) < workers and len(largest := max(jobs, key=len)) > 1:
            place, half = jobs.index(largest), (len(largest) + 1) // 2
            jobs[place : place + 1] = [largest[:half], largest[half:]]
        pending = [[group for group in job if not self._is_done(group)] for job in jobs]
        return [job for job in pending if job]

    def _ordered(self) -> list[Group]:
        """All groups, those of one program beside each other."""
        order = list(dict.fromkeys(group.program for group in self.groups))
        return sorted(self.groups, key=lambda group: order.index(group.program))

    def _is_done(self, group: Group) -> bool:
        return all(self.cells[place].done for place in group.cells)


def places_of(groups: Iterable[Group]) -> list[int]:
    """Returns the places of the cells of several trainings."""
    return [place for group in groups for place in group.cells]


def record_name(values: Cell) -> str:
    """Returns the name of a cell's record: in words, and a hash of all of it."""
    return f"{_words(values) or 'base'}-{records.digest(values)}"


def plan(
    out: Path, cells: Sequence[Cell], build: Build, *, only: Iterable[int] | None = None, speeds: Speeds | None = None
) -> Plan:
    """Builds every cell and groups them by training; nothing is written.

    Args:
      out: the folder of the sweep, which may not be there yet.
      cells: all of them.
      build: makes the experiment of one.
      only: places of the cells to plan; None is all.
      speeds: measures how long they take.

    Raises:
      InputError: of a setting that cannot be an axis, and where no cell can be run.
    """
    _require_axes(cells)
    planned: list[Planned] = []
    groups: dict[str, Group] = {}
    joint_ones: dict[str, Experiment] = {}  # done ones too: which go together does not hang on what is done
    for place in range(len(cells)) if only is None else only:
        values = cells[place]
        one = Planned(values, record_name(values))
        try:
            experiment = _built(out, values, build)
        except InputError as error:
            planned.append(one._replace(left_out=" ".join(str(error).split())))
            continue
        identity = records.digest(_identity(experiment))
        group = groups.get(identity) or _group(out, values, experiment, identity)
        where = evaluation.folder_to_be(experiment, run_folder(out, group.run))
        one = one._replace(run=group.run, evaluation=f"evaluations/{where.name}")
        one = one._replace(done=evaluation.is_done(where) and _is_recorded(out, one))
        if speeds is not None:
            one = one._replace(seconds=0.0 if one.done else speeds.evaluation(experiment))
            left = 0 if one.done else group.steps - group.reached
            group = group._replace(seconds=max(group.seconds, left and speeds.training(experiment, left)))
        groups[identity] = group._replace(cells=(*group.cells, len(planned)))
        planned.append(one)
        if joint.may_be_joint(experiment):
            joint_ones.setdefault(identity, experiment)
    if only is None and not groups:
        raise InputError(f"no cell can be run: {cell_words(planned[0].values)}: {planned[0].left_out}")
    unfinished = any(group.reached < group.steps for group in groups.values())
    return Plan(planned, list((_together(groups, joint_ones) if unfinished else groups).values()))


def _together(groups: Mapping[str, Group], experiments: Mapping[str, Experiment]) -> dict[str, Group]:
    """The groups with the numbers of those that are trained together, from 1."""
    found, names = dict(groups), list(experiments)
    several = [part for part in joint.parts(list(experiments.values())) if len(part.places) > 1]
    for number, part in enumerate(several, 1):
        found |= {names[place]: groups[names[place]]._replace(together=number) for place in part.places}
    return found


def _is_recorded(out: Path, cell: Planned) -> bool:
    """Whether what became of a cell is written down: it may have been stopped just before."""
    told = read_record(out, cell.record)
    return (told.get("state"), told.get("run"), told.get("evaluation")) == ("done", cell.run, cell.evaluation)


def programs_of(experiment: Experiment) -> dict[str, str]:
    """Returns hashes of the settings that the compiled programs of training and of evaluation depend on."""
    chosen = lambda sections: records.digest({name: experiment.settings[name] for name in sections})
    return {"train": chosen(OF_TRAINING), "evaluate": chosen((*OF_SAMPLING, "evaluation"))}


def _require_axes(cells: Sequence[Cell]) -> None:
    for cell in cells:
        for key in cell:
            if key.split(".")[0] in _OF_A_PROCESS:
                raise InputError(
                    f"{key} holds for a whole process, so it is no axis: give --config.{key}, and sweep once for each"
                )


def _built(out: Path, values: Cell, build: Build) -> Experiment:
    """The experiment of a cell, with what its run folder, which is found by what is built without it, has kept."""
    try:
        experiment = build(values, None)
    except InputError:
        raise
    except Exception as error:  # of somebody's object that no check of ours has met
        raise InputError(own.told(error)) from error
    accumulation = experiment.training.accumulation
    training.check_batch_size(experiment.training.batch_size, experiment.placement.mesh, accumulation=accumulation)
    return experiment


def _identity(experiment: Experiment) -> Mapping[str, Any]:
    free = [name for name in experiment.training.may_differ if name not in _ANOTHER]
    return checkpoint.binding(experiment.settings, free)


def _group(out: Path, values: Cell, experiment: Experiment, identity: str) -> Group:
    """A training, by the name that its folder has or will have."""
    there = sorted((out / "runs").glob(f"*-{identity}")) if (out / "runs").is_dir() else []
    free = [name for name in experiment.training.may_differ if name not in _ANOTHER]
    trained_on = {key: value for key, value in values.items() if key in checkpoint.binding({key: value}, free)}
    name = there[0].name if there else f"{_words(trained_on) or 'base'}-{identity}"
    reached = max(checkpoint.steps(run_folder(out, name)), default=0)
    return Group(name, (), experiment.training.steps, reached, programs_of(experiment)["train"])


def _words(values: Cell) -> str:
    """A cell's values as they can stand in a name of a folder: "dsm-vp-seed1"."""

    def one(key: str, value: Any) -> str:
        last = key.split(".")[-1]
        text = f"{value}" if last == "name" else f"{last}{value}"
        return re.sub(r"[^\w.+]+", "_", text).strip("_")

    return "-".join(one(key, value) for key, value in values.items())[:80].strip("-._")


def plan_lines(made: Plan, *, estimated: bool) -> Iterator[str]:
    """Yields the plan in words.

    Args:
      made: the plan.
      estimated: whether it says how long it takes.
    """
    cells, groups, left = made.cells, made.groups, made.pending()
    out_of = [cell for cell in cells if cell.left_out]
    done = [cell for cell in cells if cell.done]
    evaluations = {(cell.run, cell.evaluation) for cell in cells if cell.run}
    to_train = [group for group in left if group.reached < group.steps]
    yield (
        f"{len(cells)} cells: {len(groups)} trainings, {len(evaluations)} evaluations"
        + (f"; {len(done)} cells are done" if done else "")
        + (f"; {len(out_of)} left out" if out_of else "")
    )
    for group in groups:
        numbers = [cells[i] for i in group.cells]
        pending = sum(not cell.done for cell in numbers)
        reached = (
            f"{group.reached} of {group.steps} steps"
            if group.reached < group.steps
            else f"{group.steps} steps, trained"
        )
        told = (
            "done"
            if not pending
            else f"{pending} of {len(numbers)} cells to evaluate"
            if len(numbers) > 1
            else "to evaluate"
        )
        yield f"  {group.run}: {reached}; {told}" + (f"; in program {group.together}" if group.together else "")
    for number, several in Counter(group.together for group in left if group.together).items():
        yield f"  program {number}: {several} trainings go together"
    for cell in out_of:
        yield f"  left out: {cell_words(cell.values)}: {cell.left_out}"
    if estimated and left:
        training_time = sum(group.seconds for group in to_train)
        sampling = {(cell.run, cell.evaluation): cell.seconds for cell in cells if cell.run and not cell.done}
        total = training_time + sum(sampling.values())
        yield (
            f"estimated time: {in_time(total)} one after another, of which training {in_time(training_time)} "
            "(an estimate: from a step and a network call, or from cells that are done; compilation and measures come "
            "on top, and trainings that go together take less)"
        )


def in_time(seconds: float) -> str:
    """Returns "2 h 05 min", "3 min 20 s" or "4.2 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole:02} s" if minutes else f"{whole} s"

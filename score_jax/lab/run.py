"""A run: an experiment, the state that training left of it, and the folder with what came of it.

run = train(experiment, workdir);  run = restore(experiment, workdir);  runs = train_together(experiments, …)
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from score_jax import data as datasets
from score_jax import training
from score_jax.lab import watching
from score_jax.lab.experiment import OF_TRAINING, Before, Experiment, Run
from score_jax.lab.published import Published
from score_jax.training import TrainState, checkpoint, hosts
from score_jax.types import InputError, PyTree, is_on

_log = logging.getLogger(__name__)
_FAR = 0.1  # of an average, from the one that is wanted


def of_state(experiment: Experiment, state: TrainState, workdir: str | Path) -> Run:
    """Returns the run with trained parameters: their average if sampling takes it."""
    model = experiment.model.replace(variables=state.variables(ema=experiment.sampling.ema))
    origin = {"step": int(state.step)}
    sampling = experiment.sampling
    return Run(sampling.of(experiment.examples), model, sampling, origin, experiment, state, Path(workdir))


def of_published(experiment: Experiment, published: Published, workdir: str | Path) -> Run:
    """Returns a published checkpoint as the run whose end it is."""
    state = first_state(experiment)
    model, sampling = experiment.model, experiment.sampling
    examples = sampling.of(experiment.examples)
    return Run(examples, model, sampling, published.origin, experiment, state, Path(workdir))


def first_state(experiment: Experiment) -> TrainState:
    """Returns the state before the first step."""
    # One program, where operation by operation it is one for every shape.
    make = lambda: jax.jit(partial(training.create, transformation=experiment.training.optimizer))
    create = experiment.once("first state", make, of=OF_TRAINING)
    return create(jax.random.key(experiment.seed), experiment.model.variables)


def before(workdir: str | Path) -> Before | None:
    """Returns what a run folder holds that has checkpoints, as the first process sees it; None of any other."""

    def seen() -> list[Any] | None:
        steps = checkpoint.steps(Path(workdir))
        return [checkpoint.read_config(workdir), steps] if steps else None

    told = hosts.told_by_first(seen)  # the number of steps a dispatch hangs on it
    return None if told is None else Before(told[0], tuple(told[1]))


def train_step(experiment: Experiment) -> Callable[..., Any]:
    """Returns the compiled step of training, one for all experiments that differ in their seed only."""
    make = lambda: training.make_train_step(**_recipe(experiment), placement=experiment.placement)
    return experiment.once("train step", make, of=OF_TRAINING)


def joint_step(experiment: Experiment, names: Sequence[str]) -> Callable[..., Any]:
    """Returns the compiled step of several trainings, which differ from this experiment in these numbers and seed."""
    assert experiment.with_numbers is not None
    with_numbers = experiment.with_numbers
    recipe_of = lambda numbers: training.Recipe(**_recipe(with_numbers(numbers)))
    make = lambda: training.make_joint_step(recipe_of, mesh=experiment.placement.mesh)
    return experiment.once("joint step", make, of=OF_TRAINING, names=list(names))


def _recipe(experiment: Experiment) -> dict[str, Any]:
    how = experiment.training
    return {
        "model": experiment.model,
        "objective": experiment.objective,
        "transformation": how.optimizer,
        "times": experiment.times,
        "minimised": experiment.minimised,
        "prepare": experiment.prepare,
        "augment": experiment.augment,
        "decay": how.decay,
        "averaged": how.averaged,
        "label_dropout": how.label_dropout,
        "dropout": how.dropout,
        "accumulation": how.accumulation,
        "levels": how.log_levels,
        "skips": how.skips,
    }


def train(experiment: Experiment, workdir: str | Path) -> Run:
    """Trains from the last checkpoint in `workdir`, or from the start, to the end.

    Raises:
      InputError, TrainingDiverged, NotWritten, KeyboardInterrupt, SystemExit: see `training.train`.
    """
    step, told = train_step(experiment), _told(experiment, Path(workdir))
    with contextlib.closing(_loader(experiment)) as loader:
        result = training.train(first_state(experiment), step, loader, placement=experiment.placement, **told)
    return _trained(experiment, result.state, workdir)


def train_together(
    experiments: Sequence[Experiment], workdirs: Sequence[Path], numbers: Sequence[Mapping[str, float]]
) -> list[Run | Exception]:
    """Trains experiments that differ in numbers and seed only as `train` does each, in one program.

    Args:
      experiments: of equal settings otherwise.
      workdirs: of each.
      numbers: of each, by dotted key of the setting.

    Raises:
      KeyboardInterrupt, SystemExit: see `training.train_together`. Returned is what a run of its own would raise.
    """
    step = joint_step(experiments[0], [*numbers[0]])
    with contextlib.ExitStack() as stack:
        courses: list[Callable[..., training.Course]] = []
        for experiment, workdir in zip(experiments, workdirs, strict=True):
            loader = stack.enter_context(contextlib.closing(_loader(experiment)))
            told = _told(experiment, workdir, together=len(experiments))
            told |= {"progress": not courses}  # they go side by side: the first shows all
            courses.append(partial(training.course, first_state(experiment), loader, **told))
        results = training.train_together(courses, step, numbers, placement=experiments[0].placement)
    return [
        result if isinstance(result, Exception) else _trained(experiment, result.state, workdir)
        for experiment, workdir, result in zip(experiments, workdirs, results, strict=True)
    ]


def _trained(experiment: Experiment, state: TrainState, workdir: str | Path) -> Run:
    """The run at its end; an average that is made of several is of its checkpoints."""
    if is_on(experiment.sampling.ema_std):
        return restore(experiment, workdir)
    return of_state(experiment, state, workdir)


def _loader(experiment: Experiment) -> datasets.Loader:
    return datasets.Loader(
        experiment.data.train,
        batch_size=experiment.training.batch_size,
        steps_per_batch=experiment.training.every.dispatch,
        seed=experiment.seed,
        rows=training.sharding.own_rows(experiment.training.batch_size, experiment.placement.mesh),
    )


def _told(experiment: Experiment, workdir: Path, *, together: int = 1) -> dict[str, Any]:
    """What the loop is told of an experiment whose batches the devices can share."""
    how = experiment.training
    training.check_batch_size(how.batch_size, experiment.placement.mesh, accumulation=how.accumulation)
    return {
        "workdir": workdir,
        "config": experiment.settings,
        "steps": how.steps,
        "steps_per_dispatch": how.every.dispatch,
        "log_every": how.every.log,
        "checkpoint_every": how.every.checkpoint,
        "periodic": watching.periodic(experiment, workdir),
        "rates": watching.rates(how, together=together),
        "keep_last": how.keep_last,
        "keep_every": how.every.keep,
        "may_differ": how.may_differ,
        "rollbacks": how.rollbacks,
        "on_save_error": how.on_save_error,
        "loggers": how.loggers,
        "seed": experiment.seed,
    }


def restore(experiment: Experiment, workdir: str | Path, *, step: int | None = None) -> Run:
    """Returns the run in `workdir` with the parameters of its newest checkpoint, or that of `step`.

    Args:
      experiment: the run's, possibly with other sampling and evaluation.
      workdir: a folder that training wrote.
      step: which checkpoint.

    Raises:
      InputError: where there is no run or checkpoint, or the experiment's settings are not those that trained it.
    """
    may_differ, first = experiment.training.may_differ, jax.eval_shape(partial(first_state, experiment))
    described = training.sharding.described(first, experiment.placement)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:

        def read(step: int | None) -> checkpoint.Restored:
            restored = checkpoint.restore_state(
                manager, described, config=experiment.settings, may_differ=may_differ, step=step
            )
            if restored is None:
                raise InputError(f"{workdir} has no checkpoint yet: train first, or give another workdir")
            return restored

        restored = read(step)
        state = restored.state
        if is_on(experiment.sampling.ema_std):
            kept = [one for one in checkpoint.steps(Path(workdir)) if one <= restored.step]
            state = dataclasses.replace(state, ema=_average(experiment, kept, lambda one: read(one).state.ema))
    return of_state(experiment, state, workdir)


def _average(experiment: Experiment, kept: Sequence[int], read: Callable[[int], PyTree]) -> PyTree:
    """The average of the width that sampling asks for at the last of `kept`, of those that its checkpoints hold."""
    trained, wanted = experiment.settings["training"]["ema_std"], experiment.sampling.ema_std
    if not is_on(trained):
        raise InputError(
            f"sampler.ema_std {wanted:g} is made of the averages that training.ema_std leaves in checkpoints, and this "
            "run has none: set --config.sampler.ema_std=0, or train with --config.training.ema_std=0.1"
        )
    weights, distance = training.reconstruction(kept, [trained] * len(kept), max(kept), wanted)
    if distance > _FAR:
        _log.warning(
            f"the average of relative width {wanted:g} is {distance:.2f} of its own length away from what "
            f"{len(kept)} checkpoints of width {trained:g} can make: keep more (training.keep_every), or ask for a "
            "width nearer theirs"
        )
    averages = (jax.tree.map(lambda leaf, w=w: w * leaf, read(one)) for w, one in zip(weights.tolist(), kept))
    return functools.reduce(lambda total, one: jax.tree.map(jnp.add, total, one), averages)

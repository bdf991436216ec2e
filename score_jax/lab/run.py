"""A run: an experiment, the state that training left of it, and the folder with what came of it.

run = train(experiment, workdir);  run = restore(experiment, workdir)
"""

import contextlib
from pathlib import Path

import jax

from score_jax import data as datasets
from score_jax import training
from score_jax.lab import watching
from score_jax.lab.experiment import Before, Experiment, Run
from score_jax.training import TrainState, checkpoint
from score_jax.types import InputError


def of_state(experiment: Experiment, state: TrainState, workdir: str | Path) -> Run:
    """Returns the run with trained parameters: their average if sampling takes it."""
    model = experiment.model.replace(variables=state.variables(ema=experiment.sampling.ema))
    origin = {"step": int(state.step)}
    return Run(experiment.examples, model, experiment.sampling, origin, experiment, state, Path(workdir))


def first_state(experiment: Experiment) -> TrainState:
    """Returns the state before the first step."""
    return training.create(jax.random.key(experiment.seed), experiment.model.variables, experiment.training.optimizer)


def before(workdir: str | Path) -> Before | None:
    """Returns what a run folder holds that has checkpoints; None of any other."""
    steps = checkpoint.steps(Path(workdir))
    return Before(checkpoint.read_config(workdir), tuple(steps)) if steps else None


def train(experiment: Experiment, workdir: str | Path) -> Run:
    """Trains from the last checkpoint in `workdir`, or from the start, to the end.

    Raises:
      InputError, TrainingDiverged, NotWritten, KeyboardInterrupt, SystemExit: see `training.train`.
    """
    how, mesh, workdir = experiment.training, training.data_mesh(), Path(workdir)
    training.check_batch_size(how.batch_size, mesh, accumulation=how.accumulation)
    step = training.make_train_step(
        experiment.model,
        experiment.objective,
        how.optimizer,
        times=experiment.times,
        mesh=mesh,
        prepare=experiment.prepare,
        decay=how.decay,
        label_dropout=how.label_dropout,
        dropout=how.dropout,
        accumulation=how.accumulation,
        levels=how.log_levels,
    )
    loader = datasets.Loader(
        experiment.data.train,
        batch_size=how.batch_size,
        steps_per_batch=how.every.dispatch,
        seed=experiment.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(loader):
        result = training.train(
            first_state(experiment),
            step,
            loader,
            workdir=workdir,
            config=experiment.settings,
            mesh=mesh,
            steps=how.steps,
            steps_per_dispatch=how.every.dispatch,
            log_every=how.every.log,
            checkpoint_every=how.every.checkpoint,
            periodic=watching.periodic(experiment, workdir),
            rates=watching.rates(how),
            keep_last=how.keep_last,
            keep_every=how.every.keep,
            may_differ=how.may_differ,
            on_save_error=how.on_save_error,
            loggers=how.loggers,
            seed=experiment.seed,
        )
    return of_state(experiment, result.state, workdir)


def restore(experiment: Experiment, workdir: str | Path, *, step: int | None = None) -> Run:
    """Returns the run in `workdir` with the parameters of its newest checkpoint, or that of `step`.

    Args:
      experiment: the run's, possibly with other sampling and evaluation.
      workdir: a folder that training wrote.
      step: which checkpoint.

    Raises:
      InputError: where there is no run or checkpoint, or the experiment's settings are not those that trained it.
    """
    may_differ, state = experiment.training.may_differ, first_state(experiment)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        restored = checkpoint.restore_state(
            manager, state, config=experiment.settings, may_differ=may_differ, step=step
        )
    if restored is None:
        raise InputError(f"{workdir} has no checkpoint yet: train first, or give another workdir")
    return of_state(experiment, restored.state, workdir)

"""A run watched while it trains: pictures of samples, held-out loss, and the rates it trains with.

Samples are always drawn from the same noise and labels, and the held-out loss from the same noise, so that what changes
from one time to the next is what was learned.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from score_jax.lab import samples
from score_jax.lab.experiment import Experiment, Trained, Training
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.training import TrainState, hosts
from score_jax.training.loop import Every, Seen

_IMAGES, _POINTS = 64, 1000  # samples, at most


def rates(how: Training, *, together: int = 1) -> Callable[[int], dict[str, Any]]:
    """Returns step -> the learning rate and the decay of the average at its last update, and examples seen so far.

    The learning rate is that of as many updates as steps: after skipped steps (`training.on_nan`) the schedule is so
    many updates behind. And how many runs share the time, where they are several.

    All are found at once, for the steps of records: asked for in the midst of training, a number of the device would
    come after the dispatch in progress.
    """
    steps = np.arange(how.every.log, how.steps + 1, how.every.log)
    of_updates = lambda function: np.asarray(jax.vmap(function)(jnp.asarray(steps - 1))).tolist()
    columns = {"ema_decay": of_updates(how.decay), "examples": (steps * how.batch_size).tolist()}
    if how.learning_rate is not None:
        columns["learning_rate"] = of_updates(how.learning_rate)
    if together > 1:
        columns["trained_together"] = [together] * len(steps)
    records = {step: dict(zip(columns, row)) for step, *row in zip(steps.tolist(), *columns.values(), strict=True)}
    return records.__getitem__


def periodic(experiment: Experiment, workdir: Path) -> list[Every]:
    """Returns what is to be done every so many steps of a training."""
    every = experiment.training.every
    found = [] if every.evaluate is None else [Every(every.evaluate, _held_out_loss(experiment))]
    if every.sample is None or experiment.examples.picture == "none" or experiment.sampling.without_score:
        return found
    return [*found, Every(every.sample, _pictures(experiment, workdir))]


def _held_out_loss(experiment: Experiment) -> Callable[[TrainState, int], Seen]:
    measure = loss_of_state(experiment)
    return lambda state, step: Seen({f"held_out_{name}": value for name, value in measure(state).items()})


def _pictures(experiment: Experiment, workdir: Path) -> Callable[[TrainState, int], Seen]:
    how, model, data = experiment.sampling, experiment.model, experiment.data
    examples = how.of(experiment.examples)
    n = min(how.n, how.batch_size, _IMAGES if examples.picture == "images" else _POINTS)
    labels = samples.classes_in_turn(examples, n)
    first = Trained(examples, model, how, {})
    program = samples.program_of(first)

    def draw(state: TrainState, step: int) -> Seen:
        from score_jax.lab import show  # deferred: it brings matplotlib, and not every run is watched

        trained = Trained(examples, model.replace(variables=state.variables(ema=how.ema)), how, {"step": step})
        drawn = samples.draw_samples(trained, n=n, labels=labels, program=program, quiet=True)
        folder = hosts.own(workdir / "samples" / "during" / f"{step:07d}")
        written = show.show_progress(trained, drawn, folder, data)
        for path in written.values() if hosts.is_first() else ():
            tqdm.write(f"  {path}")
        return Seen({}, written)

    return draw

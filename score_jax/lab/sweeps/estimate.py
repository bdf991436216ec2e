"""How long a sweep will take: an estimate, from a step and a network call of each program, or from what is done."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import training
from score_jax.lab import records, run
from score_jax.lab.experiment import OF_MODEL, OF_SAMPLING, OF_TRAINING, Experiment
from score_jax.lab.sweeps.folder import read_object

_BUDGET = 60.0  # seconds of measuring; programs beyond it are taken to be as fast as those before
_ADAPTIVE = 100  # network calls of a sampler that chooses its steps itself: a guess


class Speeds:
    """Seconds of a step of training and of a network call, found once for each program."""

    def __init__(self, out: Path):
        self._until = time.perf_counter() + _BUDGET
        self._found: dict[str, float] = {}
        self._done = _of_finished_cells(out)

    def training(self, experiment: Experiment, steps: int) -> float:
        """Returns the seconds that so many steps will take."""
        key = _key(experiment, OF_TRAINING)
        return steps * self._seconds("train", key, lambda: _seconds_of_a_step(experiment))

    def evaluation(self, experiment: Experiment) -> float:
        """Returns the seconds that drawing the samples of an evaluation will take; all of it, where one is done."""
        how = experiment.sampling
        key = _key(experiment, (*OF_SAMPLING, "evaluation"))
        if key in self._done:
            return self._done[key]
        size = min(how.batch_size, experiment.evaluation.n)
        batches = -(-experiment.evaluation.n // size)
        examples = how.of(experiment.examples)
        if examples.occurring and examples.null_label and not how.by_label:
            batches *= 2  # with labels and without
        call = lambda: _seconds_of_a_call(experiment, size)
        return batches * _calls(experiment) * self._seconds("call", f"{_key(experiment, OF_MODEL)} {size}", call)

    def _seconds(self, what: str, key: str, measure: Callable[[], float]) -> float:
        name = f"{what} {key}"
        if what == "train" and key in self._done:
            return self._done[key]
        others = [seconds for other, seconds in self._found.items() if other.startswith(what)]
        if name not in self._found and others and time.perf_counter() > self._until:
            return float(np.mean(others))
        if name not in self._found:
            try:
                self._found[name] = measure()
            except Exception:  # what it is will be told where it is run: an estimate is not to end a sweep
                self._found[name] = 0.0
        return self._found[name]


def _key(experiment: Experiment, sections: tuple[str, ...]) -> str:
    return records.digest({name: experiment.settings[name] for name in sections})


def _of_finished_cells(out: Path) -> dict[str, float]:
    """Seconds of a step, and of an evaluation, by program, of the cells that were run already."""
    found: dict[str, list[float]] = {}
    for path in sorted((out / "cells").glob("*.json")) if (out / "cells").is_dir() else []:
        record: Mapping[str, Any] = read_object(path)
        programs = record.get("programs") or {}
        for name, seconds in (("train", "seconds_a_step"), ("evaluate", "evaluate_seconds")):
            value = record.get(seconds)
            if isinstance(value, float) and isinstance(programs, dict) and name in programs:
                found.setdefault(str(programs[name]), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _calls(experiment: Experiment) -> int:
    how, model = experiment.sampling, experiment.model
    calls = how.make(model.sde, how.transform(model.sde, model.conditioned())).calls
    scores = (len(how.ts) - 1) * calls + bool(how.denoise) if calls else _ADAPTIVE
    return how.drawn_from(model).evaluations * scores


def _seconds_of_a_step(experiment: Experiment) -> float:
    mesh, how, source = experiment.placement.mesh, experiment.training, experiment.data.train
    k, size = how.every.dispatch, how.batch_size
    batch = source.batch(np.arange(k * size) % len(source))
    stacked = {name: v.reshape(k, size, *v.shape[1:]) for name, v in batch.items() if name in ("x", "label")}
    placed, step = training.put_batches(stacked, mesh), run.train_step(experiment)
    state, _ = step(training.place(run.first_state(experiment), experiment.placement), placed)
    start = time.perf_counter()
    jax.block_until_ready(step(jax.block_until_ready(state), placed))
    return (time.perf_counter() - start) / k


def _seconds_of_a_call(experiment: Experiment, size: int) -> float:
    model = experiment.model
    label = jnp.zeros(size, jnp.int32) if experiment.examples.names else None
    x = jnp.zeros((size, *experiment.examples.shape))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(_CALL(model, x, jnp.asarray(model.sde.t_max), label))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


_CALL = jax.jit(lambda model, x, t, label: model(x, t, label=label))

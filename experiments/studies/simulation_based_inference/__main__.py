"""Posteriors of simulators by a conditional score: `python -m experiments.studies.simulation_based_inference`.

Denoising score matching on pairs (θ, y) of prior and simulator gives s(θ, t; y), which the probability flow turns into
draws of p(θ | y) of any y. They are compared with exact ones, and with those that sbibm ships:

    pip download sbibm --no-deps && unzip -q sbibm-*.whl -d sbibm
    python -m experiments.studies.simulation_based_inference --reference=sbibm/sbibm/tasks
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import study
from experiments.studies.simulation_based_inference.problems import PROBLEMS, Problem, Reference, published
from score_jax import adapters, losses, metrics, networks, parameterization, plotting, sampling, training
from score_jax import sde as sdes
from score_jax.losses import times, weighting
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.types import Array, InputError, Key, ScoreFn

SIMULATIONS, STEPS, BATCH, A_DISPATCH = 10_000, 6_000, 256, 500
DRAWS, OBSERVATIONS, GRID = 2_000, 3, 31  # times of the flow
NETWORK = networks.Contextual(networks.MLP((128, 128, 128)))


class Scaler(NamedTuple):
    """Mean and standard deviation of each number, `(D,)`: (v − mean)/std is what networks see."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, rows: Array) -> "Scaler":
        return cls(rows.mean(0), rows.std(0))

    def scaled(self, rows: Array) -> Array:
        return (rows - self.mean[None]) / self.std[None]

    def unscaled(self, rows: Array) -> Array:
        return self.mean[None] + self.std[None] * rows


class Inference(NamedTuple):
    """A trained model of scaled θ given scaled y, and the scales."""

    model: ScoreModel
    theta: Scaler
    y: Scaler

    def draw(self, key: Key, y: Array, n: int) -> Array:
        """Draws θ `(n, D)` of p(θ | y), y `(M,)`, by Heun's method on the probability flow."""
        context = jnp.broadcast_to(self.y.scaled(y[None]), (n, len(y)))
        score_fn, sde = self.model.conditioned(label=context), self.model.sde
        x = sde.prior_sample(key, (n, len(self.theta.mean)))
        x = sampling.sample(key, sampling.heun(sde, score_fn), x, grids.karras(sde, GRID))
        return self.theta.unscaled(x)


def learn(
    key: Key,
    problem: Problem,
    *,
    network: networks.Contextual = NETWORK,
    simulations: int = SIMULATIONS,
    steps: int = STEPS,
) -> Inference:
    """Simulates, and trains by denoising score matching of θ alone, y being the network's context."""
    key_theta, key_y, key_init, key_train = jax.random.split(key, 4)
    theta = problem.prior(key_theta, simulations)
    y = problem.simulate(key_y, theta)
    scales = Scaler.of(theta), Scaler.of(y)
    pairs = {"x": scales[0].scaled(theta), "label": scales[1].scaled(y)}
    sde, apply = sdes.EDM(), adapters.linen(network)
    variables = apply.init(key_init, pairs["x"][:1], jnp.ones(1), pairs["label"][:1])
    model = ScoreModel(variables, sde, apply, parameterization.EDM(1.0))
    optimizer = training.optimizer(2e-3, schedule="cosine", total_steps=steps, clip_norm=1.0)
    placement = training.make_placement(devices=jax.devices()[:1])

    def objective(key: Key, score_fn: ScoreFn, x0: Array, drawn: times.Times) -> Array:
        return losses.diffusion_loss(key, sde, score_fn, x0, times=drawn, weighting=weighting.edm(1.0))

    step = training.make_train_step(model, objective, optimizer, placement=placement, times=times.lognormal(-1.2, 1.6))
    state = training.place(training.create(key_train, variables, optimizer), placement)
    for done in range(0, steps, A_DISPATCH):
        shape = min(A_DISPATCH, steps - done), BATCH
        rows = jax.random.randint(jax.random.fold_in(key, done), shape, 0, simulations)
        batches = {name: values[rows] for name, values in pairs.items()}
        state, _ = step(state, training.put_batches(batches, placement.mesh))
    return Inference(model.replace(variables=state.variables(ema=False)), *scales)


def references(key: Key, problem: Problem, tasks: Path | None) -> list[Reference]:
    """Observations with draws of their posterior: sbibm's, or simulated ones with exact draws."""
    if tasks is not None and problem.task:
        found = [published(tasks, problem.task, number + 1) for number in range(OBSERVATIONS)]
        return [Reference(one.y, one.theta[:DRAWS]) for one in found]
    y = problem.simulate(jax.random.fold_in(key, 0), problem.prior(jax.random.fold_in(key, 1), OBSERVATIONS))
    draw = lambda i: problem.posterior(jax.random.fold_in(key, 2 + i), y[i], DRAWS)
    return [Reference(np.asarray(y[i]), np.asarray(draw(i))) for i in range(OBSERVATIONS)]


def compared(key: Key, problem: Problem, inference: Inference, known: list[Reference]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and the draws of the first observation."""
    draw = jax.jit(lambda key, y: inference.draw(key, y, DRAWS))
    drawn = [np.asarray(draw(jax.random.fold_in(key, i), jnp.asarray(one.y))) for i, one in enumerate(known)]
    tests = [metrics.c2st(key, one.theta, theta) for one, theta in zip(known, drawn, strict=True)]
    exact = np.asarray(problem.posterior(jax.random.fold_in(key, OBSERVATIONS), jnp.asarray(known[0].y), DRAWS))
    floor = metrics.c2st(key, known[0].theta, exact)
    stds = [(one.theta.std(0), theta.std(0)) for one, theta in zip(known, drawn, strict=True)]
    row = {
        "C2ST": float(np.mean([value for value, _ in tests])),
        "standard error": float(np.linalg.norm([error for _, error in tests]) / len(tests)),
        "largest": max(value for value, _ in tests),
        "C2ST of exact draws": floor[0],
        "its standard error": floor[1],
        "std over the exact": float(np.mean([(theirs / right).mean() for right, theirs in stds])),
    }
    return row, drawn[0]


def run(seed: int, tasks: Path | None = None) -> study.Result:
    """Trains one model a problem, and compares what it infers of a few observations."""
    rows, figures = [], {}
    for i, (name, problem) in enumerate(PROBLEMS.items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        known = references(jax.random.fold_in(key, 1), problem, tasks)
        row, drawn = compared(jax.random.fold_in(key, 2), problem, learn(key, problem), known)
        source = "sbibm's draws" if tasks is not None and problem.task else "exact draws"
        rows.append({"problem": name, "θ": drawn.shape[1], "y": known[0].y.size, "against": source, **row})
        if drawn.shape[1] == 2:
            clouds = {"learned": drawn, source: known[0].theta}
            figures[f"{name.replace(' ', '_')}.png"] = plotting.clouds(clouds)
    conditions = (
        f"{SIMULATIONS:,} simulations, {STEPS:,} steps of {BATCH}, Heun on {GRID} times; C2ST of {DRAWS:,} draws each, "
        f"means over {OBSERVATIONS} observations; ½ is best; seed {seed}."
    )
    return study.Result(rows, figures, conditions)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path, help="the folder sbibm/tasks of an unpacked sbibm")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        result = run(options.seed, options.reference)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    study.publish(Path(__file__).parent, result, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())

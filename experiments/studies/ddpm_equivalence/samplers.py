"""(f) Every sampler on one exact score: distance from the exact law against calls of the score, and the order of it.

The process is VP, the grid equally spaced in log-SNR. Samplers of the probability flow are compared with its exact
trajectories, stochastic ones with the exact law; on the line both are one Wasserstein distance (`oracle`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.studies import study
from experiments.studies.ddpm_equivalence import figures, oracle
from score_jax import sampling
from score_jax import sde as sdes
from score_jax.sampling import Sampler, grids
from score_jax.types import Array, Key

END = 1e-3  # the time at which the laws are compared, σ/α = 0.0105
CALLS = (10, 20, 40, 80, 160, 320)
NOISY_CALLS = CALLS[:4]  # of the stochastic samplers: beyond, their error is not seen behind that of the draws
TOLERANCES = tuple(10.0**-k for k in np.arange(1, 10))
ROUNDING = 1e-11  # errors below are the arithmetic's


class Kind(NamedTuple):
    """A sampler, its calls of the score a step, and the order it should have."""

    make: Callable[..., Sampler]
    calls: int
    order: str


FLOW = {
    "Euler": Kind(sampling.euler, 1, "1"),
    "DDIM(0) = DPM-Solver-1": Kind(sampling.ddim, 1, "1"),
    "Heun": Kind(sampling.heun, 2, "2"),
    "DPM-Solver++ 2M": Kind(lambda *a: sampling.dpm_solver_pp(*a, order=2), 1, "2"),
    "DPM-Solver++ 3M": Kind(lambda *a: sampling.dpm_solver_pp(*a, order=3), 1, "3"),
    "UniPC-2": Kind(lambda *a: sampling.unipc(*a, order=2), 1, "3"),
    "UniPC-3": Kind(lambda *a: sampling.unipc(*a, order=3), 1, "4"),
}
STOCHASTIC = {
    "Euler–Maruyama": Kind(sampling.euler_maruyama, 1, "1"),
    "reverse diffusion": Kind(sampling.reverse_diffusion, 1, "1"),
    "ancestral, transition variance": Kind(lambda *a: sampling.ancestral(*a, variance="transition"), 1, "1"),
    "ancestral = DDIM(1)": Kind(sampling.ancestral, 1, "1"),
    "SDE-DPM-Solver++ 2M": Kind(lambda *a: sampling.dpm_solver_pp(*a, order=2, eta=1.0), 1, "2"),
}
ADAPTIVE = "adaptive, Dormand–Prince 5(4)"


def process() -> sdes.SDE:
    """The process that is sampled."""
    return sdes.VP()


def end_of(sde: sdes.SDE, kind: Kind, calls: int, key: Key, start: Array) -> float:
    """Distance after a run that spends `calls`."""
    ts = grids.log_snr(sde, calls // kind.calls + 1, t_end=END)
    sampler = kind.make(sde, oracle.score_of(sde))
    x = jax.jit(lambda key, x: sampling.sample(key, sampler, x, ts))(key, start)
    return oracle.wasserstein(x, sde, END)


def adaptive(sde: sdes.SDE, start: Array, tolerances: tuple[float, ...]) -> tuple[list[int], list[float]]:
    """Calls and distances of the adaptive integration, by tolerance."""

    @jax.jit
    def solve(x, tolerance):
        return sampling.probability_flow(sde, oracle.score_of(sde), x, t1=END, rtol=tolerance, atol=tolerance)

    ends = [solve(start, tolerance) for tolerance in tolerances]
    return [int(calls) for _, calls in ends], [oracle.wasserstein(x, sde, END) for x, _ in ends]


def flows(sde: sdes.SDE, n: int, calls: tuple[int, ...], tolerances: tuple[float, ...]) -> dict:
    """`{name: (calls, errors)}` of the probability flow's samplers."""
    key, start = jax.random.key(0), oracle.starts(sde, sde.t_max, n)
    found = {name: (list(calls), [end_of(sde, kind, c, key, start) for c in calls]) for name, kind in FLOW.items()}
    return found | {ADAPTIVE: adaptive(sde, start, tolerances)}


def chains(sde: sdes.SDE, key: Key, n: int, calls: tuple[int, ...]) -> dict:
    """`{name: (calls, distances)}` of the stochastic samplers."""
    start = oracle.starts(sde, sde.t_max, n)
    return {name: (list(calls), [end_of(sde, kind, c, key, start) for c in calls]) for name, kind in STOCHASTIC.items()}


def row(name: str, found: tuple, kind: Kind | None, least: float, shown: tuple[int, ...]) -> study.Row:
    """Errors by number of calls, of the adaptive method those of its dearest run within it; and the order."""
    calls, errors = found
    by_calls = dict(zip(calls, errors, strict=True))

    def error(limit: int) -> float | str:
        if kind is not None:
            return by_calls.get(limit, "–")
        return min((e for c, e in by_calls.items() if c <= limit), default="–")

    return {
        "sampler": name,
        "calls a step": 6 if kind is None else kind.calls,
        **{f"{limit} calls": error(limit) for limit in shown},
        "order measured": "–" if kind is None else round(oracle.order(calls, errors, least), 2),
        "expected": "–" if kind is None else kind.order,
    }


def measure(
    seed: int, points: int = 200, n: int = 160_000, calls=CALLS, noisy_calls=NOISY_CALLS, tolerances=TOLERANCES
) -> study.Result:
    """Measures in double precision: `points` trajectories of the flow, `n` chains of the stochastic samplers."""
    with jax.enable_x64(True):
        sde = process()
        deterministic = flows(sde, points, calls, tolerances)
        stochastic = chains(sde, jax.random.key(seed), n, noisy_calls)
        least = oracle.floor(sde, END, n, seed)
    table = [row(name, f, FLOW.get(name), ROUNDING, calls) for name, f in deterministic.items()]
    table += [row(name, f, STOCHASTIC[name], least, calls) for name, f in stochastic.items()]
    figure = figures.lines(
        {"probability flow": deterministic, "stochastic": stochastic},
        xlabel="calls of the score",
        ylabel="distance W₂ from the exact law",
        log_x=True,
        markers=True,
        ticks=calls,
    )
    conditions = (
        f"VP, exact score of a mixture on the line, double precision, log-SNR grid down to σ/α = 0.0105, seed {seed}; "
        f"{points} trajectories of the flow, {n:,} chains of the others, of which as many exact draws are {least:.2g} "
        "away. Orders: of the last three numbers of calls whose error is above twice that, which is taken off in "
        f"squares, or above rounding. The adaptive method: at tolerances from {tolerances[0]:.0e} to "
        f"{tolerances[-1]:.0e}, the best run within so many calls."
    )
    return study.Result(table, {"samplers.png": figure}, conditions)

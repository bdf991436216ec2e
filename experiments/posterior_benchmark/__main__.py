"""Every conditional method against posteriors that are known: `python -m experiments.posterior_benchmark`.

Mixture priors in 2, 20 and 200 dimensions, half of the numbers observed with Gaussian noise, more or less, well- or
ill-posed; the exact score of the noised prior, so that what is wrong is the method's. `--only MMPS TDS` for some.
"""

import argparse
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.posterior_benchmark import figures, measures
from experiments.posterior_benchmark.measures import Asked, Numbers
from experiments.posterior_benchmark.methods import METHODS
from experiments.posterior_benchmark.problems import Cases, Problem, cases
from experiments.studies import study
from score_jax.types import Array, Key

BASE = Problem()
PROBLEMS = {
    "base": BASE,
    "D = 2": BASE._replace(dims=2),
    "D = 200": BASE._replace(dims=200),
    "σ_y = 0.01": BASE._replace(noise_std=0.01),
    "σ_y = 1": BASE._replace(noise_std=1.0),
    "ill-posed": BASE._replace(ill_posed=True),
}
STEPS, FEWER_OR_MORE = 100, (20, 500)
OBSERVATIONS, OF_MANY_DIMS, DRAWS = 128, 32, 63
EXACT, EXACT_SCORE = "exact draws", "exact posterior score"


class Run(NamedTuple):
    """What is measured once: a method on a problem in so many steps."""

    method: str
    problem: str
    steps: int


def runs(names: list[str]) -> list[Run]:
    """Returns all that is measured, problems of one program after another."""
    everywhere = [Run(name, problem, STEPS) for name in names for problem in PROBLEMS]
    steps = [Run(name, "base", n) for name in names if name != EXACT for n in FEWER_OR_MORE]
    return everywhere + steps


def drawn(key: Key, run: Run, given: Cases) -> Array:
    """Draws `(N, L, D)` by what the run names."""
    if run.method == EXACT:
        return jax.jit(measures.exactly, static_argnums=2)(key, given.posterior, DRAWS)
    if run.method == EXACT_SCORE:
        return _by_exact_score(key, given.posterior, DRAWS, run.steps)
    y = jnp.repeat(given.y[:, None], DRAWS, 1)
    return _program(run.method, run.steps)(key, Asked.of(PROBLEMS[run.problem]), y)


_by_exact_score = jax.jit(measures.by_exact_score, static_argnums=(2, 3))


@lru_cache
def _program(name: str, steps: int):
    return jax.jit(partial(measures.run, METHODS[name], steps=steps))


def measured(seed: int, names: list[str]) -> dict[Run, Numbers]:
    """Draws and compares everything, printing a line each; all methods have the same truths and observations."""
    key_cases, key_runs, key_compare = jax.random.split(jax.random.key(seed), 3)
    n = lambda problem: OBSERVATIONS if problem.dims < 200 else OF_MANY_DIMS
    given, found = {name: cases(key_cases, problem, n(problem)) for name, problem in PROBLEMS.items()}, {}
    for i, run in enumerate(todo := runs(names)):
        start = time.perf_counter()
        # Ready before anything else starts: with two cores, XLA's threads for programs at once wait for each other.
        x = jax.block_until_ready(drawn(jax.random.fold_in(key_runs, i), run, given[run.problem]))
        found[run] = measures.compare(key_compare, x, given[run.problem])
        seconds = time.perf_counter() - start
        told = f"{run.method}, {run.problem}, {run.steps} steps"
        print(f"[{i + 1:3}/{len(todo)}] {told:50} sliced W2 {found[run].sliced_w2:.3f} {seconds:5.1f} s", flush=True)
    return found


def ratios(found: dict[Run, Numbers]) -> dict[str, dict[str, float]]:
    """Returns sliced W2 over that of exact draws, by method and problem."""
    table: dict[str, dict[str, float]] = {}
    for run, numbers in found.items():
        if run.steps == STEPS and run.method != EXACT:
            exact = found[Run(EXACT, run.problem, STEPS)].sliced_w2
            table.setdefault(run.method, {})[run.problem] = numbers.sliced_w2 / exact
    return table


def by_cost(found: dict[Run, Numbers]) -> dict[str, tuple[list[float], list[float]]]:
    """Returns what a sample costs and the ratio of the base problem, for each number of steps."""
    exact, table = found[Run(EXACT, "base", STEPS)].sliced_w2, {}
    for name in dict.fromkeys(run.method for run in found if run.method != EXACT):
        steps = sorted((STEPS, *FEWER_OR_MORE))
        values = [found[Run(name, "base", n)].sliced_w2 / exact for n in steps]
        table[name] = [n * calls_of_a_sample(name) for n in steps], values
    return table


def calls_of_a_sample(name: str) -> float:
    """Returns a step's score calls, a product for two, of each sample that is kept."""
    calls, products = cost_of(name)
    particles = METHODS[name].particles if name in METHODS else 0
    return (calls + 2 * products) * (particles / DRAWS if particles else 1)


def rows(found: dict[Run, Numbers]) -> list[dict]:
    """Returns the table: cost, sliced W2 of every problem, and of the base problem what else is measured."""
    names = list(dict.fromkeys(run.method for run in found))
    best = found[Run(EXACT, "base", STEPS)].energy
    table = []
    for name in names:
        base = found[Run(name, "base", STEPS)]
        over, error = measures.paired(base.energy, best)
        calls, products = cost_of(name)
        particles = METHODS[name].particles if name in METHODS else 0
        table.append(
            {"method": name, "calls": f"{calls:.2g}", "products": f"{products:.2g}", "particles": particles or ""}
            | {problem: _shown(found.get(Run(name, problem, STEPS))) for problem in PROBLEMS}
            | {
                "mode weights": f"{base.mode_weights:.3f}",
                "coverage": f"{base.calibration.coverage:.3f} ± {base.calibration.coverage_error:.3f}",
                "ranks": f"{base.calibration.deviation:.3f}",
                "energy score": "" if name == EXACT else f"{over:+.4f} ± {error:.4f}",
            }
        )
    return table


def _shown(numbers: Numbers | None) -> str:
    if numbers is None:
        return ""
    return f"{numbers.sliced_w2:.3f}" if numbers.sliced_w2 < 100 else "diverges"


@lru_cache
def cost_of(name: str) -> tuple[float, float]:
    """Returns score calls and vector–Jacobian products a step."""
    return measures.cost(METHODS[name], BASE, STEPS) if name in METHODS else (float(name == EXACT_SCORE), 0.0)


def main() -> None:
    """Measures, and writes table and figure into this folder; with --only into none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods, printed alone")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(METHODS)
    if unknown:
        parser.error(f"no method {sorted(unknown)[0]!r}: there are {', '.join(METHODS)}")
    start = time.perf_counter()
    found = measured(options.seed, [EXACT, EXACT_SCORE, *(options.only or METHODS)])
    counts = f"{OBSERVATIONS} observations a problem ({OF_MANY_DIMS} in 200 dimensions), {DRAWS} draws of each"
    conditions = f"{counts}, {STEPS} steps, seed {options.seed}."
    result = study.Result(rows(found), {"distances.png": figures.distances(ratios(found), by_cost(found))}, conditions)
    if options.only:
        print(study.table(result.rows))
    else:
        study.publish(Path(__file__).parent, result, time.perf_counter() - start)


if __name__ == "__main__":
    main()

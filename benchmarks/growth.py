"""How time and memory of what is measured on data grow with the number of examples n and of dimensions D.

    python benchmarks/growth.py

Each size is a process of its own: the time is that of a second call, memory what the peak of the first one gained
beyond the process with its data. Exponents are slopes of the least squares lines through the logs of sizes and figures,
of n at the first of the D and of D at the first of the n. Data are normal numbers. The likelihood is a perceptron's
under a VP process: exact, with D derivatives at every call of it, or by one probe.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from memory import peak_mib
from timing import Row, child, main

from score_jax import likelihood, metrics, networks, noise_levels, sde
from score_jax.metrics import Moments

Call = Callable[[], Any]


def log_likelihoods(x: np.ndarray, *, exact: bool) -> Call:
    """Returns what computes the log-densities of x."""
    process, module = sde.VP(), networks.MLP((256, 256))
    variables = module.init(jax.random.key(0), x[:1], jnp.zeros(1))
    key = None if exact else jax.random.key(1)

    @jax.jit
    def of(x):
        score = lambda x, t: module.apply(variables, x, t) - x
        return likelihood.log_likelihood(process, score, x, key=key).log_prob

    return lambda: jax.block_until_ready(of(x))


def statistics(x: np.ndarray) -> Call:
    """Returns what takes mean and covariance of x in batches of 500, and a distance of them."""

    def of() -> float:
        found = Moments.over(iter(np.array_split(x, max(len(x) // 500, 1))))
        return found.frechet(found)

    return of


CASES: dict[str, tuple[Callable[[np.ndarray], Call], Sequence[int], Sequence[int]]] = {  # what, sizes n, sizes D
    "likelihood, exact": (partial(log_likelihoods, exact=True), (32, 128, 512), (32, 64, 128)),
    "likelihood, one probe": (partial(log_likelihoods, exact=False), (512, 2048, 8192), (64, 256, 1024)),
    "PRDC": (lambda x: partial(metrics.prdc, x[::2], x[1::2]), (4000, 8000, 16000), (512, 1024, 2048)),
    "feature statistics, Fréchet distance": (statistics, (4000, 8000, 16000), (512, 1024, 2048)),
    "largest distance of two examples": (
        lambda x: partial(noise_levels.max_pairwise_distance, x),
        (8000, 16000, 32000),
        (512, 1024, 2048),
    ),
}


def measured(case: str, n: str, dims: str) -> Row:
    """Runs in a fresh process: one case at one size."""
    x = np.random.default_rng(0).standard_normal((int(n), int(dims)), np.float32)
    call = CASES[case][0](x)
    held = peak_mib()
    call()
    gained, start = peak_mib() - held, time.perf_counter()
    call()
    return {"s": time.perf_counter() - start, "MiB": gained}


def exponents(sizes: Sequence[int], found: Sequence[Row]) -> dict[str, float]:
    """Returns the slopes of log seconds and log MiB over the log of the size."""
    logs = {unit: np.log([max(one[unit], 1e-3) for one in found]) for unit in ("s", "MiB")}
    return {unit: float(np.polyfit(np.log(sizes), of_unit, 1)[0]) for unit, of_unit in logs.items()}


def row(case: str, quick: bool) -> Row:
    """One row: the largest n and D that were measured, their figures, and the exponents."""
    _, ns, ds = CASES[case]
    if quick:
        ns, ds = [n // 16 for n in ns[:2]], [d // 16 for d in ds[:2]]
    along_n = [child(__file__, case, str(n), str(ds[0])) for n in ns]
    along_d = [along_n[0], *(child(__file__, case, str(ns[0]), str(d)) for d in ds[1:])]
    of_n, of_d = exponents(ns, along_n), exponents(ds, along_d)
    told = lambda found: f"{found['s']:.3g} s, {found['MiB']:.0f} MiB"
    return {
        "what": case,
        "n": f"{ns[0]:,} to {ns[-1]:,}",
        "D": f"{ds[0]:,} to {ds[-1]:,}",
        "least": told(along_n[0]),
        "at the largest n": told(along_n[-1]),
        "at the largest D": told(along_d[-1]),
        **{f"time ~ {name}^": of["s"] for name, of in (("n", of_n), ("D", of_d))},
        **{f"memory ~ {name}^": of["MiB"] for name, of in (("n", of_n), ("D", of_d))},
    }


def measure(quick: bool) -> Row:
    """Measures every case."""
    return {"rows": [row(case, quick) for case in CASES]}


if __name__ == "__main__":
    main(measure, __doc__, measured)

"""What (c), (d) and (f) measure against: a mixture on the line, whose flow and whose quantiles are known.

On the line the probability flow keeps quantiles, x_t = F_t⁻¹(F_T(x_T)). So for n chains from the quantiles (i − ½)/n of
the exact law at the start, the Wasserstein-2 distance of the sorted ends to the quantiles of the exact law at the end
is the error of a sampler of either kind; on the probability flow it is the root mean square error of the trajectories.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import exact
from score_jax import distributions
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn

DATA = exact.SKEWED


def score_of(sde: SDE) -> ScoreFn:
    """The exact score function on the line."""
    return distributions.score_of(DATA.api(), sde)


def law(sde: SDE, t: ArrayLike) -> exact.Mixture:
    """The law of x_t, in numpy."""
    with jax.enable_x64(True):
        return DATA.perturbed(float(sde.alpha(t)), float(sde.sigma(t)))


def shares(n: int) -> np.ndarray:
    """(i − ½)/n."""
    return (np.arange(n) + 0.5) / n


def starts(sde: SDE, t: ArrayLike, n: int) -> Array:
    """n quantiles of the law of x_t, `(n, 1)`."""
    return jnp.asarray(exact.quantile(law(sde, t), shares(n))[:, None])


def wasserstein(x: ArrayLike, sde: SDE, t: ArrayLike) -> float:
    """Wasserstein-2 distance of `x` `(n, 1)` from n quantiles of the law of x_t."""
    x = np.asarray(x, np.float64)
    return float(np.sqrt(((np.sort(x[:, 0]) - exact.quantile(law(sde, t), shares(len(x)))) ** 2).mean()))


def floor(sde: SDE, t: ArrayLike, n: int, seed: int) -> float:
    """The root mean square over 8 sets of the same distance for n exact draws: what cannot be told from 0."""
    rng, target = np.random.default_rng(seed), law(sde, t)
    draws = (exact.quantile(target, np.sort(rng.uniform(size=n)))[:, None] for _ in range(8))
    return float(np.sqrt(np.mean([wasserstein(x, sde, t) ** 2 for x in draws])))


def order(calls: ArrayLike, errors: ArrayLike, floor: float) -> float:
    """Exponent p of error ∝ calls^−p over the last three points above twice the floor, which is taken off in squares.

    NaN where there are fewer than two such points.
    """
    calls, errors = np.asarray(calls, float), np.asarray(errors, float)
    above = np.flatnonzero(np.isfinite(errors) & (errors > 2 * floor))[-3:]
    return -exact.slope(calls[above], np.sqrt(errors[above] ** 2 - floor**2)) if len(above) > 1 else float("nan")

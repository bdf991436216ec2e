"""How training draws noise levels: `(key, sde, n) -> (t, weight)`, both `(n,)`.

Each factory returns such a sampler. The weight multiplies the loss: it is what makes an importance-sampled average
estimate the uniform one, and 1 where the choice of levels is itself the weighting (`discrete`, `lognormal`).
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, require_positive

Times: TypeAlias = Callable[[Key, SDE, int], tuple[Array, Array]]


def uniform(antithetic: bool = False) -> Times:
    """Draws t uniformly from [t_min, t_max].

    With `antithetic` the draws are stratified over the batch, u_i = (u + i/n) mod 1 with one u (Kingma et al. 2021):
    each is still uniform, and the batch covers all levels evenly. The shared u is the first example's.

    Examples:
      Four stratified draws are a quarter of the range apart.

      >>> t, weight = losses.times.uniform(antithetic=True)(key, sde.VP(), 4)
      >>> print(np.diff(np.sort(t)).round(2), weight)
      [0.25 0.25 0.25] [1. 1. 1. 1.]
    """

    def draw(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
        u = arrays.draw(jax.random.uniform, key, (n,))
        if antithetic:
            u = (u[0] + jnp.arange(n) / n) % 1.0
        return jnp.asarray(sde.t_min + u * (sde.t_max - sde.t_min)), jnp.ones_like(u)

    return draw


def discrete(ts: ArrayLike) -> Times:
    """Draws t uniformly from `ts`, a vector of times (`sde.time` and `sampling.grids` make them).

    Raises:
      InputError: when `ts` is not a non-empty vector.

    Examples:
      >>> t, weight = losses.times.discrete(jnp.array([0.25, 0.75]))(key, sde.VP(), 4096)
      >>> print(f"{(t == 0.25).mean():.1f}")  # as often as the other
      0.5
    """
    if jnp.ndim(ts) != 1 or not jnp.size(ts):
        raise InputError(f"times.discrete: ts must be a non-empty vector of times, got shape {jnp.shape(ts)}")

    def draw(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
        index = jax.vmap(lambda k: jax.random.randint(k, (), 0, jnp.size(ts)))(arrays.example_keys(key, n))
        t = jnp.asarray(ts)[index]
        return t, jnp.ones_like(t)

    return draw


def lognormal(mean: float = -1.2, std: float = 1.2) -> Times:
    """Draws log(σ/α) ~ N(mean, std²), clipped to the SDE's range; not reweighted (Karras et al. 2022, table 1).

    Examples:
      On EDM's SDE t is σ itself, and log σ has the mean and standard deviation asked for.

      >>> t, weight = losses.times.lognormal(-1.2, 1.2)(key, sde.EDM(), 4096)
      >>> print(f"{jnp.log(t).mean():.1f} {jnp.log(t).std():.1f}")
      -1.2 1.2
    """
    require_positive("times.lognormal", std=std)

    def draw(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
        z = arrays.draw(jax.random.normal, key, (n,))
        t = jnp.clip(sde.time(-2 * (mean + std * z)), sde.t_min, sde.t_max)
        return t, jnp.ones_like(t)

    return draw


def importance() -> Times:
    """Draws t with density ∝ g²/σ² = −d log SNR/dt, that is uniformly in log-SNR, weighted back to uniform t.

    Removes the variance that the likelihood weighting g² adds (Song et al. 2021, "Maximum likelihood training", 5.1).

    Examples:
      The weight times g²/σ² is the same at every draw: the range of log-SNR, here 2 log 3, over that of t, 2.

      >>> edm = sde.EDM(1.0, 3.0)
      >>> t, weight = losses.times.importance()(key, edm, 4096)
      >>> print(np.array(weight * edm.diffusion(t) ** 2 / edm.variance(t))[:3].round(1))
      [1.1 1.1 1.1]
    """

    def draw(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
        high, low = sde.log_snr(sde.t_min), sde.log_snr(sde.t_max)
        u = arrays.draw(jax.random.uniform, key, (n,))
        t = jnp.clip(sde.time(low + u * (high - low)), sde.t_min, sde.t_max)
        slope = -jax.jvp(sde.log_snr, (t,), (jnp.ones_like(t),))[1]
        return t, (high - low) / (slope * (sde.t_max - sde.t_min))

    return draw

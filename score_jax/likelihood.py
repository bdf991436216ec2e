"""How probable a model finds data: exact likelihood of the probability flow, DDPM's bound, bits per dimension.

Along dz/dθ = v (`sampling.flow`) a density changes by  d log p/dθ = −∇·v  (Chen et al. 2018), so that with z = x/r

    log p(x_0) = log N(x_T; 0, σ(t_max)² I) + D log(r_T/r_0) + ∫ ∇·v dθ                  (Song et al. 2021, eq. 39)

from t_min to t_max. It is the density of what the flow generates from the prior at t_min, that is of data noised to
t_min. The score of data whose law at t_max is not quite the prior gives the density of the flow all the same, which is
then not quite the data's: the difference is log prior − log p_{t_max} at `z`, which the result holds.

The variational bound is of the stochastic sampler on a grid of levels: `losses.variational` has its terms.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from score_jax import arrays, integrate, pytrees
from score_jax.losses.variational import Decoder, bound_term, gaussian_kl, grey_level_decoder, require_times
from score_jax.sampling import flow
from score_jax.sampling.sde import StepVariance, step_variance
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn, require_at_least, require_positive


class LogLikelihood(NamedTuple):
    """What `log_likelihood` finds; rows that did not arrive within the integrator's attempts are NaN.

    Attributes:
      log_prob: nats, `(B,)`.
      z: where the flow takes x at t_max, `(B, *S)`.
      nfe: calls of the score function on the batch, `()`; each also gives its derivative along the probes.
      standard_error: of log_prob over the probes, `(B,)`; 0 if exact, NaN with a single probe.
    """

    log_prob: Array
    z: Array
    nfe: Array
    standard_error: Array


def log_likelihood(
    sde: SDE,
    score_fn: ScoreFn,
    x: Array,
    *,
    key: Key | None = None,
    n_probes: int = 1,
    t_min: ArrayLike | None = None,
    t_max: ArrayLike | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogLikelihood:
    """Returns log p(x) under the probability flow of `score_fn`, from t_min to t_max.

    The divergence is exact without a key, at D derivatives of the score for each call, or estimated with Rademacher
    probes (Hutchinson's estimate) that stay the same along the way: unbiased, at `n_probes` derivatives. The tolerance
    holds for each probe's log-density as it does for x.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`, t `(B,)`.
      x: data at t_min, `(B, *S)`. Images of grey levels must be dequantized, which under `jit` nobody checks but for
        integers. Half precision is integrated in float32.
      key: None, or a key `()` or `(B,)`; not the one that dequantized x, with which the probes would agree.
      n_probes: number of probes with a key; two or more give a standard error.
      t_min: where to start, the SDE's unless given: 1/N for a network trained on the knots of a table alone.
      t_max: where to end, in the prior N(0, σ(t_max)² I); the SDE's unless given.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.

    Raises:
      InputError: for integers, for images, flattened or not, that take a few values only, for probes without a key,
        and for a concrete t_min or t_max outside the SDE's range.

    Examples:
      Of data N(0, 1), whose log-density at 0 is −½ log 2π.

      >>> edm, law = sde.EDM(0.01, 80.0), distributions.Gaussian(jnp.zeros(1), 1.0)
      >>> found = likelihood.log_likelihood(edm, distributions.score_of(law, edm), jnp.zeros((1, 1)))
      >>> print(f"{found.log_prob[0]:.2f}")
      -0.92
    """
    require_at_least("log_likelihood", 1, n_probes=n_probes)
    if key is None and n_probes != 1:
        raise InputError(f"log_likelihood: {n_probes} probes need a key; without one the divergence is exact")
    refuse_grey_levels(x)
    t_min, t_max = (sde.t_min if t_min is None else t_min), (sde.t_max if t_max is None else t_max)
    flow.require_inside("log_likelihood", sde, t_min=t_min, t_max=t_max)
    dtype, x = x.dtype, x.astype(arrays.wide(x.dtype))
    t0, t1 = jnp.asarray(t_min, x.dtype), jnp.asarray(t_max, x.dtype)
    start, end = flow.radius(sde, t0), flow.radius(sde, t1)
    divergence = _exact if key is None else _along(_probes(key, x, n_probes))
    velocity = flow.velocity(sde, score_fn)

    def field(theta: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        slope, divergences = divergence(partial(velocity, theta), state[0])
        return slope, divergences.T

    y0 = x / arrays.expand_right(start, x), jnp.zeros((len(x), n_probes), x.dtype)
    (z, change), nfe = integrate.solve(field, y0, flow.angle(sde, t0), flow.angle(sde, t1), rtol=rtol, atol=atol)
    z = z * arrays.expand_right(end, x)
    log_prob = sde.prior_log_prob(z, t1) + x[0].size * jnp.log(end / start) + change.mean(1)
    return LogLikelihood(
        log_prob, z.astype(dtype), nfe, jnp.zeros_like(log_prob) if key is None else _standard_error(change)
    )


def _probes(key: Key, x: Array, n: int) -> Array:
    return jax.vmap(lambda k: arrays.rademacher(k, x))(arrays.split(arrays.example_keys(key, len(x)), n))


def _exact(f: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """f(z) and its divergence `(1, B)`."""
    return f(z), arrays.divergence(f, z)[None]


def _along(probes: Array) -> Callable[[Callable[[Array], Array], Array], tuple[Array, Array]]:
    """Returns `(f, z) -> f(z)` and vᵀ(∂f/∂z)v for each probe v, `(n_probes, B)`; f itself is evaluated once."""

    def divergence(f: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
        def one(v: Array) -> tuple[Array, Array]:
            value, tangent = jax.jvp(f, (z,), (v,))
            return value, arrays.sum_dims(tangent * v)

        return jax.vmap(one, out_axes=(None, 0))(probes)

    return divergence


def _standard_error(values: Array) -> Array:
    n = values.shape[1]
    return jnp.std(values, axis=1, ddof=1) / math.sqrt(n) if n > 1 else jnp.full(len(values), jnp.nan, values.dtype)


def refuse_grey_levels(x: Array | np.ndarray) -> None:
    """Raises InputError for integers, and for concrete images that take at most 256 values, many of them often.

    Flattened ones too: from 16 dimensions on, since fewer may be the points of a lattice at which p is wanted.

    Examples:
      >>> likelihood.refuse_grey_levels(np.zeros((1, 2), np.uint8))
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: log_likelihood: x is uint8, and whole numbers have no density; ...
    """
    mend = "spread every grey level over its cell first: data.images.uniform_dequantization(key, grey_levels)"
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"log_likelihood: x is {x.dtype}, and whole numbers have no density; {mend}")
    if x[0].size < 16 or isinstance(x, jax.core.Tracer):
        return
    n = len(np.unique(np.asarray(x)))
    if 1 < n <= min(256, x.size // 2):
        raise InputError(
            f"log_likelihood: the {x.size} numbers of x take {n} values only, and a density can be made as high as one "
            f"likes on such a lattice; {mend}"
        )


@pytrees.dataclass
class BitsPerDim:
    """Bits per dimension, `(B,)`, and the convention they follow, in words."""

    value: Array
    convention: str = struct.field(pytree_node=False)


def bits_per_dim(log_prob: Array, *, dims: int, data_range: ArrayLike, grey_levels: int = 256) -> BitsPerDim:
    """Returns −log₂ p(x)/D + log₂(L/data_range): an upper bound, in expectation, on the bits of L grey levels.

    For x = low + data_range·(k + u)/L, with grey level k and u ~ U[0, 1): the density of (k + u) bounds the
    probability of k (Theis et al. 2016). For L = 256 the constant is 8 with data in [0, 1], 7 in [−1, 1].

    Args:
      log_prob: nats of uniformly dequantized data, `(B,)`.
      dims: number of dimensions D.
      data_range: width of the interval of the data, 2 for [−1, 1].
      grey_levels: their number L.

    Examples:
      A uniform density on [−1, 1] knows nothing of 256 grey levels: 8 bits.

      >>> log_prob = jnp.log(jnp.array([0.5])) * 784
      >>> print(f"{likelihood.bits_per_dim(log_prob, dims=784, data_range=2.0).value[0]:.2f}")
      8.00
    """
    require_positive("bits_per_dim", dims=dims, data_range=data_range, grey_levels=grey_levels)
    offset = jnp.log2(grey_levels / jnp.asarray(data_range, log_prob.dtype))
    noised = f"(k + u)/{grey_levels} with u ~ U[0, 1)"
    convention = f"bits per dimension of {grey_levels} grey levels, uniformly dequantized: {noised}"
    return BitsPerDim(-log_prob / (dims * math.log(2)) + offset, convention)


class VariationalBound(NamedTuple):
    """The terms of `variational_bound`, in nats.

    Attributes:
      prior: KL(q(x_{t_1}|x_0) ‖ prior), `(B,)`.
      steps: the KL of each step, from the first level down, `(N − 1, B)`.
      decoder: −log p(x_0|x_{t_N}), `(B,)`.
    """

    prior: Array
    steps: Array
    decoder: Array

    @property
    def total(self) -> Array:
        """An upper bound on −log p(x_0), `(B,)`: divided by D log 2, bits per dimension."""
        return self.prior + self.steps.sum(0) + self.decoder


def variational_bound(
    key: Key,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Array,
    *,
    ts: ArrayLike,
    variance: str | StepVariance = "posterior",
    prior_variance: ArrayLike | None = None,
    last_variance: ArrayLike | None = None,
    decoder: Decoder = grey_level_decoder(),
) -> VariationalBound:
    """Returns the terms of −log p(x_0) ≤ … of `sampling.ancestral` on the levels `ts`, one noise draw for each.

    With the grey-level decoder it bounds the probability of undequantized images, so that its bits per dimension are
    `total/(D log 2)` as they stand. Published ones clip x̂_0 to [−1, 1] too: give a score function that does.

    Args:
      key: `()` or `(B,)`.
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      x0: data, `(B, *S)`; for the grey-level decoder in [−1, 1], 2k/255 − 1.
      ts: times, strictly decreasing to a positive one, `(N,)`: DDPM's are its knots, `grids.ddpm(sde, t_end=1/N)`.
      variance: of the steps, as for `ancestral`; a function is the decoder's too, at s = 0.
      prior_variance: of the prior N(0, prior_variance I): σ(t_max)² unless given, 1 in DDPM.
      last_variance: of the decoder beside a named variance: σ² of the last level unless given, all the noise there is,
        β_1 on DDPM's table. Released code has that of the step before, `ddpm_schedule().posterior_variance[1]`, for
        "fixedsmall" and "fixedlarge" alike.
      decoder: log p(x_0|x_{t_N}), of 256 grey levels unless given: `losses.variational.grey_level_decoder(17)` for as
        many, `losses.variational.gaussian_decoder` for data with a density.

    Raises:
      InputError: for times that do not decrease strictly to a positive one, and an unknown variance.

    Examples:
      Data 0 and their exact score, down levels that halve: with four times the variance of q(x_s|x_t, x_0), which
      "transition" is here, a step costs ½(1/4 − 1 + log 4) = 0.32.

      >>> score, ts = lambda x, t: -x / t**2, jnp.array([4.0, 2.0, 1.0])
      >>> options = {"variance": "transition", "decoder": losses.variational.gaussian_decoder}
      >>> bound = likelihood.variational_bound(key, sde.EDM(), score, jnp.zeros((1, 1)), ts=ts, **options)
      >>> print(np.array(bound.steps)[:, 0].round(2))
      [0.32 0.32]
    """
    require_times("variational_bound", ts)
    ts = jnp.asarray(ts)
    keys, noise_variance = arrays.example_keys(key, len(x0)), step_variance(sde, variance)
    if last_variance is None:
        last_variance = sde.variance(ts[-1])

    def term(inputs: tuple[Array, Array, Array]) -> Array:
        i, t, s = inputs
        x, eps = sde.perturb(arrays.fold_in(keys, i), x0, t)
        v = noise_variance(x, t, s)
        v = v if callable(variance) else jnp.where(s == 0, last_variance, v)
        return bound_term(sde, score_fn(x, t), x0, eps, variance=v, t=t, s=s, decoder=decoder)

    terms = jax.lax.map(term, (jnp.arange(len(ts)), ts, jnp.append(ts[1:], 0)))
    prior_variance = sde.variance(sde.t_max) if prior_variance is None else jnp.asarray(prior_variance, ts.dtype)
    at_start = (jnp.broadcast_to(arrays.expand_right(v, x0), x0.shape) for v in (sde.variance(ts[0]), prior_variance))
    prior = arrays.sum_dims(gaussian_kl(arrays.expand_right(sde.alpha(ts[0]), x0) * x0, *at_start))
    return VariationalBound(prior, terms[:-1], terms[-1])

"""What is drawn by a method of each observation, and how far that is from the exact posterior."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.posterior_benchmark.methods import Given, Method
from experiments.posterior_benchmark.problems import Cases, Problem, shares
from score_jax import arrays, distributions, metrics
from score_jax.conditioning.cost import cost_of
from score_jax.conditioning.operators import Linear
from score_jax.distributions import GaussianMixture
from score_jax.sampling import Sampler, ancestral, grids, sample
from score_jax.sde import VP
from score_jax.types import Array, Key, ScoreFn

SDE = VP()
LEVEL = 0.9  # of credible intervals
PROJECTIONS = 32


class Numbers(NamedTuple):
    """Means over observations with their standard errors, where they have one; NaN where samples are not finite."""

    sliced_w2: float
    sliced_w2_error: float
    mode_weights: float  # total variation between the shares of components and their posterior weights
    calibration: metrics.RankCalibration
    energy: np.ndarray  # (N,), to be compared observation by observation


class Asked(NamedTuple):
    """A problem's numbers, so that problems of the same shapes share a program."""

    prior: GaussianMixture
    operator: Linear
    noise_std: Array
    data_std: Array

    @classmethod
    def of(cls, problem: Problem) -> "Asked":
        """Returns them."""
        return cls(problem.prior(), problem.operator(), jnp.float32(problem.noise_std), jnp.float32(problem.data_std))

    def given(self, score_fn: ScoreFn, y: Array) -> Given:
        """Returns what a method is told, with this score function."""
        return Given(SDE, score_fn, self.operator, y, self.noise_std, self.data_std)


def run(method: Method, key: Key, asked: Asked, y: Array, steps: int) -> Array:
    """Draws `(N, L, D)` of a method; y `(N, L, M)` holds each of the observations L times."""
    prior, score_fn = asked.prior, distributions.score_of(asked.prior, SDE)
    make = lambda y: method.make(asked.given(score_fn, y))
    if method.particles:
        return jax.vmap(lambda key, y: _particles(key, make(y[:1]), prior, method.particles, len(y), steps))(
            jax.random.split(key, len(y)), y
        )
    rows = y.reshape(-1, y.shape[-1])
    return _drawn(key, make(rows), prior, len(rows), steps).reshape(*y.shape[:2], -1)


def _drawn(key: Key, sampler: Sampler, prior: GaussianMixture, n: int, steps: int) -> Array:
    """From the prior to t_min, on steps equal in log-SNR."""
    key_start, key_run = jax.random.split(key)
    start = SDE.prior_sample(key_start, (n, prior.means.shape[1]))
    ts = grids.log_snr(SDE, steps + 1)
    return sample(key_run, sampler, start, ts) / SDE.alpha(ts[-1])


def _particles(key: Key, sampler: Sampler, prior: GaussianMixture, particles: int, n: int, steps: int) -> Array:
    """As many of the particles, at random, as others draw."""
    key_run, key_kept = jax.random.split(key)
    x = _drawn(key_run, sampler, prior, particles, steps)
    return jax.random.permutation(key_kept, x)[:n]


def exact_score(posterior: GaussianMixture) -> ScoreFn:
    """Returns the score of each observation's noised posterior, rows `(N·L, D)` in the order of observations."""

    def score_fn(x: Array, t: Array) -> Array:
        grouped = x.reshape(len(posterior.weights), -1, x.shape[-1])
        return jax.vmap(lambda one, x: distributions.score_of(one, SDE)(x, t))(posterior, grouped).reshape(x.shape)

    return score_fn


def by_exact_score(key: Key, posterior: GaussianMixture, n: int, steps: int) -> Array:
    """Draws `(N, n, D)` by the same sampler and the exact posterior score: what the steps alone get wrong."""
    first = jax.tree.map(lambda v: v[0], posterior)
    rows = len(posterior.weights) * n
    return _drawn(key, ancestral(SDE, exact_score(posterior)), first, rows, steps).reshape(-1, n, first.means.shape[1])


def exactly(key: Key, posterior: GaussianMixture, n: int) -> Array:
    """Draws `(N, n, D)` of the posteriors themselves."""
    return jax.vmap(lambda key, one: one.sample(key, n))(jax.random.split(key, len(posterior.weights)), posterior)


@jax.jit
def _sliced(key: Key, x: Array, posterior: GaussianMixture) -> Array:
    """Sliced W2 to four times as many exact draws, `(N,)`."""
    key_exact, key_directions = jax.random.split(key)
    reference = exactly(key_exact, posterior, 4 * x.shape[1])
    distance = lambda a, b: metrics.sliced_wasserstein(key_directions, a, b, n_projections=PROJECTIONS)
    return jax.vmap(distance)(x, reference)


@jax.jit
def _mode_weights(x: Array, posterior: GaussianMixture) -> Array:
    """Total variation between the components' shares of the samples and their weights, `(N,)`."""
    weights = posterior.weights / posterior.weights.sum(1, keepdims=True)
    return 0.5 * jnp.abs(jax.vmap(shares)(posterior, x) - weights).sum(1)


def compare(key: Key, x: Array, cases: Cases) -> Numbers:
    """Returns what samples `(N, L, D)` are worth."""
    sliced = np.asarray(_sliced(key, x, cases.posterior), np.float64)
    weights = np.asarray(_mode_weights(x, cases.posterior))
    energy = np.asarray(jax.jit(metrics.energy_scores)(x, cases.truth), np.float64)
    directions = arrays.sphere(jax.random.key(0), jnp.zeros((8, x.shape[-1])))
    found = metrics.posterior_ranks(x, cases.truth, directions)
    calibration = metrics.rank_calibration(found, x.shape[1], level=LEVEL)
    if not np.isfinite(x).all():
        nan = float("nan")
        calibration = calibration._replace(coverage=nan, coverage_error=nan, deviation=nan, p_value=nan)
    error = sliced.std(ddof=1) / np.sqrt(len(sliced))
    return Numbers(float(sliced.mean()), float(error), float(weights.mean()), calibration, energy)


def paired(score: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Returns the mean difference over observations and its standard error."""
    over = score - best
    return float(over.mean()), float(over.std(ddof=1) / np.sqrt(len(over)))


def cost(method: Method, problem: Problem, steps: int) -> tuple[float, float]:
    """Counts calls and products of so many steps, and returns those of one."""
    asked = Asked.of(problem)
    score_fn, y = distributions.score_of(asked.prior, SDE), jnp.zeros((1, len(asked.operator.matrix)))
    make = lambda score_fn: method.make(asked.given(score_fn, y))
    counted = cost_of(make, score_fn, jax.random.key(0), jnp.ones((1, problem.dims)), grids.log_snr(SDE, steps + 1))
    return counted.calls / steps, counted.products / steps

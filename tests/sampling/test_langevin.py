"""Langevin dynamics: the stationary law at a finite step, conventions, mode weights, MALA's exactness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("step_size", [0.2, 1.0, 2.0])
def test_the_stationary_variance_at_a_finite_step(step_size):
    """x ← (1 − ε/2v) x + √ε z on N(0, v) has variance v/(1 − ε/(4v)), not v."""
    v, n = 1.5, 20_000
    x = jnp.zeros((n, 1))
    x = jax.jit(lambda x: sampling.langevin(key(), lambda x: -x / v, x, step_size=step_size, n_steps=150))(x)
    expected = v / (1 - step_size / (4 * v))
    np.testing.assert_allclose(x.var(), expected, rtol=4 * np.sqrt(2 / n))


def test_a_langevin_step_is_half_epsilon_times_score_plus_root_epsilon_noise():
    x, eps = mixture().sample(key(), 4), 0.3
    moved = sampling.langevin(key(1), jnp.cos, x, step_size=eps, n_steps=1)
    z = arrays.normal(arrays.fold_in(arrays.example_keys(key(1), 4), 0), x)
    np.testing.assert_allclose(moved, x + eps / 2 * np.cos(x) + np.sqrt(eps) * z, rtol=1e-5)


def test_chains_may_have_step_sizes_of_their_own():
    x, eps = mixture().sample(key(), 3), jnp.array([0.1, 0.4, 0.0])
    moved = sampling.langevin(key(1), jnp.cos, x, step_size=eps, n_steps=2)
    np.testing.assert_array_equal(moved[2], x[2])
    alone = sampling.langevin(key(1), jnp.cos, x[:1], step_size=0.1, n_steps=2)
    np.testing.assert_allclose(moved[0], alone[0], rtol=1e-6)


def test_mala_is_exact_at_a_step_where_langevin_is_not():
    """At ε = 2 on N(0, 1) plain Langevin's variance is 2; MALA's is 1, at an acceptance strictly inside (0, 1)."""
    n = 20_000
    run = jax.jit(lambda x: sampling.mala(key(), lambda x: -0.5 * arrays.sum_dims(x**2), x, step_size=2.0, n_steps=60))
    x, info = run(jnp.zeros((n, 1)))
    np.testing.assert_allclose(x.var(), 1, rtol=4 * np.sqrt(2 / n))
    np.testing.assert_allclose(x.mean(), 0, atol=4 / n**0.5)
    assert info.acceptance_rate.shape == (n,)
    # Stationary acceptance on N(0,1): x = w, y = (1−ε/2) x + √ε z; E min(1, exp(−(ε/8)(y² − x²))), by Monte Carlo.
    rng = np.random.default_rng(0)
    w = rng.normal(size=400_000)
    y = np.sqrt(2) * rng.normal(size=400_000)
    expected = np.minimum(1, np.exp(-(2 / 8) * (y**2 - w**2))).mean()
    np.testing.assert_allclose(info.acceptance_rate.mean(), expected, atol=0.01)  # first steps start at the mode


def test_annealed_langevin_scales_its_step_with_the_squared_level():
    """On a score of 0 each level adds n_steps·step_size·(σ/σ_min)² of variance."""
    sde, sigmas = sdes.VE(0.1, 2.0), np.array([2.0, 0.5, 0.1])
    sampler = sampling.annealed_langevin(sde, lambda x, t: jnp.zeros_like(x), step_size=0.02, n_steps=3, sigma_min=0.1)
    x = sampling.sample(key(), sampler, jnp.zeros((20_000, 1)), grids.levels(sde, sigmas))
    expected = 3 * 0.02 * (400 + 25 + 1)
    np.testing.assert_allclose(x.var(), expected, rtol=4 * np.sqrt(2 / 20_000))


def test_annealed_langevin_defaults_to_the_sdes_own_smallest_level():
    sde = sdes.VE(0.1, 2.0, t_min=1e-6)
    score_fn = distributions.score_of(mixture(), sde)
    ts, x = grids.levels(sde, np.array([2.0, 0.4])), jnp.ones((3, 2))
    a, b = (
        sampling.sample(key(), sampling.annealed_langevin(sde, score_fn, step_size=0.01, n_steps=2, **k), x, ts)
        for k in ({}, {"sigma_min": 0.1})
    )
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_annealed_langevin_is_one_chain_in_x_over_alpha_whatever_the_process():
    """Of VP, started at x α, with the same levels σ/α, steps and noise: VE's states times α."""
    vp, ve = sdes.VP(), sdes.VE(0.01, 50.0)
    sigmas = jnp.geomspace(20.0, 0.05, 6)
    start = 20 * arrays.normal(arrays.example_keys(key(1), 5), mixture().sample(key(2), 5))

    def run(sde):
        score_fn = distributions.score_of(mixture(), sde)
        ts = sde.time(-2 * jnp.log(sigmas))
        smallest = sde.sigma(ts[-1])
        sampler = sampling.annealed_langevin(sde, score_fn, step_size=0.3 * smallest**2, n_steps=3, sigma_min=smallest)
        x = jax.jit(lambda x: sampling.sample(key(), sampler, x, ts))(sde.alpha(ts[0]) * start)
        return x / sde.alpha(ts[-1])

    # Levels come back from times to 1e-5 of themselves, and with them every step; five levels of three steps.
    np.testing.assert_allclose(run(vp), run(ve), rtol=1e-3, atol=1e-3)


def test_annealed_langevin_recovers_the_mode_weights_that_langevin_gets_wrong():
    """Figure 3 of Song & Ermon 2019 with exact scores: 0.8/0.2 at ±5, 1280 chains from U[−8, 8]²."""
    data = distributions.GaussianMixture(jnp.array([0.8, 0.2]), jnp.array([[5.0, 5.0], [-5.0, -5.0]]), 1.0)
    x = arrays.unit_uniform(key(), jnp.zeros((1280, 2))) * 16 - 8
    plain = sampling.langevin(key(1), data.score, x, step_size=0.1, n_steps=1000)
    # As in the paper the last level is the data itself: component std σ from 20 down to 1.
    deltas = distributions.Empirical(jnp.array([[5.0, 5.0]] * 4 + [[-5.0, -5.0]]))
    sde = sdes.VE(1.0, 20.0)
    sampler = sampling.annealed_langevin(
        sde, distributions.score_of(deltas, sde), step_size=0.1, n_steps=100, sigma_min=1.0
    )
    annealed = sampling.sample(key(2), sampler, x, grids.levels(sde, sdes.geometric_sigmas(20.0, 1.0, 10)))
    weight = lambda x: float((x.sum(1) > 0).mean())
    standard_error = np.sqrt(0.25 / 1280)
    assert abs(weight(plain) - 0.5) < 4 * standard_error + 0.03  # the basins' share of the start
    assert abs(weight(annealed) - 0.8) < 4 * np.sqrt(0.16 / 1280) + 0.03  # with the ladder's small finite-time bias
    # in-mode variance of a finite step: v/(1 − ε/(4v)) = 1.0256
    mode = np.asarray(annealed)[np.asarray(annealed).sum(1) > 0]
    np.testing.assert_allclose(mode.var(0), 1 / (1 - 0.1 / 4), rtol=4 * np.sqrt(2 / len(mode)))


@pytest.mark.parametrize("step_size", [0.0, -1.0])
def test_step_sizes_that_are_not_positive_are_refused(step_size):
    with pytest.raises(InputError, match="step_size must be positive"):
        sampling.langevin(key(), jnp.sin, jnp.ones((2, 2)), step_size=step_size, n_steps=1)
    with pytest.raises(InputError, match="step_size must be positive"):
        sampling.annealed_langevin(sdes.VE(), lambda x, t: x, step_size=step_size, n_steps=1)


@pytest.mark.parametrize("n_steps", [0, -3])
def test_fewer_than_one_step_is_refused(n_steps):
    score_fn = lambda x, t: x
    calls = {
        "langevin": lambda: sampling.langevin(key(), jnp.sin, jnp.ones((2, 2)), step_size=0.1, n_steps=n_steps),
        "mala": lambda: sampling.mala(key(), arrays.sum_dims, jnp.ones((2, 2)), step_size=0.1, n_steps=n_steps),
        "annealed_langevin": lambda: sampling.annealed_langevin(sdes.VE(), score_fn, step_size=0.1, n_steps=n_steps),
        "langevin_corrector": lambda: sampling.langevin_corrector(sdes.VE(), score_fn, snr=0.1, n_steps=n_steps),
    }
    for owner, call in calls.items():
        with pytest.raises(InputError, match=f"{owner}: n_steps must be at least 1, got {n_steps}"):
            call()


def test_gradients_are_finite_where_no_noise_is_added():
    """A chain with ε = 0, a corrector whose score is 0: √0 has no derivative; what stands still has derivative 1."""
    x = jnp.array([[1.0], [2.0]])

    def end(x, eps):
        return sampling.langevin(key(), jnp.cos, x, step_size=eps, n_steps=2).sum()

    by_x, by_step = jax.grad(end, (0, 1))(x, jnp.array([0.0, 0.1]))
    assert by_x[0, 0] == 1 and np.isfinite(by_x).all() and np.isfinite(by_step).all()

    corrector = sampling.langevin_corrector(sdes.VE(), lambda x, t: x * jnp.array([[0.0], [1.0]]), snr=0.1)
    moved = lambda x: corrector.step(arrays.example_keys(key(), 2), corrector.init(x), 0.5, 0.4).x.sum()
    gradient = jax.grad(moved)(x)
    assert gradient[0, 0] == 1 and np.isfinite(gradient).all()

"""The laws that samplers of p(x | y) end with on a Gaussian, where every step is affine: written down once more.

Data N(0, C), correlation 0.8, on VP, the first coordinate observed. A step x ← F x + b + N(0, Q) takes a law N(m, P) to
N(F m + b, F P Fᵀ + Q); the samplers are run on 20,000 rows and compared with what their papers' equations say of m, P.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.conditioning import (
    daps,
    ddrm,
    diffpir,
    dps_ancestral,
    gaussian_draw,
    ilvr,
    impose,
    langevin_draw,
    likelihood_guidance,
    mcgdiff,
    pigdm,
    repaint,
    replacement,
    tds,
)
from score_jax.conditioning.operators import Downsample, Gray, Linear, Mask, log_counts, magnitudes, pseudo_inverse
from score_jax.conditioning.particles import systematic
from score_jax.sampling import grids
from tests.helpers import MULTISTEP, POSTERIOR_SAMPLERS, key, refused

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SDE = sdes.VP()
C, OBSERVED, Y = np.array([[1.0, 0.8], [0.8, 1.0]]), np.diag([1.0, 0.0]), np.array([1.5, 0.0])
EYE, N, NOISE = np.eye(2), 20_000, 0.3
FIRST = Mask(np.array([True, False]))


def score_fn(x, t):
    """C's eigenvalues are 1.8 along (1, 1) and 0.2 along (1, −1)."""
    a, v = SDE.alpha(t) ** 2, SDE.variance(t)
    along, across = x.sum(1) / 2, (x[:, 0] - x[:, 1]) / 2
    along, across = -along / (1.8 * a + v), -across / (0.2 * a + v)
    return jnp.stack([along + across, along - across], 1)


class Level:
    """α, σ² and the linear maps of a time: x -> score, x -> x̂0."""

    def __init__(self, t):
        self.t, self.alpha, self.variance = t, float(SDE.alpha(t)), float(SDE.variance(t))
        self.score = -np.linalg.inv(self.alpha**2 * C + self.variance * EYE)
        self.denoised = (EYE + self.variance * self.score) / self.alpha
        self.ratio = self.variance / self.alpha**2


def affine(law, factor, shift=np.zeros(2), noise=np.zeros((2, 2))):
    mean, covariance = law
    return factor @ mean + shift, factor @ covariance @ factor.T + noise


def transition(t, s):
    """α_{t|s} and σ²_{t|s}."""
    ratio = t.alpha / s.alpha
    return ratio, t.variance - ratio**2 * s.variance


def ancestral(t, s):
    """F and Q of an ancestral step."""
    ratio, added = transition(t, s)
    return (EYE + added * t.score) / ratio, added * s.variance / t.variance * EYE


def replaced(law, t, s):
    """The observed part is set to α_t y + σ_t z, the step taken, and it is α_s y."""
    hidden = EYE - OBSERVED
    law = affine(law, hidden, t.alpha * Y, t.variance * OBSERVED)
    factor, noise = ancestral(t, s)
    law = affine(law, factor, noise=noise)
    return affine(law, hidden, s.alpha * Y)


def repainted(n_resample):
    def step(law, t, s, last):
        law = replaced(law, t, s)
        for _ in range(0 if last else n_resample - 1):
            ratio, added = transition(t, s)
            law = replaced(affine(law, ratio * EYE, noise=added * EYE), t, s)
        return law

    return step


def in_pairs(steps):
    """RePaint's law with blocks of two steps, gone thrice each, but for the last step and what is left at the first."""
    levels = [Level(float(t)) for t in grids.log_snr(SDE, steps + 1)]
    law, size = (np.zeros(2), float(SDE.variance(SDE.t_max)) * EYE), steps
    for done in range(1, size + 1):
        law = replaced(law, levels[done - 1], levels[done])
        if done in range(size - 1, 1, -2):
            for _ in range(2):
                ratio, added = transition(levels[done - 2], levels[done])
                law = affine(law, ratio * EYE, noise=added * EYE)
                law = replaced(replaced(law, *levels[done - 2 : done]), *levels[done - 1 : done + 1])
    return law


def refined(law, t, s, last):
    """ILVR: after the step the observed part is α_s y + σ_s z, down to σ/α = 0.3."""
    factor, noise = ancestral(t, s)
    law = affine(law, factor, noise=noise)
    return affine(law, EYE - OBSERVED, s.alpha * Y, s.variance * OBSERVED) if s.ratio >= 0.3**2 else law


def restored(law, t, s, last, eta=0.85):
    """DDRM in x/α: the second coordinate has no observation; the first is y where the level allows, or leans to it."""
    level, after, kept = t.ratio**0.5, s.ratio**0.5, (1 - eta**2) ** 0.5
    free = t.denoised + kept * after / level * (EYE / t.alpha - t.denoised)
    factor, noise = np.diag([0.0, 1.0]) @ free, np.diag([0, eta**2 * s.ratio])
    if after >= NOISE:
        shift, noise[0, 0] = Y, s.ratio - NOISE**2
    else:
        lean = kept * after / NOISE
        factor, shift, noise[0, 0] = factor + (1 - lean) * OBSERVED @ t.denoised, lean * Y, eta**2 * s.ratio
    return affine(law, s.alpha * factor, s.alpha * shift, s.alpha**2 * noise)


def decoupled(law, t, s, last, n_flow=3):
    """DAPS told d = 0.8: DDIM to data, the Gaussian's draw, and noise."""
    levels = np.linspace(*(float(SDE.log_snr(v)) for v in (t.t, SDE.t_min)), n_flow + 1)[:-1]
    at, flow = t, EYE
    for snr in levels[1:]:
        to = Level(float(SDE.time(jnp.float32(snr))))
        flow = (to.alpha * at.denoised - (to.variance * at.variance) ** 0.5 * at.score) @ flow
        at = to
    spread = t.ratio / (1 + t.ratio / 0.8**2)
    pull = spread / (spread + NOISE**2) * OBSERVED
    law = affine(law, (EYE - pull) @ at.denoised @ flow, pull @ Y, spread * EYE - spread * pull)
    return affine(law, s.alpha * EYE, noise=s.variance * EYE)


def plugged(law, t, s, last, share=0.3):
    """DiffPIR with its own re-noising: x̂0 moved to y by the weight of σ_y² against σ²/α²."""
    pull = t.ratio / (t.ratio + NOISE**2) * OBSERVED
    factor, shift = (EYE - pull) @ t.denoised, pull @ Y
    # ε̂ = (x − α x̂0)/σ
    kept = (s.variance * (1 - share) / t.variance) ** 0.5
    factor, shift = s.alpha * factor + kept * (EYE - t.alpha * factor), (s.alpha - kept * t.alpha) * shift
    return affine(law, factor, shift, share * s.variance * EYE)


DIFFPIR = lambda y: sampling.ddim(
    SDE, diffpir(SDE, score_fn, FIRST, y, noise_std=NOISE), eta=lambda x, t, s: 0.3 * SDE.variance(s)
)
LAWS = {
    "replacement": (lambda y: replacement(sampling.ancestral(SDE, score_fn), SDE, FIRST, y), repainted(1)),
    "repaint": (lambda y: repaint(sampling.ancestral(SDE, score_fn), SDE, FIRST, y, n_resample=4), repainted(4)),
    "ilvr": (lambda y: ilvr(sampling.ancestral(SDE, score_fn), SDE, FIRST, y, low=0.3), refined),
    "ddrm": (lambda y: ddrm(SDE, score_fn, FIRST, y, noise_std=NOISE), restored),
    "daps": (
        lambda y: daps(SDE, score_fn, FIRST, y, noise_std=NOISE, data_std=0.8, n_flow=3, draw=gaussian_draw),
        decoupled,
    ),
    "diffpir": (DIFFPIR, plugged),
}


def law_of(step, steps):
    ts = np.asarray(grids.log_snr(SDE, steps + 1))
    law = np.zeros(2), float(SDE.variance(SDE.t_max)) * EYE
    levels = [Level(float(t)) for t in ts]
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        law = step(law, t, s, i == steps - 1)
    return law


def drawn(sampler, steps, n=N):
    ts = grids.log_snr(SDE, steps + 1)
    draw = lambda x: sampling.sample(key(1), sampler, x, ts)
    return np.asarray(jax.jit(draw)(SDE.prior_sample(key(2), (n, 2))), np.float64)


def test_blocks_of_steps_have_their_law():
    make = repaint(sampling.ancestral(SDE, score_fn), SDE, FIRST, as_row(Y), n_resample=3, jump_length=2)
    assert_law(drawn(make, 4), in_pairs(4))


def test_a_block_is_noised_back_to_its_start(monkeypatch):
    """Without any draws: two steps, α_{t|s} of both, and the two again; then the last step."""
    monkeypatch.setattr(arrays, "normal", lambda key, like: jnp.zeros_like(like))
    once = replacement(sampling.ddim(SDE, score_fn), SDE, FIRST, as_row(Y))
    ts, keys, x = jnp.array([0.9, 0.5, 0.2, 0.1]), jax.random.split(key(), 2), jnp.array([[0.3, -1.0], [2.0, 0.1]])
    go = lambda x, i: once.step(keys, once.init(x), ts[i], ts[i + 1]).x
    back = SDE.transition(ts[0], ts[2])[0] * go(go(x, 0), 1)
    twice = repaint(sampling.ddim(SDE, score_fn), SDE, FIRST, as_row(Y), n_resample=2, jump_length=2)
    np.testing.assert_allclose(sampling.sample(keys, twice, x, ts), go(go(go(back, 0), 1), 2), rtol=1e-5, atol=1e-6)


def assert_law(x, law):
    """Mean and covariance within 4.5 standard errors, and 2e-3 of float32's schedules."""
    mean, covariance = law
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 4.5 * spread / np.sqrt(N) + 2e-3)
    bound = 4.5 * np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / N) + 2e-3
    np.testing.assert_array_less(np.abs(np.cov(x.T) - covariance), bound)


@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_that_of_the_paper_s_equations(name):
    make, step = LAWS[name]
    assert_law(drawn(make(as_row(Y)), 12), law_of(step, 12))


def as_row(y):
    return jnp.asarray(y[None], jnp.float32)


def test_the_bias_of_repaint_falls_with_its_repeats():
    """The share of the shift E[x_2 | y] − E[x_2] = 1.2 that 60 steps find, by the recursion of the test above."""
    shares = [law_of(repainted(n), 60)[0][1] / 1.2 for n in (1, 2, 5, 10, 20)]
    np.testing.assert_allclose(shares, [0.59, 0.76, 0.90, 0.95, 0.98], atol=0.006)


def test_blocks_are_gone_again_as_scheduled():
    """The released list of 6 steps in blocks of 2, twice: 6 5 4 3 ↑ 5 4 3 2 1 ↑ 3 2 1 0, by calls after each step."""
    sampler = repaint(sampling.ancestral(SDE, score_fn), SDE, FIRST, as_row(Y), n_resample=2, jump_length=2)
    ts = grids.log_snr(SDE, 7)
    x, nfe = sampling.sample(key(), sampler, jnp.ones((1, 2)), ts, trace=lambda state: state.nfe)
    np.testing.assert_array_equal(nfe, [1, 2, 5, 6, 9, 10])
    refused(
        r"jump_length is at most the steps of the grid, 6, got 7",
        sampling.sample,
        key(),
        repaint(sampling.ancestral(SDE, score_fn), SDE, FIRST, as_row(Y), jump_length=7),
        x,
        ts,
    )


def test_dps_steps_by_its_gradient_of_the_misfit():
    """Ancestral's step by the same draws, less ζ ∇_x ‖y − A x̂0(x)‖."""
    t, s, x, y = jnp.float32(0.5), jnp.float32(0.4), jnp.array([[0.3, -1.0], [2.0, 0.1]]), as_row(Y)
    plain, keys = sampling.ancestral(SDE, score_fn), jax.random.split(key(3), 2)
    misfit = lambda x: jnp.sqrt(((FIRST(SDE.denoise(x, t, score_fn(x, t))) - y) ** 2).sum(1)).sum()
    expected = plain.step(keys, plain.init(x), t, s).x - 0.4 * jax.grad(misfit)(x)
    found = dps_ancestral(SDE, score_fn, FIRST, y, step_size=0.4)
    np.testing.assert_allclose(found.step(keys, found.init(x), t, s).x, expected, rtol=1e-5, atol=1e-6)


def test_diffpir_is_exact_on_isotropic_gaussians():
    """With λ = 1 + σ²/(α² d²), and without a derivative."""
    prior, matrix = distributions.Gaussian(jnp.array([0.3, -0.2]), jnp.float32(0.49)), jnp.array([[1.0, 0.5]])
    x, t, y = jnp.array([[0.3, -1.0], [2.0, 0.1]]), jnp.array([0.2, 0.7]), jnp.array([[0.8]])
    strength = lambda t: 1 + jnp.exp(-SDE.log_snr(t)) / 0.49
    prior_score = distributions.score_of(prior, SDE)
    found = diffpir(SDE, prior_score, Linear(matrix), y, noise_std=0.5, strength=strength)(x, t)
    exact = distributions.score_of(prior.posterior(matrix, y[0], 0.5), SDE)(x, t)
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    assert np.abs(exact - prior_score(x, t)).max() > 0.1


def test_a_langevin_draw_is_of_the_gaussian():
    """200 steps of 0.1 from x̂0: variance v/(1 − 0.05) where y decides, and what they reach of r² where it doesn't."""
    mean, y, n = jnp.zeros((4000, 2)), as_row(Y), 4000
    x = langevin_draw(200, step_size=0.1)(arrays.example_keys(key(), n), FIRST, y, 0.3, mean, jnp.float32(1.0))
    v = 1 / (1 + 1 / 0.09)
    reached = 1 - (1 - 0.1 * v) ** 400  # and a bias of 0.4 %
    np.testing.assert_allclose(x.var(0), [v / 0.95, reached], rtol=4.5 * np.sqrt(2 / n) + 0.005)
    np.testing.assert_allclose(x.mean(0), [1.5 / 1.09, 0], atol=4.5 / np.sqrt(n))


def test_colorization_is_replacement_in_decoupled_channels():
    """Song et al. 2021, appendix I.3: an orthonormal matrix whose first column is grey takes colours apart."""
    rng = np.random.default_rng(0)
    columns = np.linalg.qr(np.concatenate([np.ones((3, 1)), rng.normal(size=(3, 2))], 1))[0]
    x, colours = (jnp.asarray(rng.normal(size=(2, 2, 2, 3)), jnp.float32) for _ in range(2))
    gray, score = Gray(), lambda x, t: -x
    plain, keys, (t, s) = sampling.ddim(SDE, score), jax.random.split(key(4), 2), jnp.array([0.5, 0.4])
    found = replacement(plain, SDE, gray, gray(colours))
    after = found.step(keys, found.init(x), t, s).x
    apart = lambda v: np.asarray(v, np.float64) @ columns

    def put(into, of):
        into[..., 0] = of[..., 0]
        return jnp.asarray(into @ columns.T, jnp.float32)

    noised = SDE.perturb(arrays.split(keys)[0], pseudo_inverse(gray, gray(colours)), t)[0]
    step = plain.step(keys, plain.init(put(apart(x), apart(noised))), t, s).x
    np.testing.assert_allclose(after, put(apart(step), float(SDE.alpha(s)) * apart(colours)), atol=2e-6)


def test_any_likelihood_guides():
    """Counts of light: the gradient of their log-probability at the denoised estimate, by differences."""
    y, x, t = jnp.array([[[[2.0]], [[0.5]]]]), jnp.array([[[[0.6]], [[1.2]]]]), jnp.float32(0.3)
    score, peak = lambda x, t: -x, 10.0
    guided = likelihood_guidance(SDE, score, log_counts(lambda x: x, y, peak), 0.7)

    def log_prob(x):
        rate = np.asarray((x + float(SDE.variance(t)) * -x) / float(SDE.alpha(t)), np.float64) * peak
        return stats.poisson.logpmf(np.asarray(y) * peak, rate).sum()

    h, found = 1e-4, np.asarray(guided(x, t) - score(x, t)).ravel()
    for i, row in enumerate(np.eye(2).reshape(2, 1, 2, 1, 1) * h):
        difference = (log_prob(np.asarray(x, np.float64) + row) - log_prob(np.asarray(x, np.float64) - row)) / (2 * h)
        np.testing.assert_allclose(found[i], 0.7 * difference, rtol=1e-3)


SINGULAR = np.array([[2.0, 0.0], [0.0, 0.3]])


@pytest.mark.parametrize(
    ("matrix", "until"),
    [
        pytest.param(np.eye(2)[:1], 1.0, id="rate", marks=pytest.mark.slow),
        pytest.param(SINGULAR, 0.6, id="late"),
    ],
)
@pytest.mark.parametrize("method", (tds, mcgdiff))
def test_particles_approach_the_posterior_of_their_chain_as_they_should(method, matrix, until):
    """64 sets of 512 particles have its mean; from t_max on the error is that of 32, 16 times fewer, over 4, to 30 %.

    Exact: the chain of ancestral steps by themselves is affine and ends in N(m, P); the posterior of that for the last
    ψ. A start as late as t = 0.6, from the exact marginal, has weights of its own, ψ_T, and errors of heavier tails.
    """
    grid, data_std = grids.log_snr(SDE, 13), 1.0 if until == 1 else 0.8
    ts = grid[np.asarray(grid) <= until]
    levels = [Level(float(t)) for t in ts]
    start = (levels[0].alpha ** 2 * C if until < 1 else 0) + levels[0].variance * EYE
    mean, covariance = np.zeros(2), start
    for t, s in itertools.pairwise(levels):
        mean, covariance = affine((mean, covariance), ancestral(t, s)[0], noise=ancestral(t, s)[1])
    end, observed = levels[-1], seen_through(matrix)
    if method is tds:  # ψ = N(y; A x̂0(x), σ_y² + r² A Aᵀ), with x̂0 of the score
        left = end.ratio / (1 + end.ratio / data_std**2)
        sees, spread = matrix @ end.denoised, NOISE**2 * np.eye(len(matrix)) + left * matrix @ matrix.T
    else:
        sees, spread = matrix / end.alpha, NOISE**2 * np.eye(len(matrix)) + end.ratio * matrix @ matrix.T
    gain = covariance @ sees.T @ np.linalg.inv(sees @ covariance @ sees.T + spread)
    expected = mean + gain @ (observed - sees @ mean)
    told = {"data_std": data_std} if method is tds else {}
    operator = Linear(jnp.asarray(matrix, jnp.float32))
    sampler = method(SDE, score_fn, operator, as_row(observed), noise_std=NOISE, **told)
    root = jnp.asarray(np.linalg.cholesky(start), jnp.float32)

    def means(n):
        begin = lambda key: jax.random.normal(jax.random.fold_in(key, 1), (n, 2)) @ root.T
        one = lambda key: sampling.sample(key, sampler, begin(key), ts).mean(0)
        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key(5), 64)), np.float64)

    many = means(512)
    np.testing.assert_array_less(np.abs(many.mean(0) - expected), 4 * many.std(0) / 8 + 0.01)
    if until == 1:
        errors = [np.sqrt(((found - expected) ** 2).mean()) for found in (means(32), many)]
        np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.3)


def seen_through(matrix):
    """What is observed: 1.5 of the first direction."""
    return matrix @ np.array([1.5, 0.7])


def test_one_particle_is_guided_as_pigdm_is():
    x, t, s, y, keys = jnp.array([[0.3, -1.0], [2.0, 0.1]]), 0.5, 0.4, as_row(Y), jax.random.split(key(3), 2)
    told = {"noise_std": NOISE, "data_std": 0.7}
    particles = tds(SDE, score_fn, FIRST, y, **told, threshold=1e-9).along(jnp.array([t, s, 0.1]))
    alone = sampling.ancestral(SDE, pigdm(SDE, score_fn, FIRST, y, **told))
    found = particles.step(keys, particles.init(x), jnp.float32(t), jnp.float32(s)).x
    expected = alone.step(arrays.split(keys)[0], alone.init(x), jnp.float32(t), jnp.float32(s)).x
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted({*POSTERIOR_SAMPLERS} - {"dps_ancestral", "daps"}))
def test_the_units_of_an_observation_do_not_matter(name):
    """Twice the operator, the observation and its noise are the same problem. (Of the two left out it is not so.)"""
    make = POSTERIOR_SAMPLERS[name][0]
    x, ts = jnp.array([[0.3, -1.0], [2.0, 0.1]]), jnp.array([0.6, 0.3, 0.05, 0.01])
    run = lambda scale: sampling.sample(
        key(), make(SDE, score_fn, Linear(scale * jnp.eye(2)[:1]), jnp.array([[1.5 * scale]]), scale * NOISE), x, ts
    )
    np.testing.assert_allclose(run(2.0), run(1.0), rtol=1e-3, atol=1e-4)


def test_systematic_draws_take_each_as_often_as_its_weight_asks():
    weights = np.random.default_rng(0).dirichlet(np.ones(50))
    counts = np.bincount(systematic(key(), jnp.asarray(np.log(weights), jnp.float32)), minlength=50)
    assert (np.abs(counts - 50 * weights) < 1).all() and counts.sum() == 50


def test_what_methods_cannot_do_is_one_line():
    y, plain = as_row(Y), sampling.ancestral(SDE, score_fn)
    for wrap in (ilvr, repaint):
        for make in MULTISTEP.values():
            refused("changes x between steps", wrap, make(SDE, score_fn), SDE, FIRST, y)
        refused("needs an operator with its singular values", wrap, plain, SDE, magnitudes, y)
    for method in (ddrm, diffpir, tds, mcgdiff):
        refused("needs an operator with its singular values", method, SDE, score_fn, jnp.abs, y, noise_std=0.1)
        refused("noise_std must be at least 0, got -1", method, SDE, score_fn, FIRST, y, noise_std=-1)
    for method in (tds, mcgdiff):
        refused(
            r"rows of a batch are the particles of one observation", method, SDE, score_fn, FIRST, y[0], noise_std=1
        )
        refused(
            r"got \(3, 2\): take jax.vmap over whole runs", method, SDE, score_fn, FIRST, jnp.ones((3, 2)), noise_std=1
        )
    refused("daps: noise_std must be positive, got 0", daps, SDE, score_fn, FIRST, y, noise_std=0)
    refused("n_flow must be at least 1, got 0", daps, SDE, score_fn, FIRST, y, noise_std=1, n_flow=0)
    refused("dps_ancestral: step_size must be at least 0", dps_ancestral, SDE, score_fn, FIRST, y, step_size=-1)
    refused("steps diverge from a step_size of 2 on, got 3", langevin_draw, 10, step_size=3.0)
    refused("tds: threshold must be positive", tds, SDE, score_fn, FIRST, y, noise_std=1, threshold=0)
    refused("impose needs an operator with its singular values", impose, jnp.abs, jnp.ones((1, 2)), jnp.ones((1, 2)))
    unbatched = replacement(plain, SDE, Downsample(2), jnp.ones((2, 2, 1)))
    x = jnp.ones((1, 4, 4, 1))
    refused("replacement: Downsample makes observations", unbatched.step, key(), unbatched.init(x), 0.5, 0.4)
    refused("eta is a share of fresh noise from 0 to 1, got 2", ddrm, SDE, score_fn, FIRST, y, noise_std=1, eta=2)
    refused("tds: data_std must be positive", tds, SDE, score_fn, FIRST, y, noise_std=1, data_std=0)
    refused("diffpir: strength must be positive", diffpir, SDE, score_fn, FIRST, y, noise_std=1, strength=0)
    refused("repaint: n_resample must be at least 1", repaint, plain, SDE, FIRST, y, n_resample=0)
    wrong = ddrm(SDE, score_fn, FIRST, jnp.ones((2, 2)), noise_std=0.1)
    refused(r"ddrm: Mask makes observations \(3, 2\)", wrong.step, key(), wrong.init(jnp.ones((3, 2))), 0.5, 0.4)

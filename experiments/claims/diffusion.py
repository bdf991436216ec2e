"""Claims E: denoising diffusion is score matching; DDPM and SMLD are two discretisations of one thing.

α_t, ᾱ_t, β_t are DDPM's table of 1,000 steps, σ² = 1 − ᾱ; the other side of each comparison is numpy on the table.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from score_jax import arrays, distributions, kernels, losses, sampling
from score_jax import sde as sdes
from score_jax.losses import weighting
from score_jax.types import Array, Key, ScoreFn

from . import exact, models
from .claim import Measurement, at_most, average, claim, compute, draws, equal, wrong

TABLE = sdes.ddpm_schedule()
BEFORE = np.append(1.0, TABLE.alphas_bar[:-1])  # ᾱ_{t−1}


class Steps(NamedTuple):
    """Every step of the table several times over: x_0, ε, x_t `(N, D)`, times t and s < t `(N,)`, its row `(N,)`."""

    x0: np.ndarray
    eps: np.ndarray
    x: np.ndarray
    t: np.ndarray
    s: np.ndarray
    row: np.ndarray

    def of(self, table: np.ndarray) -> np.ndarray:
        """The table's value of each step, `(N, 1)`."""
        return table[self.row][:, None]


def steps(p: exact.Mixture, each: int = 6, seed: int = 0) -> Steps:
    """Draws x_0 from p and noises it to all times of the table, `each` times over."""
    rng, n = np.random.default_rng(seed), len(TABLE.betas)
    row, dims = np.repeat(np.arange(n), each), p.means.shape[1]
    component = rng.choice(len(p.weights), p=p.weights, size=len(row))
    x0 = p.means[component] + np.sqrt(p.variances[component])[:, None] * rng.normal(size=(len(row), dims))
    eps, bar = rng.normal(size=x0.shape), TABLE.alphas_bar[row][:, None]
    return Steps(x0, eps, np.sqrt(bar) * x0 + np.sqrt(1 - bar) * eps, (row + 1) / n, row / n, row)


def denoised(p: exact.Mixture, at: Steps) -> np.ndarray:
    """E[x_0 | x_t] by each component's linear regression, `(N, D)`."""
    found = np.empty_like(at.x)
    for row, bar in enumerate(TABLE.alphas_bar):
        here = at.row == row
        found[here] = p.posterior_mean(at.x[here] / np.sqrt(bar), np.sqrt((1 - bar) / bar))
    return found


def published() -> sdes.Tabulated:
    """DDPM's table as an SDE."""
    return sdes.Tabulated(TABLE.alphas_bar)


def all_steps(sde: sdes.Tabulated) -> Array:
    """The table's times, descending, down to t = 0: DDPM's last step, to x_0 itself, included."""
    return sampling.grids.ddpm(sde, t_end=0.0)


def reverse_mean(sde: sdes.SDE, score_fn: ScoreFn, x: Array, t: Array, s: Array) -> Array:
    """The mean of ancestral sampling's step."""
    silent = sampling.ancestral(sde, score_fn, variance=lambda x, t, s: jnp.zeros_like(t))
    return silent.step(jax.random.key(0), silent.init(x), t, s).x


def largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max())


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).mean()))


@claim("E1")
def tweedie(key: Key) -> list[Measurement]:
    """The mean of the data given a noised point follows from the score of the noised density alone (Tweedie).

    E[x_0|x_t] = (x_t + (1 − ᾱ_t)·score)/√ᾱ_t,   for every t of the table, on a mixture in two dimensions
    """
    p, sde, at = exact.PLANE, published(), steps(exact.PLANE)
    line, index = exact.grid(6.0, 2001), 499
    x, bar = np.linspace(-2, 2, 9)[:, None], TABLE.alphas_bar[index]

    def measure():
        score = distributions.score_of(p.api(), sde)(at.x, at.t)
        t = jnp.asarray((index + 1) / len(TABLE.betas))
        one = sde.denoise(jnp.asarray(x), t, exact.SKEWED.api().perturbed(sde, t).score(jnp.asarray(x)))
        return sde.denoise(at.x, at.t, score), score, one

    found, score, one = compute(measure)
    truth, scale = denoised(p, at), np.sqrt(at.of(TABLE.alphas_bar))
    posterior = exact.SKEWED.density(line[0]) * np.exp(-((x - np.sqrt(bar) * line[0].T) ** 2) / (2 * (1 - bar)))
    mean = (posterior @ line[0]) / posterior.sum(1, keepdims=True)
    noise = np.sqrt(1 - at.of(TABLE.alphas_bar))
    return [
        at_most("largest |Tweedie − E[x_0|x_t]|, 1,000 t, 6 points each", largest(found - truth), 1e-9),
        at_most("… by quadrature over x_0, t = 500, in 1-D", largest(one - mean), 1e-9),
        wrong("σ for σ²: root mean square distance", rms((at.x + noise * score) / scale - truth), 0.0, 0.1),
        wrong("not divided by √ᾱ: root mean square distance", rms(scale * found - truth), 0.0, 0.1),
    ]


@claim("E2")
def posterior_mean(key: Key) -> list[Measurement]:
    """DDPM's posterior mean with x_0 replaced by Tweedie's estimate is a step along the score.

    μ(x_t, x_0) = √ᾱ_{t−1}β_t/(1 − ᾱ_t)·x_0 + √α_t(1 − ᾱ_{t−1})/(1 − ᾱ_t)·x_t
    μ(x_t, E[x_0|x_t]) = (x_t + (1 − α_t)·score)/√α_t = E[x_{t−1}|x_t],   for every t of the table
    """
    p, sde, at = exact.PLANE, published(), steps(exact.PLANE)
    line, index = exact.grid(6.0, 2001), 499
    x, alpha, times = np.linspace(-2, 2, 9)[:, None], TABLE.alphas[index], np.array([index + 1, index]) / 1000

    def measure():
        score_fn = distributions.score_of(p.api(), sde)
        one = reverse_mean(sde, distributions.score_of(exact.SKEWED.api(), sde), jnp.asarray(x), *jnp.asarray(times))
        return reverse_mean(sde, score_fn, at.x, at.t, at.s), score_fn(at.x, at.t), one

    found, score, one = compute(measure)
    beta, bar, before = at.of(TABLE.betas), at.of(TABLE.alphas_bar), at.of(BEFORE)
    data, noised = np.sqrt(before) * beta / (1 - bar), np.sqrt(1 - beta) * (1 - before) / (1 - bar)
    truth = data * denoised(p, at) + noised * at.x
    earlier = exact.SKEWED.perturbed(np.sqrt(BEFORE[index]), np.sqrt(1 - BEFORE[index])).density(line[0])
    law = earlier * np.exp(-((x - np.sqrt(alpha) * line[0].T) ** 2) / (2 * (1 - alpha)))
    mean = (law @ line[0]) / law.sum(1, keepdims=True)
    return [
        at_most("largest |step along the score − μ(x_t, E[x_0|x_t])|, 1,000 t", largest(found - truth), 1e-9),
        at_most("… − E[x_{t−1}|x_t] by quadrature, t = 500, in 1-D", largest(one - mean), 1e-9),
        wrong("1 − ᾱ_t for 1 − α_t: distance", rms((at.x + (1 - bar) * score) / np.sqrt(1 - beta) - truth), 0, 0.2),
    ]


@claim("E3")
def noise_form(key: Key) -> list[Measurement]:
    """With score = −ε/√(1 − ᾱ) the step is the one in DDPM's algorithm; mixing the two forms samples another
    distribution.

    (x_t − (1 − α_t)/√(1 − ᾱ_t)·ε)/√α_t,   ε = E[ε|x_t]
    mixed: x_t/√α_t − (1 − α_t)/(√(1 − ᾱ_t)√α_t)·score: the sign of the one and the factor of the other
    """
    p, sde, at, n = exact.PLANE, published(), steps(exact.PLANE), 1_000
    short = sdes.Tabulated(sdes.ddpm_schedule(200).alphas_bar)
    line = distributions.score_of(exact.SKEWED.api(), short)

    def measure(key):
        start = exact.SKEWED.api().perturbed(short, 1.0).sample(jax.random.fold_in(key, 0), n)

        def run(factor):  # of the score: 1, or that of the mixed form
            ratio = lambda t: jnp.where(factor > 0, 1.0, -1 / short.sigma(t))
            sampler = sampling.ancestral(short, lambda x, t: ratio(t) * line(x, t))
            return sampling.sample(jax.random.fold_in(key, 1), sampler, start, all_steps(short))

        right, mixed = jax.lax.map(run, jnp.array([1.0, 0.0]))
        return reverse_mean(sde, distributions.score_of(p.api(), sde), at.x, at.t, at.s), right, mixed

    found, right, mixed = compute(measure, key)
    beta, bar = at.of(TABLE.betas), at.of(TABLE.alphas_bar)
    eps = (at.x - np.sqrt(bar) * denoised(p, at)) / np.sqrt(1 - bar)
    truth = (at.x - beta / np.sqrt(1 - bar) * eps) / np.sqrt(1 - beta)
    mean = exact.SKEWED.weights @ exact.SKEWED.means[:, 0]
    square = exact.SKEWED.weights @ (exact.SKEWED.variances + exact.SKEWED.means[:, 0] ** 2)
    return [
        at_most("largest |step along the score − step against ε|, 1,000 t", largest(found - truth), 1e-9),
        average("200 steps from the exact x_T: mean", right, mean),
        average("… mean square", right**2, square),
        wrong("mixed form, as sampled: mean square", (mixed**2).mean(), square, 2.0, draws(n)),
    ]


@claim("E4")
def drawn_and_expected_noise(key: Key) -> list[Measurement]:
    """The kernel's score is minus the drawn noise over √(1 − ᾱ); the marginal score is minus its mean given x_t, from
    which the drawn noise differs by a known amount.

    ∇ log q(x_t|x_0) = −ε/√(1 − ᾱ_t),   ∇ log q(x_t) = −E[ε|x_t]/√(1 − ᾱ_t)
    E‖∇ log q(x_t) + ε/√(1 − ᾱ_t)‖² = d/(1 − ᾱ_t) − E‖∇ log q(x_t)‖²
    """
    p, sde, at, n, index = exact.PLANE, published(), steps(exact.PLANE), 20_000, 399
    bar, time = TABLE.alphas_bar[index], jnp.asarray((index + 1) / 1000)

    def measure(key):
        kernel = jax.vmap(lambda x0, x, t: distributions.Empirical(x0[None]).perturbed(sde, t).score(x[None])[0])
        x0 = p.api().sample(jax.random.fold_in(key, 0), n)
        x, eps = sde.perturb(jax.random.fold_in(key, 1), x0, time)
        drawn = p.api().perturbed(sde, time).score(x) + eps / sde.sigma(time)
        return kernel(at.x0, at.x, at.t), distributions.score_of(p.api(), sde)(at.x, at.t), (drawn**2).sum(1)

    kernel, marginal, drawn = compute(measure, key)
    sigma = np.sqrt(1 - at.of(TABLE.alphas_bar))
    expected = (at.x - np.sqrt(at.of(TABLE.alphas_bar)) * denoised(p, at)) / sigma
    information = exact.fisher_information(p.perturbed(np.sqrt(bar), np.sqrt(1 - bar)), 8.0, 121)
    return [
        at_most("largest |σ·kernel's score + ε|, 1,000 t", largest(sigma * kernel + at.eps), 1e-9),
        at_most("largest |σ·marginal score + E[ε|x_t]|", largest(sigma * marginal + expected), 1e-9),
        wrong(
            "marginal score with the drawn noise: root mean square of σ·score + ε",
            rms(sigma * marginal + at.eps),
            0,
            0.3,
        ),
        average("drawn noise, t = 400: E‖∇ log q(x_t) + ε/σ‖²", drawn, 2 / (1 - bar) - information),
    ]


@claim("E5")
def reverse_divergence(key: Key) -> list[Measurement]:
    """The divergence of the two reverse Gaussians is a squared error of scores: with the kernel's score for
    q(x_{t−1}|x_t, x_0); with the marginal score for the Gaussian at Tweedie's mean, which in expectation differs by a
    constant.

    KL = (1/(2σ_q²))·((1 − α_t)²/α_t)·‖s_θ − score‖²,   σ_q² = β_t(1 − ᾱ_{t−1})/(1 − ᾱ_t)
    constant: that factor times d/(1 − ᾱ_t) − E‖∇ log q(x_t)‖²;   one dimension, t = 400
    """
    p, sde, index = exact.SKEWED, published(), 399
    bar, beta, variance = (v[index] for v in (TABLE.alphas_bar, TABLE.betas, TABLE.posterior_variance))
    alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
    pairs, params = exact.noised(p, sigma / alpha, 40), models.wavy_params(4, 1)
    x, times = jnp.asarray(alpha * pairs.x_tilde), jnp.array([index + 1, index]) / 1000
    kernel, marginal = -(alpha * (pairs.x_tilde - pairs.x)) / sigma**2, p.perturbed(alpha, sigma).score(np.asarray(x))

    def measure():
        scores = [lambda x, t: models.wavy_score(params, x), lambda x, t: kernel, lambda x, t: marginal]
        return [reverse_mean(sde, score, x, *times) for score in scores], models.wavy_score(params, x)

    (model, given_x0, tweedies), score = compute(measure)
    factor = beta**2 / (1 - beta) / (2 * variance)
    line, _ = exact.grid(12.0, 4001)

    def divergence(a: float, b: float) -> float:  # of N(a, σ_q²) from N(b, σ_q²), by quadrature
        q, log_ratio = np.exp(-((line - a) ** 2) / (2 * variance)), ((line - b) ** 2 - (line - a) ** 2) / (2 * variance)
        return float((q * log_ratio).sum() / q.sum())

    some = np.argsort(-pairs.weight)[:20]
    by_quadrature = [[divergence(m[i, 0], model[i, 0]) for i in some] for m in (given_x0, tweedies)]
    by_score = [factor * ((score - s) ** 2)[:, 0] for s in (kernel, marginal)]
    gap = pairs.weight @ (by_score[0] - by_score[1])
    small = pairs.weight @ by_score[1] / (pairs.weight @ by_score[0]), 1.0
    constant = factor * (1 / sigma**2 - exact.fisher_information(p.perturbed(alpha, sigma), 9.0, 801))
    return [
        at_most(
            "largest |KL − form in scores|, given x_0, 20 pairs", largest(by_quadrature[0] - by_score[0][some]), 1e-9
        ),
        at_most("… from the Gaussian at Tweedie's mean", largest(by_quadrature[1] - by_score[1][some]), 1e-9),
        equal("mean of the first − mean of the second", gap, constant, 1e-8),
        wrong("marginal score in KL given x_0: its mean over the right one", *small, 0.2),
    ]


@claim("E6")
def simple_loss(key: Key) -> list[Measurement]:
    """DDPM's L_simple is denoising score matching weighted by λ = σ²: the same values and the same gradients up to the
    ½ and to the mean over dimensions.

    L_simple = (1/D)‖ε − ε_θ(√ᾱ x_0 + √(1 − ᾱ) ε, t)‖² = (2/D)·σ²·½‖s_θ(x_t, t) − ∇ log q(x_t|x_0)‖²,   s_θ = −ε_θ/σ
    """
    sde, at, dims = published(), steps(exact.PLANE, each=1), 2
    params = models.wavy_params(5, dims)

    def network(params, x: Array, t: Array) -> Array:
        return models.wavy_score(params, x) + t[:, None]

    def loss(params, weight: weighting.Weighting):
        def score_fn(x, t):
            return -network(params, x, t) / sde.sigma(t)[:, None]

        times = lambda key, sde, n: (jnp.asarray(at.t), jnp.ones(n))
        noise = exact.AtNodes(kernels.Gaussian(1.0), at.eps)
        return losses.diffusion_loss(key, sde, score_fn, jnp.asarray(at.x0), times=times, weighting=weight, noise=noise)

    def simple(params):
        bar = jnp.asarray(at.of(TABLE.alphas_bar))
        x = jnp.sqrt(bar) * at.x0 + jnp.sqrt(1 - bar) * at.eps
        return ((at.eps - network(params, x, jnp.asarray(at.t))) ** 2).mean(1)

    def measure():
        forms = {
            "λ = σ²": lambda p: loss(p, weighting.sigma2),
            "L_simple": simple,
            "λ = 1": lambda p: loss(p, lambda sde, t: jnp.ones_like(t)),
        }
        both = {name: jax.vjp(form, params) for name, form in forms.items()}
        return {n: (v, ravel_pytree(back(jnp.ones_like(v))[0])[0]) for n, (v, back) in both.items()}

    found = compute(measure)
    (values, gradient), (simple_values, simple_gradient) = found["λ = σ²"], found["L_simple"]
    unweighted = found["λ = 1"][1]

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    return [
        at_most("largest |L_simple − (2/D)·DSM|, 1,000 t", largest(simple_values - 2 / dims * values), 1e-9),
        at_most(
            "largest |∇L_simple − (2/D)·∇DSM| of its largest",
            largest(simple_gradient - 2 / dims * gradient) / largest(simple_gradient),
            1e-9,
        ),
        wrong("DSM with λ = 1: cosine of its gradient with ∇L_simple", cosine(unweighted, simple_gradient), 1.0, 0.02),
    ]


def distance(x: np.ndarray, law: exact.Mixture) -> float:
    """Kolmogorov's distance of draws `(n, 1)` from a mixture on the line."""
    return float(stats.kstest(x[:, 0], lambda x: exact.distribution_function(law, x)).statistic)


def at_time(sde: sdes.SDE, t: Array, p: exact.Mixture = exact.SKEWED) -> exact.Mixture:
    """The law of x_t in numpy."""
    return p.perturbed(float(sde.alpha(t)), float(sde.sigma(t)))


@claim("E7")
def discretised_reverse_sde(key: Key) -> list[Measurement]:
    """Ancestral sampling is a discretised reverse SDE: with the transition variance and at a fixed t > 0 a step differs
    from the discretisation by order β², with the posterior variance by order β^{3/2}, and in the very last step by
    order β^{1/2}. The probability flow has the marginals of the SDE at every t, but not its paths.

    (x + β·score)/√(1 − β) − [(2 − √(1 − β))x + β·score] = β²(x/4 + score/2) + O(β³)
    VP from t = 0.4, one dimension;   marginals: Kolmogorov's distance, whose 0.1 % point at n = 1,000 is 0.062
    """
    n, sde, p = 1_000, sdes.VP(), exact.SKEWED
    score_fn = distributions.score_of(p.api(), sde)
    t, widths = jnp.asarray(0.4), jnp.array([2e-4, 1e-4])
    kinds = {
        "transition": sampling.ancestral(sde, score_fn, variance="transition"),
        "posterior": sampling.ancestral(sde, score_fn),
        "reverse diffusion": sampling.reverse_diffusion(sde, score_fn),
        "Euler–Maruyama": sampling.euler_maruyama(sde, score_fn),
    }
    names = list(kinds)
    ts, kept = sampling.grids.log_snr(sde, 101, t_end=1e-3), np.array([40, 70, 99])

    def measure(key):
        x = p.api().perturbed(sde, t).sample(key, n)

        def one(width):
            middle = {name: k.step(key, k.init(x), t, t - width).x for name, k in kinds.items()}
            first = {name: k.step(key, k.init(x), width, 0.0).x for name, k in kinds.items()}
            return middle, first, -jnp.expm1(2 * (sde.log_alpha(t) - sde.log_alpha(t - width)))

        start = p.api().perturbed(sde, sde.t_max).sample(jax.random.fold_in(key, 1), n)

        def walk(sampler):
            return sampling.sample(key, sampler, start, ts, trace=lambda state: state.x)[1][kept]

        paths = walk(sampling.heun(sde, score_fn)), walk(kinds["posterior"])
        return jax.lax.map(one, widths), (x, score_fn(x, t)), start, paths

    (middle, first, beta), (x, score), start, (flow, reverse) = compute(measure, key)

    def order(steps: dict, a: str, b: str) -> float:
        return exact.slope(beta, [rms(steps[a][i] - steps[b][i]) for i in (0, 1)])

    ancestral, posterior, reverse_diffusion, euler_maruyama = names
    leading = rms(middle[ancestral][1] - middle[reverse_diffusion][1]) / beta[1] ** 2
    laws = [at_time(sde, ts[k + 1]) for k in kept]
    kept_order = [abs(stats.spearmanr(start[:, 0], x[-1, :, 0]).statistic) for x in (flow, reverse)]
    return [
        equal(
            "transition variance: order in β of its difference", order(middle, ancestral, reverse_diffusion), 2, 0.01
        ),
        equal("… over β², root mean square", leading, rms(x / 4 + score / 2), 1e-3 * leading),
        equal("posterior variance: order in β", order(middle, posterior, reverse_diffusion), 1.5, 0.01),
        equal("Euler–Maruyama against both: order in β", order(middle, ancestral, euler_maruyama), 1.5, 0.02),
        wrong(
            "order 2 in the last step to the data too, posterior variance",
            order(first, posterior, reverse_diffusion),
            2,
            1,
        ),
        *(
            at_most(
                f"{name}: largest distance from p_t at {len(kept)} times", max(map(distance, x, laws)), 0.062, draws(n)
            )
            for name, x in (("probability flow", flow), ("reverse SDE", reverse))
        ),
        equal("probability flow: rank correlation of x_T and x_0", kept_order[0], 1, 1e-6, draws(n)),
        wrong("the reverse SDE has the same paths: rank correlation", kept_order[1], 1, 0.8, draws(n)),
    ]


@claim("E8")
def change_of_variables(key: Key) -> list[Measurement]:
    """SMLD is the variance-exploding SDE and DDPM the variance-preserving one; they are one process in two sets of
    coordinates, so that the probability flow of the one is that of the other and the SDEs agree in law.

    y = x/α, ς = σ/α:   score_VP(x, t) = score_VE(x/α, ς)/α,   x_t^VP = α_t · x_ς^VE
    SMLD: x + (σ_i² − σ_{i−1}²)·score + √(σ_i² − σ_{i−1}²) z;   flow on the line: x_t = F_t⁻¹(F_T(x_T))
    """
    n, p, vp, ve = 1_000, exact.SKEWED, sdes.VP(), sdes.VE(1e-3, 200.0)
    on_vp, on_ve = (distributions.score_of(p.api(), sde) for sde in (vp, ve))
    fine, coarse = (sampling.grids.log_snr(vp, m, t_end=t) for m, t in ((4001, 0.05), (201, 1e-3)))
    top = exact.quantile(at_time(vp, vp.t_max), np.linspace(0.1, 0.9, 9))[:, None]
    table, (high, low) = published(), (2.0, 1.9)  # SMLD's step: two levels of a ladder

    def twin(t):  # the time at which VE has the ratio σ/α that VP has at t
        return ve.time(vp.log_snr(t))

    def measure(key):
        flows = (
            sampling.sample(key, sampling.euler(vp, on_vp), jnp.asarray(top), fine) / vp.alpha(fine[-1]),
            sampling.sample(key, sampling.heun(ve, on_ve), top / vp.alpha(fine[0]), twin(fine)),
        )
        x = p.api().perturbed(vp, vp.t_max).sample(key, n)

        def ancestral(power):  # of 1/α in the score made of VE's: 1, or 0 where it is forgotten
            score_fn = lambda x, t: on_ve(x / vp.alpha(t), twin(t)) / vp.alpha(t) ** power
            return sampling.sample(key, sampling.ancestral(vp, score_fn), x, coarse) / vp.alpha(coarse[-1])

        vp_paths, forgotten = jax.lax.map(ancestral, jnp.array([1.0, 0.0]))
        ve_paths = sampling.sample(key, sampling.ancestral(ve, on_ve), x / vp.alpha(coarse[0]), twin(coarse))
        chain, times = sampling.reverse_diffusion(ve, on_ve), ve.time(-2 * jnp.log(jnp.array([high, low])))
        smld = chain.step(key, chain.init(x), *times).x, arrays.normal(key, x), x
        knots = all_steps(table)
        scores = on_vp(x, jnp.asarray(0.3)) - on_ve(x / vp.alpha(0.3), twin(0.3)) / vp.alpha(0.3)
        return (
            flows,
            (vp_paths, ve_paths, forgotten),
            smld,
            scores,
            table.transition(knots[:-1], knots[1:]),
        )

    flows, paths, (smld, z, x), scores, (root_alpha, betas) = compute(measure, key)
    end = vp.alpha(fine[-1]), vp.sigma(fine[-1])
    truth = exact.quantile(at_time(vp, fine[-1]), np.linspace(0.1, 0.9, 9))[:, None] / float(end[0])
    by_hand = x + (high**2 - low**2) * p.smoothed(high).score(x) + np.sqrt(high**2 - low**2) * z
    counts = np.array([1000, 2000, 4000])
    apart = [largest(sdes.ddpm_schedule(m).alphas_bar - np.exp(-vp.integral(np.arange(1, m + 1) / m))) for m in counts]
    law = p.smoothed(float(vp.sigma(coarse[-1]) / vp.alpha(coarse[-1])))
    return [
        at_most("SMLD's step, largest |reverse diffusion on VE − by hand|", largest(smld - by_hand), 1e-12),
        at_most(
            "DDPM's chain, largest |transition variance of the table − β_t|", largest(betas[::-1] - TABLE.betas), 1e-12
        ),
        at_most("… |α_{t|t−1} − √(1 − β_t)|", largest(root_alpha[::-1] - np.sqrt(TABLE.alphas)), 1e-12),
        equal("ᾱ of N steps against VP's exp(−B): order in N", exact.slope(counts, apart), -1, 0.01),
        at_most("largest |score_VP(x) − score_VE(x/α)/α|, t = 0.3", largest(scores), 1e-9),
        at_most("flow of VP, 4,000 Euler steps: largest |x/α − quantile map|", largest(flows[0] - truth), 2e-3),
        at_most("flow of VE from the same x_T/α, 4,000 Heun steps", largest(flows[1] - truth), 1e-4),
        at_most("ancestral sampling, same noise: largest |x^VP/α − x^VE|", largest(paths[0] - paths[1]), 1e-9),
        at_most("… distance of its law from the data's", distance(paths[0], law), 0.062, draws(n)),
        wrong("score_VP = score_VE(x/α), without 1/α: distance", distance(paths[2], law), 0, 0.062, draws(n)),
    ]

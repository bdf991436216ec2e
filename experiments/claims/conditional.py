"""Claims F: conditional generation is Bayes' rule at every noise level, and what is taken for it.

Classes are components of a mixture, whose own score is the conditional one; the other side is numpy on the components.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from score_jax import arrays, conditioning, distributions, sampling
from score_jax import sde as sdes
from score_jax.types import Array, Key

from . import exact
from .claim import Measurement, at_least, at_most, claim, compute, draws, equal, wrong

LEVELS = (0.1, 0.5, 0.9)  # times of VP
MATRIX, OBSERVED, NOISE_STD = np.array([1.0, -0.5]), 0.8, 0.3  # y = A x_0 + noise


def component(p: exact.Mixture, k: int) -> exact.Mixture:
    """p(x | class k), the mixture's component."""
    return exact.Mixture(np.ones(1), p.means[k : k + 1], p.variances[k : k + 1])


def class_log_prob(p: exact.Mixture, sde: sdes.SDE, k: int) -> conditioning.guidance.NoisedLogProb:
    """log p_t(class k | x): the classifier of noised data."""

    def of_row(row: Array, t: Array) -> Array:
        return jnp.log(p.api().perturbed(sde, t).responsibilities(row[None])[0, k])

    return lambda x, t: jax.vmap(of_row)(x, arrays.per_example(t, x))


def observation_log_prob(p: exact.Mixture, sde: sdes.SDE) -> conditioning.guidance.NoisedLogProb:
    """log p_t(y | x): in each component x_0 given x is a Gaussian, and y = A x_0 + noise one too."""

    def log_prob(x: Array, t: Array) -> Array:
        alpha, total = sde.alpha(t), sde.alpha(t) ** 2 * p.variances + sde.variance(t)
        shift = (alpha * p.variances / total)[None] * ((x[:, None] - alpha * p.means[None]) @ MATRIX)
        spread = p.variances * sde.variance(t) / total * (MATRIX @ MATRIX) + NOISE_STD**2
        terms = jax.scipy.stats.norm.logpdf(OBSERVED, (p.means @ MATRIX)[None] + shift, jnp.sqrt(spread)[None])
        return jax.nn.logsumexp(jnp.log(p.api().perturbed(sde, t).responsibilities(x)) + terms, axis=1)

    return log_prob


def observed_score(p: exact.Mixture, alpha: float, sigma: float, x: np.ndarray) -> np.ndarray:
    """∇ log p_t(x | y): every component conditioned on y (Kalman's update), noised, and weighed by its evidence."""
    logs, scores = [], []
    for weight, mean, variance in zip(p.weights, p.means, p.variances, strict=True):
        evidence = variance * MATRIX @ MATRIX + NOISE_STD**2
        gain = variance * MATRIX / evidence
        centre = alpha * (mean + gain * (OBSERVED - MATRIX @ mean))
        cover = alpha**2 * variance * (np.eye(2) - np.outer(gain, MATRIX)) + sigma**2 * np.eye(2)
        prior = np.log(weight) + stats.norm.logpdf(OBSERVED, MATRIX @ mean, np.sqrt(evidence))
        logs.append(prior + stats.multivariate_normal.logpdf(x, centre, cover))
        scores.append((centre - x) @ np.linalg.inv(cover))
    shares = np.exp(logs - np.logaddexp.reduce(logs, axis=0))
    return np.einsum("kn,knd->nd", shares, scores)


def largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max())


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).sum(-1).mean()))


@claim("F1")
def bayes_rule(key: Key) -> list[Measurement]:
    """The conditional score is the score plus the gradient of the log-likelihood, at every noise level, if that is the
    likelihood of the noised data: neither that of the denoised estimate, nor without its logarithm.

    ∇ log p_t(x|y) = ∇ log p_t(x) + ∇_x log p_t(y|x),   p_t(y|x) = ∫ p(y|x_0) p(x_0|x_t = x) dx_0
    y a class, and y = A x_0 + noise, on a mixture in two dimensions
    """
    p, sde = exact.PLANE, sdes.VP()
    x, _ = exact.grid(2.5, 11, 2)
    score_fn, operator = distributions.score_of(p.api(), sde), conditioning.operators.Linear(MATRIX[None])
    by_class, by_y = class_log_prob(p, sde, 0), observation_log_prob(p, sde)
    guided = {
        "class": conditioning.classifier_guidance(score_fn, by_class),
        "y": conditioning.classifier_guidance(score_fn, by_y),
        "p": conditioning.classifier_guidance(score_fn, lambda x, t: jnp.exp(by_class(x, t))),
        "alone": conditioning.classifier_guidance(lambda x, t: jnp.zeros_like(x), by_class),
        "estimate": conditioning.dps(sde, score_fn, operator, np.full((1, 1), OBSERVED), noise_std=NOISE_STD),
    }
    found = compute(lambda: {name: jnp.stack([f(x, jnp.asarray(t)) for t in LEVELS]) for name, f in guided.items()})
    scales = [(float(sde.alpha(t)), float(sde.sigma(t))) for t in LEVELS]
    of_class = np.stack([component(p, 0).perturbed(*scale).score(x) for scale in scales])
    of_y = np.stack([observed_score(p, *scale, x) for scale in scales])
    where = f"{len(x)} points at t = {', '.join(map(str, LEVELS))}"
    return [
        at_most(f"y a class: largest |guided − conditional score|, {where}", largest(found["class"] - of_class), 1e-9),
        at_most("y = A x_0 + noise: largest |guided − posterior score|", largest(found["y"] - of_y), 1e-9),
        wrong("∇ p_t(y|x) without its logarithm: root mean square distance", rms(found["p"] - of_class), 0, 0.5),
        wrong("without ∇ log p_t(x)", rms(found["alone"] - of_class), 0, 0.5),
        wrong("log p(y|E[x_0|x_t]) for log p_t(y|x), y = A x_0 + noise", rms(found["estimate"] - of_y), 0, 0.5),
    ]


@claim("F2")
def clean_classifier(key: Key) -> list[Measurement]:
    """A classifier of clean data, used at noise level t, is biased: like σ² where that is small, and by many times the
    right gradient where it is large. What is sampled with it is not p(x|y).

    ½ N(−1, v) + ½ N(1, v), y the right one:   ∇ log p_σ(y|x) = (2/v_σ) p_σ(not y|x),   v_σ = v + σ²
    √E_{p_σ}|∇ log p_0(y|x) − ∇ log p_σ(y|x)|² ≥ E_{p_σ}[∇ log p_0(y|x) − ∇ log p_σ(y|x)] = 1/v − 1/v_σ
    """
    v, n, sde = 0.25, 1_000, sdes.VE(1e-3, 50.0)
    p = exact.mixture([0.5, 0.5], [-1.0, 1.0], [v, v])
    x, cell = exact.grid(20.0, 4001)
    sigmas = np.array([0.01, 0.02, 1.0, 4.0])
    noised = class_log_prob(p, sde, 1)
    clean = lambda x, t: jax.nn.log_sigmoid(2 / v * x[:, 0])
    score_fn, ts = distributions.score_of(p.api(), sde), sampling.grids.log_snr(sde, 100)
    start = exact.quantile(p.smoothed(50.0), (np.arange(n) + 0.5) / n)[:, None]

    def by(log_prob):
        """Its gradient at all levels, and where the flow that it guides ends."""
        gradient = conditioning.classifier_guidance(lambda x, t: jnp.zeros_like(x), log_prob)
        guided = conditioning.classifier_guidance(score_fn, log_prob)
        gradients = jax.lax.map(lambda t: gradient(x, t), sde.time(-2 * jnp.log(sigmas)))
        return gradients, sampling.sample(key, sampling.heun(sde, guided), start, ts)

    (biased, wrongly), (right, rightly) = compute(lambda: (by(clean), by(noised)))
    bias = 1 / v - 1 / (v + 1)
    densities = np.stack([cell * p.smoothed(s).density(x) for s in sigmas])
    over = lambda values: (densities * values[..., 0]).sum(1)
    widths = v + sigmas**2
    by_hand = np.stack([2 / w / (1 + np.exp(2 / w * x)) for w in widths])
    error, size = np.sqrt(over((biased - right) ** 2)), np.sqrt(over(right**2))
    law = component(p, 1).smoothed(1e-3)
    return [
        at_most("largest |∇ log p_σ(y|x) − by hand| on the grid", largest(right - by_hand), 1e-9),
        equal("mean bias of the clean classifier at σ = 1, under p_σ", over(biased - right)[2], bias, 1e-6),
        at_least("… root mean square error at σ = 1", error[2], bias),
        at_least("… over that of the right gradient", error[2] / size[2], 1),
        at_least("… at σ = 4", error[3] / size[3], 10),
        equal("order in σ of its error where σ is small", exact.slope(sigmas[:2], error[:2]), 2, 0.01),
        at_most("flow with the noised classifier: distance of its law from p(x|y)", distance(rightly, law), 0.01),
        wrong("flow with the clean classifier: distance of its law", distance(wrongly, law), 0, 0.1),
    ]


def distance(x: np.ndarray, law: exact.Mixture) -> float:
    """Kolmogorov's distance of draws `(n, 1)` from a mixture on the line."""
    return float(stats.kstest(x[:, 0], lambda x: exact.distribution_function(law, x)).statistic)


SCALE, VARIANCE, MEAN = 3.0, 0.5, 1.0  # w; p(x) = N(0, 1) and p(x|y) = N(MEAN, VARIANCE)


def guided_variances(top: float) -> dict[str, float]:
    """Variances by the guided score from N(0, 1 + τ) at τ = σ² = `top` on, and that of p(x) p(y|x)^w.

    The score is −A(τ) x + …, A = (1 − w)/(1 + τ) + w/(v + τ) = d/dτ log h, h = (1 + τ)^{1−w} (v + τ)^w: the flow keeps
    V/h, and of the reverse SDE V' = 2 A V − 1.
    """
    w, v = SCALE, VARIANCE
    h = lambda tau: (1 + tau) ** (1 - w) * (v + tau) ** w
    added = lambda tau: ((1 + tau) / (v + tau)) ** (2 * w - 1) / ((1 - v) * (2 * w - 1))  # ∫ dτ/h², but for its sign
    return {
        "flow": h(0) * (1 + top) / h(top),
        "SDE": h(0) ** 2 * ((1 + top) / h(top) ** 2 + added(0) - added(top)),
        "product": 1 / (1 - w + w / v),
    }


def product(p: exact.Mixture, k: int, w: float, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
    """The density of p(x) p(class k|x)^w on the grid x `(N, 1)`, normalised, noised by N(0, σ²)."""
    density = p.density(x) ** (1 - w) * (p.weights[k] * component(p, k).density(x)) ** w
    if sigma:
        density = np.exp(-0.5 * ((x - x.T) / sigma) ** 2) @ density
    return density / (density.sum() * (x[1, 0] - x[0, 0]))


@claim("F3")
def classifier_free_guidance(key: Key) -> list[Measurement]:
    """Classifier-free guidance with w ≠ 1 does not sample p(x) p(y|x)^w. Its score is that of the noised factors,
    p_t(x) p_t(y|x)^w, which are no noised density of one law: the probability flow and the reverse SDE, which agree
    otherwise, sample two laws, and neither is that.

    s_w = ∇ log p_t(x) + w (∇ log p_t(x|y) − ∇ log p_t(x));   p(x) = N(0, 1), p(x|y) = N(m, v), w = 3, v = ½:
    p(x) p(y|x)^w has variance 1/(1 − w + w/v), the flow v^w, the SDE (v − v^{2w})/((1 − v)(2w − 1))
    """
    n, top, w = 4_000, 20.0, SCALE
    sde = sdes.VE(0.01, top)
    alone, given = exact.mixture([1.0], [0.0], [1.0]), exact.mixture([1.0], [MEAN], [VARIANCE])
    p, (x, cell) = exact.SKEWED, exact.grid(6.0, 2401)
    ts = sampling.grids.log_snr(sde, 201)
    quantiles = exact.quantile(p.smoothed(top), (np.arange(1000) + 0.5) / 1000)[:, None]
    one = sde.time(jnp.zeros(()))

    def guided(conditional: exact.Mixture, unconditional: exact.Mixture):
        of = lambda q: distributions.score_of(q.api(), sde)
        return conditioning.classifier_free(of(conditional), of(unconditional), w)

    def measure(key):
        gaussian, classes = guided(given, alone), guided(component(p, 1), p)
        line = sampling.sample(key, sampling.heun(sde, gaussian), jnp.array([[0.0], [1.0]]), ts)
        start = alone.api().smoothed(top).sample(key, n)
        drawn = sampling.sample(key, sampling.dpm_solver_pp(sde, gaussian, eta=1.0), start, ts)
        return line, drawn, sampling.sample(key, sampling.heun(sde, classes), quantiles, ts), classes(x, one)

    line, drawn, flow, score = compute(measure, key)
    variance = guided_variances(top**2)
    by_flow = float(line[1, 0] - line[0, 0]) ** 2 * (1 + top**2)
    by_sde, error = drawn.var(ddof=1), (2 / n) ** 0.5
    target, noised = product(p, 1, w, x), product(p, 1, w, x, 1.0)
    factors = w * component(p, 1).smoothed(1.0).score(x) + (1 - w) * p.smoothed(1.0).score(x)
    of_noised = np.gradient(np.log(noised), cell)[:, None]
    mean, law = cell * target @ x[:, 0], cell * np.cumsum(target)
    apart = stats.kstest(flow[:, 0], lambda points: np.interp(points, x[:, 0], law)).statistic
    by_noised = np.sqrt(cell * noised @ (score - of_noised)[:, 0] ** 2)
    return [
        at_most("largest |s_w − score of p_t(x) p_t(y|x)^w|, mixture, σ = 1", largest(score - factors), 1e-9),
        wrong("s_w is the score of the noised p(x) p(y|x)^w: root mean square distance", by_noised, 0, 0.1),
        equal("Gaussians, flow: variance", by_flow, variance["flow"], 0.01 * variance["flow"]),
        equal("… reverse SDE", by_sde, variance["SDE"], (4 * error + 0.02) * variance["SDE"], draws(n)),
        wrong("the flow samples p(x) p(y|x)^w: variance", by_flow, variance["product"], 0.1),
        wrong("the reverse SDE does: variance", by_sde, variance["product"], 0.03, draws(n)),
        wrong("the two sample one law: variance", by_sde, by_flow, 0.03, draws(n)),
        wrong("mixture, the flow samples p(x) p(y|x)^w: mean", flow.mean(), mean, 0.3),
        wrong("… Kolmogorov's distance", apart, 0, 0.3),
    ]

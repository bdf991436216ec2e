"""Claims B: denoising score matching, what it learns, and what its loss is worth."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.datasets import load_digits

from score_jax import distributions, kernels, losses, sampling
from score_jax import sde as sdes
from score_jax.types import Array, Key

from . import exact, models
from .claim import Measurement, at_most, average, claim, compute, draws, equal, wrong


def expected_loss(score_fn: Callable[[Array], Array], pairs: exact.Noised, sigma: float) -> Array:
    """J_DSM of a score function for Gaussian noise, by quadrature over (x, x̃)."""
    kernel = exact.AtNodes(kernels.Gaussian(sigma), pairs.x_tilde)
    values = losses.denoising_score_matching(jax.random.key(0), score_fn, jnp.asarray(pairs.x), kernel)
    return jnp.asarray(pairs.weight) @ values


@claim("B1")
def denoising_equals_explicit(key: Key) -> list[Measurement]:
    """Denoising score matching is explicit score matching of the noised density plus a constant, for any score model;
    on a data set that density is the Parzen window, and for a network with tied weights the loss is the denoising
    autoencoder's.

    J_DSM = ½E‖s(x̃) − ∇ log q(x̃|x)‖² = ½E_q‖s − ∇ log q‖² + C,   C = ½(d/σ² − E_q‖∇ log q‖²)
    one Gaussian N(m, v I): C = ½ d v/(σ²(v + σ²));   s = (Wᵀ sigmoid(W x̃ + b) + c − x̃)/σ²:
    2σ⁴ J_DSM = E‖Wᵀ sigmoid(W x̃ + b) + c − x‖²
    """
    sigma = 0.6
    points = np.random.default_rng(0).normal(size=(5, 2))
    line, plane = models.wavy_params(1, 1), models.wavy_params(2, 2)

    def gap(p: exact.Mixture, smoothed: distributions.GaussianMixture, params, nodes: int, spacing: int) -> Array:
        x, cell = exact.grid(9.0, spacing, p.means.shape[1])

        def score_fn(x):
            return models.wavy_score(params, x)

        esm = losses.explicit_score_matching(score_fn, jnp.asarray(x), smoothed.score)
        return expected_loss(score_fn, exact.noised(p, sigma, nodes), sigma) - cell * p.smoothed(sigma).density(x) @ esm

    single = exact.mixture([1.0], [[0.3, -0.2]], [0.7])
    parzen = exact.mixture(np.full(5, 0.2), points, np.zeros(5))
    oracle = distributions.Empirical(jnp.asarray(points)).smoothed(sigma)
    gaps = compute(
        lambda: (
            gap(single, single.api().smoothed(sigma), plane, 14, 81),
            gap(exact.SKEWED, exact.SKEWED.api().smoothed(sigma), line, 40, 401),
            gap(exact.PLANE, exact.PLANE.api().smoothed(sigma), plane, 14, 81),
            gap(parzen, oracle, plane, 14, 81),
        )
    )
    closed = 0.7 / (sigma**2 * (0.7 + sigma**2))
    information = exact.fisher_information(exact.PLANE.smoothed(sigma), 9.0, 81)
    plane_constant = exact.denoising_constant(exact.PLANE, sigma, 9.0, 81)
    autoencoder, reconstruction = tied_weights(sigma)
    return [
        equal("J_DSM − J_ESM, one Gaussian in 2-D", gaps[0], closed, 1e-8),
        equal("J_DSM − J_ESM, mixture in 1-D", gaps[1], exact.denoising_constant(exact.SKEWED, sigma, 9.0, 401), 1e-8),
        equal("J_DSM − J_ESM, mixture in 2-D", gaps[2], plane_constant, 1e-8),
        equal(
            "J_DSM − J_ESM, Parzen window of 5 points", gaps[3], exact.denoising_constant(parzen, sigma, 9.0, 81), 1e-8
        ),
        equal("2σ⁴ J_DSM with tied weights against the autoencoder's loss", autoencoder, reconstruction, 1e-9),
        wrong("C dropped: J_DSM − J_ESM, mixture in 2-D", gaps[2], 0.0, 0.1),
        wrong("C without its ½", gaps[2], 2 / sigma**2 - information, 0.1),
    ]


def tied_weights(sigma: float) -> tuple[float, float]:
    """Returns 2σ⁴ J_DSM of the tied-weight network, and the reconstruction loss computed in numpy."""
    rng = np.random.default_rng(3)
    W, b, c = rng.normal(size=(5, 2)), rng.normal(size=(1, 5)), rng.normal(size=(1, 2))
    pairs = exact.noised(exact.PLANE, sigma, 8)

    def score_fn(x):
        return (jax.nn.sigmoid(x @ W.T + b) @ W + c - x) / sigma**2

    loss = 2 * sigma**4 * compute(lambda: expected_loss(score_fn, pairs, sigma))
    restored = (1 / (1 + np.exp(-(pairs.x_tilde @ W.T + b)))) @ W + c
    return float(loss), float(pairs.weight @ ((restored - pairs.x) ** 2).sum(1))


@claim("B2")
def denoising_target(key: Key) -> list[Measurement]:
    """The regression target is the kernel's score, minus the noise over σ²; other forms have other minimisers.

    ∇_x̃ log q(x̃|x) = −(x̃ − x)/σ² = −z/σ
    data N(0, v), v = 2, σ = ½: the best s(x̃) = a x̃ has a = −1/(v + σ²); target −(x̃ − x)/σ gives σ times that,
    the losses ½‖s + ∇ log q‖² and ½‖s − (x̃ − x)/σ²‖² minus that
    """
    v, sigma = 2.0, 0.5
    pairs = exact.noised(exact.mixture([1.0], [0.0], [v]), sigma, 12)
    kernel, offset = kernels.Gaussian(sigma), pairs.x_tilde - pairs.x

    def minimiser(loss: Callable[[Array], Array]) -> Array:
        # The loss is quadratic in a, so one Newton step finds its minimum.
        slope, curvature = jax.grad(loss), jax.grad(jax.grad(loss))
        return -slope(jnp.array(0.0)) / curvature(jnp.array(0.0))

    def regression(target: Array) -> Callable[[Array], Array]:
        return lambda a: jnp.asarray(pairs.weight) @ (0.5 * (a * pairs.x_tilde - target) ** 2).sum(1)

    def measure():
        kernel_score = kernel.score(jnp.asarray(pairs.x_tilde), jnp.asarray(pairs.x))
        slopes = [
            minimiser(lambda a: expected_loss(lambda x: a * x, pairs, sigma)),
            minimiser(regression(-offset / sigma)),
            minimiser(regression(-kernel_score)),
            minimiser(regression(offset / sigma**2)),
        ]
        return kernel_score, slopes

    kernel_score, slopes = compute(measure)
    truth = -1 / (v + sigma**2)
    return [
        at_most("largest |kernel's score + (x̃ − x)/σ²|", np.abs(kernel_score + offset / sigma**2).max(), 1e-12),
        equal("least denoising score matching: a", slopes[0], truth, 1e-9),
        wrong("target −(x̃ − x)/σ: a", slopes[1], truth, 0.1),
        wrong("s + ∇ log q: a", slopes[2], truth, 0.1),
        wrong("s − (x̃ − x)/σ²: a", slopes[3], truth, 0.1),
    ]


@claim("B3")
def conditional_and_joint_target(key: Key) -> list[Measurement]:
    """The gradient in x̃ of the conditional and of the joint log-density are the same target; its average over x given x̃
    is the score of the noised density.

    ∇_x̃ log q(x̃|x) = ∇_x̃ log p(x, x̃),   E[∇_x̃ log q(x̃|x) | x̃] = ∇ log q(x̃)
    """
    p, rng = exact.SKEWED, np.random.default_rng(0)
    x, x_tilde = rng.normal(size=(2, 200, 1))
    weights, means, scales = np.array([0.7, 0.3]), np.array([-0.2, 0.5]), np.array([0.3, 0.6])
    noise = exact.mixture(weights, means, scales**2)

    def laplace(r):
        return np.exp(-np.where(r.real > 0, r, -r) / 0.4)[:, 0] / 0.8

    densities = {
        "Gaussian": (kernels.Gaussian(0.5), exact.mixture([1.0], [0.0], [0.25]).density),
        "Laplace": (kernels.Laplace(0.4), laplace),
        "mixture": (kernels.GaussianMixtureNoise(weights, means, scales), noise.density),
    }
    scores = compute(lambda: {n: k.score(jnp.asarray(x_tilde), jnp.asarray(x)) for n, (k, _) in densities.items()})

    def joint(density: Callable) -> np.ndarray:
        return exact.score_by_complex_step(lambda y: np.log(p.density(x) * density(y - x)), x_tilde)

    same = [
        at_most(f"{name} noise: largest |∇ log q(x̃|x) − ∇ log p(x, x̃)|", np.abs(scores[name] - joint(q)).max(), 1e-9)
        for name, (_, q) in densities.items()
    ]
    in_x = exact.score_by_complex_step(lambda x: np.log(p.density(x) * noise.density(x_tilde - x)), x)
    return [
        *same,
        wrong(
            "gradient of the joint in x: root mean square difference",
            np.sqrt(((in_x - scores["mixture"]) ** 2).mean()),
            0,
            0.5,
        ),
        *mean_of_target(p),
    ]


def mean_of_target(p: exact.Mixture, sigma: float = 0.5) -> list[Measurement]:
    """Measures E[kernel's score | x̃] against the noised density's score."""
    x, _ = exact.grid(7.0, 401)
    points = np.linspace(-3, 3, 13)[:, None]
    target = compute(
        lambda: jax.vmap(lambda y: kernels.Gaussian(sigma).score(jnp.full_like(x, y), jnp.asarray(x)))(points[:, 0])
    )
    posterior = p.density(x) * np.exp(-((points - x[:, 0]) ** 2) / (2 * sigma**2))
    mean = (posterior * target[..., 0]).sum(1) / posterior.sum(1)
    truth = p.smoothed(sigma).score(points)[:, 0]
    return [at_most("largest |E[target | x̃] − ∇ log q(x̃)|, 13 points", np.abs(mean - truth).max(), 1e-9)]


@claim("B4")
def minimiser_is_noised_score(key: Key) -> list[Measurement]:
    """The minimiser is the score of the noised density, not of the data; the two are apart by an amount that grows like
    σ².

    ∂J_DSM[s + κh]/∂κ = 0 at κ = 0 for every direction h  ⇔  s = ∇ log q_σ;   √E_p‖∇ log q_σ − ∇ log p‖² ∝ σ²
    """
    p, sigma = exact.SKEWED, 0.5
    x, cell = exact.grid(7.0, 801)
    y, inner = exact.grid(7.0, 281)
    pairs = exact.Noised(np.repeat(y, len(y), 0), np.tile(y, (len(y), 1)), np.empty(0))
    noise = exact.mixture([1.0], [0.0], [sigma**2])
    pairs = pairs._replace(weight=inner**2 * p.density(pairs.x) * noise.density(pairs.x_tilde - pairs.x))
    directions = [jnp.sin, jnp.tanh, lambda x: x, lambda x: jnp.exp(-(x**2))]

    def slope(score_fn: Callable, h: Callable) -> Array:
        return jax.grad(lambda k: expected_loss(lambda x: score_fn(x) + k * h(x), pairs, sigma))(0.0)

    def measure():
        noised, clean = p.api().smoothed(sigma).score, p.api().score
        return [slope(noised, h) for h in directions], [slope(clean, h) for h in directions]

    at_noised, at_clean = compute(measure)
    sigmas = np.geomspace(0.02, 0.1, 5)
    scores = compute(lambda: jax.vmap(lambda s: p.api().smoothed(s).score(jnp.asarray(x)))(sigmas))
    distance = [np.sqrt(cell * p.density(x) @ ((score - p.score(x)) ** 2)[:, 0]) for score in scores]
    return [
        at_most("largest slope of J_DSM at ∇ log q_σ, four directions", np.abs(at_noised).max(), 1e-8),
        wrong("the data's score as minimiser: largest slope of J_DSM there", np.abs(at_clean).max(), 0.0, 0.05),
        equal("exponent of the distance in σ, σ from 0.02 to 0.1", exact.slope(sigmas, distance), 2.0, 0.05),
    ]


@claim("B5")
def optimum_is_not_zero(key: Key) -> list[Measurement]:
    """The least value of the denoising loss is not 0 but known: half of d/σ² less the noised density's Fisher
    information, the variance of x given x̃ over 2σ⁴.

    min J_DSM = ½(d/σ² − E_q‖∇ log q‖²) = E Var(x|x̃)/(2σ⁴);   times σ² it tends to d/2 as σ → 0
    """
    p, sigma = exact.PLANE, 0.8
    gaussian, small = exact.mixture([1.0], [[0.3, -0.2]], [0.7]), 0.05

    def measure():
        return [
            expected_loss(q.api().smoothed(s).score, exact.noised(q, s, n), s)
            for q, s, n in ((p, sigma, 20), (gaussian, sigma, 8), (gaussian, small, 8))
        ]

    mixture_loss, gaussian_loss, small_loss = compute(measure)
    x, cell = exact.grid(9.0, 101, 2)
    second_moment = p.weights @ ((p.means**2).sum(1) + 2 * p.variances)
    spread = second_moment - cell * p.smoothed(sigma).density(x) @ (p.posterior_mean(x, sigma) ** 2).sum(1)
    return [
        equal("J_DSM at the exact score, one Gaussian", gaussian_loss, 0.7 / (sigma**2 * (0.7 + sigma**2)), 1e-9),
        equal(
            "J_DSM at the exact score, mixture in 2-D", mixture_loss, exact.denoising_constant(p, sigma, 9.0, 81), 1e-5
        ),
        equal("the same against E Var(x|x̃)/(2σ⁴)", mixture_loss, spread / (2 * sigma**4), 1e-5),
        equal("σ² J_DSM at the exact score, σ = 0.05", small**2 * small_loss, 0.7 / (0.7 + small**2), 1e-9),
        wrong("0 taken for the least loss: J_DSM at the exact score", mixture_loss, 0.0, 0.1),
    ]


@claim("B6")
def variance_at_small_noise(key: Key) -> list[Measurement]:
    """As σ → 0 at fixed parameters the variance of the denoising loss grows like σ⁻⁴ and that of its gradient like σ⁻²;
    a control variate, the part of the loss that has mean zero given x, removes nearly all of it.

    ½‖s(x̃) + z/σ‖² = ½‖s(x̃)‖² + s(x̃)·z/σ + ‖z‖²/(2σ²);   control variate: s(x)·z/σ + (‖z‖² − d)/(2σ²)
    what is left tends to ½‖s‖² + zᵀ∇s z + d/(2σ²): sliced score matching with Gaussian projections
    """
    p, n, theta = exact.PLANE, 20_000, 0.9
    sigmas = np.geomspace(1e-3, 3e-2, 5)

    def losses_at(key: Key, x: Array, sigma: Array, theta: Array) -> tuple[Array, Array]:
        def score_fn(x):
            return theta * p.api().score(x)

        kernel = kernels.Gaussian(sigma)
        z = (kernel.sample(key, x) - x) / sigma
        control = (score_fn(x) * z).sum(1) / sigma + ((z**2).sum(1) - 2) / (2 * sigma**2)
        plain = losses.denoising_score_matching(key, score_fn, x, kernel)
        return plain, plain - control

    def measure(key):
        data, noise = jax.random.split(key)
        x = p.api().sample(data, n)
        derivative = jax.vmap(lambda s: jax.jvp(lambda t: losses_at(noise, x, s, t), (theta,), (1.0,)))
        return derivative(jnp.append(sigmas, 0.3))

    (plain, reduced), (gradient, reduced_gradient) = compute(measure, key)

    def exponent(values):
        return exact.slope(sigmas, values[:-1].var(1))

    q = p.smoothed(0.3)
    x, cell = exact.grid(7.0, 141, 2)
    esm = 0.5 * cell * q.density(x) @ ((theta * p.score(x) - q.score(x)) ** 2).sum(1)
    source = draws(n)
    return [
        equal("exponent of the loss's variance", exponent(plain), -4.0, 0.02, source),
        equal("exponent of the gradient's variance", exponent(gradient), -2.0, 0.02, source),
        equal("… of the loss with control variate", exponent(reduced), 0.0, 0.02, source),
        equal("… of the gradient with control variate", exponent(reduced_gradient), 0.0, 0.02, source),
        at_most("loss's variance left at σ = 0.03", reduced[4].var() / plain[4].var(), 1e-3, source),
        at_most("gradient's variance left at σ = 0.03", reduced_gradient[4].var() / gradient[4].var(), 2e-2, source),
        average(
            "mean with control variate, σ = 0.3, against J_DSM",
            reduced[5],
            esm + exact.denoising_constant(p, 0.3, 7.0, 141),
        ),
    ]


@claim("B7")
def any_noise_will_do(key: Key) -> list[Measurement]:
    """Any noise with a known density will do: with Laplace, Student-t or mixture noise denoising score matching learns
    the score of the density so noised.

    E[∇_x̃ log k(x̃ − x) | x̃] = ∇ log q(x̃),   q = p ∗ k;   Laplace: ∇_x̃ log k = −sign(x̃ − x)/b
    """
    p, n = exact.SKEWED, 20_000
    weights, means, scales = np.array([0.7, 0.3]), np.array([-0.2, 0.5]), np.array([0.3, 0.6])
    noises = {
        "Laplace": (kernels.Laplace(0.4), stats.laplace(scale=0.4).pdf),
        "Student-t": (kernels.StudentT(5.0, 0.4), stats.t(5.0, scale=0.4).pdf),
        "mixture": (
            kernels.GaussianMixtureNoise(weights, means, scales),
            lambda r: exact.mixture(weights, means, scales**2).density(r[:, None]),
        ),
    }
    points = np.linspace(-3.5, 3.5, 71)
    fitted = "Laplace", "mixture"  # the fit of Student-t noise says no more, and its draws compile for seconds
    truths = {name: noised_score(p, density, points) for name, (_, density) in noises.items()}

    def measure(key, x_tilde, x):
        data_key, noise_key = jax.random.split(key)
        data, found = p.api().sample(data_key, n), {}
        for name, (kernel, _) in noises.items():
            average_target = average_kernel_score(p, kernel, x_tilde, x)
            fit = learned_score(noise_key, kernel, data, points) if name in fitted else None
            found[name] = average_target, fit
        return found

    r = half_lines()[0]
    x_tilde = np.repeat(points, len(r))[:, None]
    found = compute(measure, key, x_tilde, x_tilde - np.tile(r, len(points))[:, None])

    def error(values: np.ndarray, name: str) -> float:
        score, density = truths[name]
        return exact.relative_error(values[:, None], score[:, None], density)

    gaussian = gaussian_target(p, stats.laplace(scale=0.4).pdf, points, variance=2 * 0.4**2)
    return [
        *(at_most(f"{name}: relative error of E[target | x̃]", error(found[name][0], name), 1e-8) for name in noises),
        *(
            at_most(f"{name}: relative error of a least-squares fit", error(found[name][1], name), 0.1, draws(n))
            for name in fitted
        ),
        wrong("−(x̃ − x)/Var as target of Laplace noise: relative error", error(gaussian, "Laplace"), 0.0, 0.1),
    ]


def half_lines() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for the noise r on (−12, 0) and (0, 12): Laplace noise has a kink at 0."""
    r, weight = exact.interval_nodes(0.0, 12.0, 200)
    return np.concatenate([-r[:, 0], r[:, 0]]), np.concatenate([weight, weight])


def noised_score(p: exact.Mixture, density: Callable, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ∇ log q and q, q = p ∗ k, with the derivative on p: ∫ p′(x̃ − r) k(r) dr / q."""
    r, weight = half_lines()
    x = (points[:, None] - r).reshape(-1, 1)
    clean, slope = p.density(x), p.density(x) * p.score(x)[:, 0]
    clean, slope = (v.reshape(len(points), -1) @ (weight * density(r)) for v in (clean, slope))
    return slope / clean, clean


def gaussian_target(p: exact.Mixture, density: Callable, points: np.ndarray, variance: float) -> np.ndarray:
    """Returns E[−(x̃ − x)/variance | x̃]: what a Gaussian's target learns of another noise."""
    r, weight = half_lines()
    posterior = p.density((points[:, None] - r).reshape(-1, 1)).reshape(len(points), -1) * weight * density(r)
    return -(posterior @ r) / variance / posterior.sum(1)


def average_kernel_score(p: exact.Mixture, kernel: kernels.Kernel, x_tilde: Array, x: Array) -> Array:
    """Returns E[kernel's score | x̃], from the package's log-density and score, where x̃ − x runs over `half_lines`."""
    weight = half_lines()[1]
    log_joint = p.api().log_prob(x) + kernel.log_prob(x_tilde, x)
    posterior = jnp.exp(log_joint).reshape(-1, len(weight)) * weight[None]
    return (posterior * kernel.score(x_tilde, x).reshape(posterior.shape)).sum(1) / posterior.sum(1)


def learned_score(key: Key, kernel: kernels.Kernel, x: Array, points: np.ndarray) -> Array:
    """Minimises the denoising loss over sums of bumps by one Newton step; returns the fitted score at the points."""
    centres = jnp.linspace(-4.0, 4.0, 15)
    drawn = exact.AtNodes(kernel, kernel.sample(key, x))

    def bumps(x: Array) -> Array:
        return jnp.exp(-0.5 * ((x - centres[None]) / 0.6) ** 2)

    def loss(weights: Array) -> Array:
        return losses.denoising_score_matching(key, lambda x: bumps(x) @ weights[:, None], x, drawn).mean()

    start = jnp.zeros(len(centres))
    return bumps(jnp.asarray(points)[:, None]) @ -jnp.linalg.solve(jax.hessian(loss)(start), jax.grad(loss)(start))


@claim("B8")
def levels_on_one_scale(key: Key) -> list[Measurement]:
    """The denoising target, and the score of noised data points, have norm √d/σ, so the weight σ² puts all levels on
    one scale; the score of data that fill space stops growing once σ is below their spread.

    E‖z/σ‖² = d/σ²;   σ²·½E‖0 + z/σ‖² = d/2 at every level;   data N(0, I): E‖∇ log q_σ‖² = d/(1 + σ²)
    here 200 images of handwritten digits, d = 64, σ from 0.01 to 1
    """
    n, digits = 1_000, load_digits().data[:200] / 16.0
    sigmas = np.geomspace(0.01, 1.0, 5)
    sde = sdes.VE(0.01, 1.0)
    data, normal = distributions.Empirical(jnp.asarray(digits)), distributions.Gaussian(jnp.zeros(64), 1.0)

    def level(key: Key, sigma: Array, weighting: Callable) -> Array:
        data_key, loss_key = jax.random.split(key)
        times, x0 = losses.times.discrete(sde.time(-2 * jnp.log(sigma))[None]), data.sample(data_key, n)
        return losses.diffusion_loss(
            loss_key, sde, lambda x, t: jnp.zeros_like(x), x0, times=times, weighting=weighting
        )

    def measure(key):
        def at(sigma):
            points, cloud = data.smoothed(sigma), normal.smoothed(sigma)
            squares = [(q.score(q.sample(key, n)) ** 2).sum(1) for q in (points, cloud)]
            weightings = losses.weighting.sigma2, lambda sde, t: jnp.ones_like(t)
            return *squares, *(level(key, sigma, weighting) for weighting in weightings)

        return jax.lax.map(at, jnp.asarray(sigmas))

    points, cloud, weighted, plain = compute(measure, key)
    source = draws(n)
    growth = np.sqrt(cloud[0].mean() / cloud[-1].mean())
    return [
        average("digits, σ = 0.01: E‖score‖²·σ²/d", points[0] * 0.01**2 / 64, 1.0),
        equal(
            "digits: exponent of the score's norm in σ",
            exact.slope(sigmas, np.sqrt(points.mean(1))),
            -1.0,
            0.03,
            source,
        ),
        average("weight σ², σ = 0.01: loss of a score that says 0", weighted[0], 32.0),
        average("weight σ², σ = 1: the same", weighted[-1], 32.0),
        wrong(
            "no weight: loss at σ = 0.01 over loss at σ = 1", plain[0].mean() / plain[-1].mean(), 1.0, 1000.0, source
        ),
        equal(
            "data N(0, I): score's norm at σ = 0.01 over that at σ = 1", growth, np.sqrt(2 / (1 + 1e-4)), 0.03, source
        ),
        wrong("growth like 1/σ, whatever the data: the same ratio", growth, 100.0, 50.0, source),
    ]


@claim("B9")
def tweedie(key: Key) -> list[Measurement]:
    """The mean of the data given a noised point is x̃ + σ²·score (x̃ + Σ·score for noise of covariance Σ); it is a mean
    and no restored sample: the residual has the posterior's variance, and one such step from large noise gives the
    data's mean, where annealing gives samples.

    E[x|x̃] = x̃ + Σ ∇ log q(x̃);   E‖x − E[x|x̃]‖² = E tr Var(x|x̃)
    """
    p, sde, sigma, n = exact.PLANE, sdes.EDM(), 0.6, 20_000
    x, cell = exact.grid(9.0, 101, 2)
    near = x[np.abs(x).max(1) < 4]
    stds = np.array([0.3, 0.9])

    def denoise(x: Array, sigma: float, p: exact.Mixture = p) -> Array:
        return sde.denoise(x, sigma, p.api().perturbed(sde, sigma).score(x))

    def measure(key):
        data, noise = jax.random.split(key)
        x0 = p.api().sample(data, n)
        xt, _ = sde.perturb(noise, x0, sigma)
        covariances = jnp.asarray(p.variances[:, None, None] * np.eye(2) + np.diag(stds**2))
        uneven = distributions.GaussianMixture(*p[:2], covariances).score(jnp.asarray(near))
        return denoise(jnp.asarray(near), sigma), ((x0 - denoise(xt, sigma)) ** 2).sum(1), uneven

    found, residuals, uneven = compute(measure, key)
    spread = cell * p.smoothed(sigma).density(x) @ (p.posterior_mean(x, sigma) ** 2).sum(1)
    variance = p.weights @ ((p.means**2).sum(1) + 2 * p.variances) - spread
    truth = uneven_posterior_mean(p, stds, near)
    return [
        at_most("largest |x̃ + σ²·score − E[x|x̃]|", np.abs(found - p.posterior_mean(near, sigma)).max(), 1e-9),
        average("E‖x − (x̃ + σ²·score)‖² against the posterior's variance", residuals, variance),
        wrong("x = x̃ + σ²·score as an equation: E‖x − (x̃ + σ²·score)‖²", residuals.mean(), 0.0, 0.1, draws(n)),
        at_most(
            "noise N(0, diag(0.09, 0.81)): largest |x̃ + Σ·score − E[x|x̃]|",
            np.abs(near + stds**2 * uneven - truth).max(),
            1e-9,
        ),
        wrong(
            "the average of Σ in place of Σ: largest difference",
            np.abs(near + (stds**2).mean() * uneven - truth).max(),
            0,
            0.1,
        ),
        *one_step_or_many(key),
    ]


def uneven_posterior_mean(p: exact.Mixture, stds: np.ndarray, x: np.ndarray) -> np.ndarray:
    """E[x|x̃] for noise with its own standard deviation in each dimension."""
    total = p.variances[:, None] + stds**2
    offset = x[:, None] - p.means
    terms = p.weights * np.exp(-0.5 * (offset**2 / total).sum(2)) / np.sqrt(total.prod(1))
    means = p.means + p.variances[:, None] / total * offset
    return (terms[:, :, None] * means).sum(1) / terms.sum(1, keepdims=True)


def one_step_or_many(key: Key, sigma_max: float = 80.0, n: int = 4_000) -> list[Measurement]:
    """Compares one denoising step from `sigma_max` with 100 ancestral steps, on modes at ±4 of weights .8/.2."""
    p, sde = exact.mixture([0.8, 0.2], [4.0, -4.0], [0.5, 0.5]), sdes.EDM(0.01, sigma_max)
    score_fn = distributions.score_of(p.api(), sde)

    def measure(key):
        start_key, noise_key = jax.random.split(key)
        start = p.api().perturbed(sde, sigma_max).sample(start_key, n)
        one_step = sde.denoise(start, sigma_max, score_fn(start, jnp.asarray(sigma_max)))
        annealed = sampling.sample(
            noise_key, sampling.ancestral(sde, score_fn), start, sampling.grids.log_snr(sde, 100)
        )
        return one_step, annealed

    one_step, annealed = compute(measure, key)
    x, cell = exact.grid(500.0, 20_001)
    moment = cell * p.smoothed(sigma_max).density(x) @ (p.posterior_mean(x, sigma_max) ** 2)[:, 0]
    return [
        average("one step from σ = 80: mean against the data's", one_step, 2.4),
        average("one step from σ = 80: second moment against E(E[x|x̃])²", one_step**2, moment),
        wrong("one step as a sampler: variance, data's", one_step.var(), 0.5 + 16 - 2.4**2, 5.0, draws(n)),
        average("annealed: share of samples in the mode of weight 0.8", annealed > 0, 0.8),
        equal("annealed: variance", annealed.var(), 0.5 + 16 - 2.4**2, 0.8, draws(n)),
    ]

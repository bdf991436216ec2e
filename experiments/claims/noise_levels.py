"""Claims D: the noise levels of NCSN and NCSNv2.

D1 to D5 are the five techniques of Song & Ermon 2020, D6 what the fourth leaves out. Published numbers are those of the
paper's tables and of the released configurations, which count step_lr = ε/2.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import integrate, optimize, special, stats
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits

from score_jax import arrays, distributions, kernels, losses, noise_levels, parameterization, sampling, score, training
from score_jax import sde as sdes
from score_jax.adapters import linen
from score_jax.types import Array, Key

from . import exact
from .claim import Measurement, at_least, at_most, average, claim, compute, draws, equal, wrong


class Ladder(NamedTuple):
    """A published choice: D, σ_1, L, T, and the released step_lr = ε/2 at σ_L = 0.01."""

    dims: int
    sigma_max: float
    n_levels: int
    n_steps: int
    step_lr: float

    @property
    def ratio(self) -> float:
        """γ."""
        return (self.sigma_max / 0.01) ** (1 / (self.n_levels - 1))

    def rule(self) -> float:
        """Technique 4's step_lr."""
        return noise_levels.step_size(0.01, self.ratio, self.n_steps) / 2


NCSN = Ladder(3072, 1.0, 10, 100, 2e-5)
PUBLISHED = {
    "CIFAR-10": Ladder(3072, 50.0, 232, 5, 6.2e-6),
    "CelebA": Ladder(12288, 90.0, 500, 5, 3.3e-6),
    "LSUN church": Ladder(27648, 140.0, 788, 4, 4.9e-6),
    "LSUN bedroom": Ladder(49152, 190.0, 1086, 3, 1.8e-6),
    "FFHQ": Ladder(196608, 348.0, 2311, 3, 9e-7),
}


def one_level(h: float, ratio: float, n_steps: int, before: float = 1.0) -> float:
    """s_T²/σ_i² of the T steps x ← (1 − h)x + √(2h)σz, one by one, from γ²σ_i²·`before`; h may be an array."""
    variance = ratio**2 * before
    for _ in range(n_steps):
        variance = (1 - h) ** 2 * variance + 2 * h
    return variance


def down_the_ladder(step_lr: float, ladder: Ladder) -> float:
    """s²/σ_L² at the end of all levels, level by level; the first starts from noise of its own variance."""
    h, ratio = step_lr / 0.01**2, ladder.ratio
    variance = one_level(h, 1.0, ladder.n_steps)
    for _ in range(ladder.n_levels - 1):
        variance = one_level(h, ratio, ladder.n_steps, before=variance)
    return variance


def best_step(variance: Callable[[float], float], high: float) -> float:
    """The step_lr·10⁶ up to `high` at which `variance(step_lr)` is least, by search."""
    bounds = (0.01, high)
    found = optimize.minimize_scalar(lambda a: variance(1e-6 * a), bounds=bounds, method="bounded")
    return float(found.x)


@claim("D1")
def largest_level(key: Key) -> list[Measurement]:
    """The largest noise level has to carry a chain from any example to any other, so it is the largest distance between
    two examples: with the median distance, chains do not reach what lies farther; a larger level only costs steps.

    x ~ N(x_i, σ²I), r_j(x) its weight in the score of example j:   E r_j ≤ ½ exp(−‖x_i − x_j‖²/(8σ²))
    here 18 examples around 0 and 2 at a distance of 30, chains from the first, exact score, 40 levels of 10 steps
    """
    n, sigma_min = 600, 0.1
    points = np.random.default_rng(0).normal(size=(20, 2))
    points[18:, 0] += 30.0
    data, sde = distributions.Empirical(jnp.asarray(points)), sdes.EDM(sigma_min, 1e3)
    score_fn = distributions.score_of(data, sde)
    largest, median = noise_levels.max_pairwise_distance(points), float(np.median(pdist(points)))

    def measure(key):
        def far(sigma_max):
            start, steps = jax.random.split(key)
            x = jnp.asarray(points[:1]) + sigma_max * jax.random.normal(start, (n, 2))
            sampler = sampling.annealed_langevin(sde, score_fn, step_size=0.5 * sigma_min**2, n_steps=10)
            sigmas = jnp.geomspace(sigma_max, sigma_min, 40)
            return sampling.sample(steps, sampler, x, sampling.grids.levels(sde, sigmas))[:, 0] > 15

        return jax.lax.map(far, jnp.array([largest, 4 * largest, median]))

    at_largest, above, at_median = compute(measure, key, effort=1)
    # The weights are settled in a finite number of steps where the two groups part: 0.02 too much for the far one.
    error, source = 0.02 + 4 * np.sqrt(0.09 / n), draws(n)
    more = noise_levels.count(200.0, 0.01, 3072) - noise_levels.count(50.0, 0.01, 3072)
    return [
        equal("largest distance, against all pairs", largest, pdist(points).max(), 1e-12),
        *responsibilities(),
        equal(
            f"σ_1 = largest distance, {largest:.1f}: share of the far examples", at_largest.mean(), 0.1, error, source
        ),
        equal("σ_1 four times that: share of the far examples", above.mean(), 0.1, error, source),
        wrong(f"σ_1 = median distance, {median:.1f}: share of the far examples", at_median.mean(), 0.1, error, source),
        equal("levels that σ_1 = 200 costs beyond 50, D = 3072", more, np.log(4) / -np.log1p(-3 / np.sqrt(6144)), 1),
    ]


def responsibilities() -> list[Measurement]:
    """Measures E r_j of Proposition 1: of three points in the plane, and of two at distances of CIFAR-10."""
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 1.0]])
    z, cell = exact.grid(8.0, 121, 2)
    weight = cell * exact.mixture([1.0], [[0.0, 0.0]], [1.0]).density(z)
    line, width = exact.grid(12.0, 2001)
    line_weight = width * exact.mixture([1.0], [0.0], [1.0]).density(line)
    sigmas, pairs = np.array([0.2, 0.5, 1.0, 3.0]), np.array([[50.0, 50.0], [50.0, 18.0], [18.0, 1.0]])

    def measure():
        def around(sigma, i):
            near = distributions.Empirical(jnp.asarray(corners)).smoothed(sigma)
            return jnp.asarray(weight) @ near.responsibilities(jnp.asarray(corners)[i][None] + sigma * z)

        def other(pair):
            two = distributions.Empirical(jnp.stack([jnp.zeros(1), pair[:1]])).smoothed(pair[1])
            return jnp.asarray(line_weight) @ two.responsibilities(pair[1] * jnp.asarray(line))[:, 1]

        each = jax.lax.map(lambda s: jax.lax.map(lambda i: around(s, i), jnp.arange(3)), jnp.asarray(sigmas))
        return each, jax.lax.map(other, jnp.asarray(pairs))

    def by_hand(distance, sigma):  # r_j is logistic in the projection on the line that joins the two
        u, d = np.linspace(-12, 12, 20_001), distance / sigma
        return integrate.simpson(stats.norm.pdf(u) * special.expit(d * u - d**2 / 2), x=u)

    found, two = compute(measure)
    squared = ((corners[:, None] - corners) ** 2).sum(2)
    bound = 0.5 * np.exp(-squared / (8 * sigmas[:, None, None] ** 2))
    others = ~np.eye(3, dtype=bool)
    return [
        at_most("E r_j over the bound, 3 points, σ = 0.2 to 3: largest", (found / bound)[:, others].max(), 1.0),
        equal("CIFAR-10's farthest, 50 apart, σ = 50 (NCSNv2's): E r_j", two[0], by_hand(50.0, 50.0), 1e-9),
        equal("… σ = 18, the median distance there: E r_j", two[1], by_hand(50.0, 18.0), 1e-9),
        equal(
            "at the median distance, σ = 1 (NCSN's): log₁₀ E r_j", np.log10(two[2]), np.log10(by_hand(18.0, 1.0)), 1e-6
        ),
        at_most("… E r_j over the bound", two[2] / (0.5 * np.exp(-(18.0**2) / 8)), 1.0),
    ]


@claim("D2")
def overlapping_levels(key: Key) -> list[Measurement]:
    """Noise levels in geometric progression overlap alike, and the ratio γ at which half of a level lies within the
    three-sigma shell of the level before follows from the dimension alone; published ladders have C = 0.567, not 0.5.

    ‖x − x_i‖ ≈ N(√D σ, σ²/2):   C = Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ) = ½  ⇒  γ = 1/(1 − 3/√(2D))
    L = 1 + ln(σ_1/σ_L)/ln γ
    """

    def shell(ratio: float, dims: int) -> float:
        """The share of χ_D within three standard deviations of the mean of γχ_D, without the normal approximation."""
        mean, law = np.sqrt(dims) * ratio, stats.chi(dims)
        return law.cdf(mean + 3 * ratio / np.sqrt(2)) - law.cdf(mean - 3 * ratio / np.sqrt(2))

    def overlaps(sigmas: np.ndarray) -> list[float]:
        return [noise_levels.overlap(a / b, 3072) for a, b in itertools.pairwise(sigmas)]

    geometric = overlaps(np.asarray(sdes.geometric_sigmas(50.0, 0.01, 232)))
    linear = overlaps(np.linspace(50.0, 0.01, 232))
    published = PUBLISHED["CIFAR-10"]
    return [
        *(
            equal(f"D = {dims:,}: γ at C = ½", noise_levels.ratio(dims), 1 / (1 - 3 / np.sqrt(2 * dims)), 1e-9)
            for dims in (3072, 196608)
        ),
        *(
            equal(f"D = 3,072, γ = {r}: C, by the law of ‖z‖", noise_levels.overlap(r, 3072), shell(r, 3072), 5e-3)
            for r in (1.02, 1.04)
        ),
        equal("geometric ladder: least overlap over largest", min(geometric) / max(geometric), 1.0, 1e-9),
        wrong("equally spaced levels, as many: least overlap over largest", min(linear) / max(linear), 1.0, 0.5),
        *(
            equal(f"{name}, L = {p.n_levels}: C", noise_levels.overlap(p.ratio, p.dims), 0.567, 1e-3)
            for name, p in PUBLISHED.items()
        ),
        *(
            equal(
                f"{name}: L at C = ½",
                noise_levels.count(p.sigma_max, 0.01, p.dims),
                1 - np.log(p.sigma_max / 0.01) / np.log1p(-3 / np.sqrt(2 * p.dims)),
                0.5,
            )
            for name, p in PUBLISHED.items()
        ),
        wrong("C = ½ gives the published L, CIFAR-10", noise_levels.count(50.0, 0.01, 3072), published.n_levels, 5),
        at_most("NCSN's ten levels from 1 to 0.01 (γ = 1.668): C", noise_levels.overlap(NCSN.ratio, NCSN.dims), 1e-12),
    ]


@claim("D3")
def division_by_sigma(key: Key) -> list[Measurement]:
    """The score is as large as 1/σ, so a network divided by σ has one scale at all levels; and in many dimensions it
    need not be told σ, since the distance from the data says it.

    s = f(x)/σ:   √E‖σs‖² ≈ √D,   ½E‖σs + z‖² = ½E‖f + z‖²
    one example m: f(x) = −√D (x − m)/‖x − m‖, the same for all σ, is off by E‖σs − f‖²/D = 2 − 2E‖z‖/√D ≈ 1/(2D)
    here 200 digits, D = 64, σ from their largest distance to 0.01
    """
    n, sde, ends = 500, sdes.EDM(0.01, 50.0), jnp.array([0.01, 50.0])
    points = load_digits().data[:200] / 16.0
    digits = distributions.Empirical(jnp.asarray(points))
    sigmas = np.geomspace(noise_levels.max_pairwise_distance(points), 0.01, 7)

    def norm(key: Key, sigma: Array) -> Array:
        q = digits.smoothed(sigma)
        return jnp.sqrt((q.score(q.sample(key, n)) ** 2).mean())

    def unconditional(key: Key, dims: int) -> Array:
        def at(sigma):
            q = distributions.Empirical(jnp.zeros((1, dims))).smoothed(sigma)
            x = q.sample(key, 4 * n)
            f = -np.sqrt(dims) * x / jnp.linalg.norm(x, axis=1, keepdims=True)
            return ((sigma * q.score(x) - f) ** 2).mean(1)

        return jax.lax.map(at, ends).ravel()

    def loss(z: Array, f: Array, score_fn) -> Array:
        def at(t):
            times = lambda key, sde, n: (jnp.full(n, t), jnp.ones(n))
            noise = exact.AtNodes(kernels.Gaussian(1.0), z)
            return losses.diffusion_loss(key, sde, score_fn, jnp.zeros_like(z), times=times, noise=noise)

        return jax.lax.map(at, ends)

    def measure(key):
        f, z = jax.random.normal(key, (2, 20, 5))
        divided = loss(z, f, lambda x, t: parameterization.Eps().to_score(sde, x, t, -f))
        norms = jax.lax.map(lambda sigma: norm(key, sigma), jnp.asarray(sigmas))
        apart = [unconditional(key, dims) for dims in (64, 1)]
        return norms, divided - 0.5 * ((f + z) ** 2).sum(1)[None], loss(z, f, lambda x, t: f), apart

    norms, difference, undivided, (many, one) = compute(measure, key)
    scaled, source = sigmas * norms, draws(n)

    def expected(dims):
        return 2 - 2 * np.sqrt(2 / dims) * np.exp(special.gammaln((dims + 1) / 2) - special.gammaln(dims / 2))

    return [
        equal("digits: exponent of the score's norm in σ", exact.slope(sigmas, norms), -1.0, 0.02, source),
        equal("digits: √(E‖σs‖²/D), at the level where it is farthest from 1", scaled.min(), 1.0, 0.05, source),
        wrong("the score itself has one scale: largest norm over least", norms.max() / norms.min(), 1, 100, source),
        at_most("s = f/σ: largest |loss − ½‖f + z‖²|, σ = 0.01 and 50", np.abs(difference).max(), 1e-9),
        wrong("s = f: loss at σ = 50 over loss at 0.01", undivided[1].mean() / undivided[0].mean(), 1.0, 1000),
        average("D = 64: E‖σs − f‖²/D of f without σ", many, expected(64)),
        equal("… which is about 1/(2D)", expected(64), 1 / 128, 1e-4),
        wrong("D = 1: f without σ will do, E‖σs − f‖²/D", one.mean(), 0.0, 0.3, draws(len(one))),
    ]


@claim("D4")
def step_size(key: Key) -> list[Measurement]:
    """The step size is the one whose variance at the end of a level is nearest to that level's: the rule gives the
    published steps for CIFAR-10, CelebA, LSUN bedroom and FFHQ, but not for LSUN church.

    around one example:   s_T²/σ_i² = (1 − h)^{2T}(γ² − b) + b,   h = ε/(2σ_L²) = step_lr/σ_L²,   b = 1/(1 − h/2)
    from s_0 = σ_{i−1} = γσ_i;   above 1 for all 0 < h ≤ 1
    """
    cifar, (width, rows) = PUBLISHED["CIFAR-10"], (500, 1000)
    sde = sdes.EDM(0.01, 50.0)
    score_fn = distributions.score_of(distributions.Empirical(jnp.zeros((1, width))), sde)

    def measure(key):
        start, steps = jax.random.split(key)
        x = cifar.ratio * 0.3 * jax.random.normal(start, (rows, width))
        sampler = sampling.annealed_langevin(sde, score_fn, step_size=2 * cifar.step_lr, n_steps=cifar.n_steps)
        return (sampler.step(steps, sampler.init(x), 0.3 * cifar.ratio, 0.3).x / 0.3) ** 2

    def by_search(p: Ladder) -> float:
        return best_step(lambda step_lr: one_level(step_lr / 1e-4, p.ratio, p.n_steps), 50.0)

    church, ffhq = PUBLISHED["LSUN church"], PUBLISHED["FFHQ"]
    h = np.linspace(1e-3, 1, 1000)
    source = draws(rows * width)
    return [
        average(
            "one level of CIFAR-10 in annealed Langevin: s_T²/σ²",
            compute(measure, key, effort=1),
            one_level(cifar.step_lr / 1e-4, cifar.ratio, cifar.n_steps),
            source,
        ),
        *(
            equal(f"{name}: the rule's step_lr · 10⁶, as published", 1e6 * p.rule(), 1e6 * p.step_lr, 0.05)
            for name, p in PUBLISHED.items()
            if p is not church
        ),
        *(
            equal(f"{name}: … by summing the steps", 1e6 * p.rule(), by_search(p), 1e-3)
            for name, p in PUBLISHED.items()
        ),
        wrong("LSUN church: 4.9e-6 as the rule's, · 10⁶", 1e6 * church.step_lr, 1e6 * church.rule(), 1.0),
        at_most(
            "… the rule's for any T from 1 to 7, · 10⁶",
            max(1e6 * church._replace(n_steps=steps).rule() for steps in range(1, 8)),
            2.41,
        ),
        wrong("FFHQ: the paper's 0.9e-7 as the rule's, · 10⁶", 0.09, 1e6 * ffhq.rule(), 0.5),
        equal(
            "NCSN's step: s_T²/σ²", noise_levels.variance_ratio(2 * NCSN.step_lr, 0.01, NCSN.ratio, 100), 10 / 9, 1e-9
        ),
        at_least("least s_T²/σ² − 1 over 0 < h ≤ 1, CIFAR-10", min(one_level(s, cifar.ratio, 5) for s in h) - 1, 0.055),
    ]


class Constant(nn.Module):
    """A network that returns its one parameter θ, `(*S)`, whatever it is given; it starts at 1."""

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        del cond, label, train
        return jnp.broadcast_to(self.param("theta", nn.initializers.ones, x.shape[1:], x.dtype)[None], x.shape)


@claim("D5")
def moving_average(key: Key) -> list[Measurement]:
    """The moving average of the parameters takes out the noise of the optimizer; it starts at the initial parameters,
    which it forgets like mⁿ, so there is no bias to correct.

    SGD on ½(θ − x)², x ~ N(0, 1):   θ ← aθ + ηx, a = 1 − η,   Var θ = η²/(1 − a²)
    θ′ ← mθ′ + (1 − m)θ:   Var θ′ = Var θ · (1 − m)/(1 + m) · (1 + am)/(1 − am)
    from θ_0:   E θ′_n = mⁿθ_0 + (1 − m) Σ_k m^{n−k} aᵏθ_0
    here η = 0.1, m = 0.99, 5,000 parameters from θ_0 = 1; a warm-up d_n = min(m, (1 + n)/(10 + n)) leaves Π d_n of θ_0
    """
    eta, m, dims, each = 0.1, 0.99, 5_000, 100
    a, placement, sde = 1 - eta, training.make_placement(devices=jax.devices()[:1]), sdes.VE()
    variables = {"params": {"theta": jnp.ones(dims)}}
    step = training.make_train_step(
        score.ScoreModel(variables, sde, linen(Constant()), parameterization.Score()),
        lambda key, score_fn, x0, times: losses.explicit_score_matching(
            lambda x: score_fn(x, times(key, sde, 1)[0]), x0, lambda x: x
        ),
        optax.sgd(eta * dims),  # the train step divides by the number of dimensions
        times=losses.times.uniform(),
        placement=placement,
        prepare=lambda key, x: arrays.draw(jax.random.normal, key, (len(x), dims), jnp.float64),
        decay=training.ema_decay(m),
    )
    state = training.place(training.create(key, variables, optax.sgd(eta * dims)), placement)
    batches = training.put_batches({"x": np.zeros((each, 1, 1))}, placement.mesh)

    def dispatch(state, _):
        state, _ = step(state, batches)
        return state, (state.params["theta"], state.ema["theta"])

    thetas, averages = compute(lambda state: jax.lax.scan(dispatch, state, length=20)[1], state, effort=1)
    first, last, theta = averages[0], averages[-1], thetas[-1]
    variance = eta**2 / (1 - a**2)

    def share(m: float) -> float:
        return (1 - m) / (1 + m) * (1 + a * m) / (1 - a * m)

    def kept(m: float, warmup: bool) -> float:
        return float(jnp.prod(jnp.broadcast_to(training.ema_decay(m, warmup=warmup)(jnp.arange(1000.0)), 1000)))

    mean = m**each + (1 - m) * sum(m ** (each - k) * a**k for k in range(1, each + 1))
    forgotten = 1 - m**each
    factorials = special.gammaln(10) + special.gammaln(1001) - special.gammaln(1010)  # ln 9!·1000!/1009!
    return [
        average("variance of θ", theta**2, variance),
        average("variance of θ′", last**2, variance * share(m)),
        equal("… by the recursion of both", recursion(a, eta, m), variance * share(m), 1e-12),
        wrong("(1 − m)/(1 + m), as if steps were independent: over Var θ′/Var θ", (1 - m) / (1 + m) / share(m), 1, 0.5),
        equal(
            "m = 0.999, as published: Var θ over Var θ′", 1 / share(0.999), variance / recursion(a, eta, 0.999), 1e-6
        ),
        average("mean of θ′ after 100 updates from θ_0 = 1", first, mean),
        wrong(
            "divided by 1 − mⁿ, as for an average from 0: that mean", first.mean() / forgotten, mean, 0.1, draws(dims)
        ),
        equal("m = 0.999: share of θ_0 after 1,000 updates", kept(0.999, False), np.exp(1000 * np.log(0.999)), 1e-5),
        equal("… log₁₀ of it with a warm-up", np.log10(kept(0.999, True)), factorials / np.log(10), 1e-4),
    ]


def recursion(a: float, eta: float, m: float) -> float:
    """Variance of θ′ after 10,000 updates: the covariance of (θ, θ′), step by step."""
    move = np.array([[a, 0.0], [(1 - m) * a, m]])
    noise = np.outer([eta, (1 - m) * eta], [eta, (1 - m) * eta])
    covariance = np.zeros((2, 2))
    for _ in range(10_000):
        covariance = move @ covariance @ move.T + noise
    return covariance[1, 1]


@claim("D6")
def variance_accumulates(key: Key) -> list[Measurement]:
    """Technique 4 looks at one level and takes the one before for exact; down the ladder the excess accumulates, and
    its step is not the best one. Consistent annealed sampling has the right variance at every level.

    v ← qγ²v + (1 − q)b   →   v* = b(1 − q)/(1 − qγ²),   q = (1 − h)^{2T},   v = s²/σ² at the end of a level
    consistent, from σ_t to σ_s = g σ_t:   x + hσ_t²·score + σ_s √(1 − ((1 − h)/g)²) z
    """
    cifar, church, ffhq = (PUBLISHED[name] for name in ("CIFAR-10", "LSUN church", "FFHQ"))
    rows, width, levels, sde = 60, 500, 40, sdes.EDM(0.01, 50.0)
    score_fn = distributions.score_of(distributions.Empirical(jnp.zeros((1, width))), sde)

    def measure(key):
        start, steps = jax.random.split(key)
        x, step_size = 50.0 * jax.random.normal(start, (rows, width)), 2 * cifar.step_lr
        ts = sampling.grids.levels(sde, 50.0 * cifar.ratio ** -jnp.arange(levels))
        samplers = (
            sampling.annealed_langevin(sde, score_fn, step_size=step_size, n_steps=cifar.n_steps),
            sampling.consistent_annealed(sde, score_fn, step_size=step_size),
        )
        return [(sampling.sample(steps, sampler, x, ts) / ts[-1]) ** 2 for sampler in samplers]

    def steady(step_lr: float, ladder: Ladder) -> float:
        return float(noise_levels.steady_variance_ratio(2 * step_lr, 0.01, ladder.ratio, ladder.n_steps))

    langevin, consistent = compute(measure, key, effort=1)
    expected = down_the_ladder(
        cifar.step_lr, cifar._replace(sigma_max=0.01 * cifar.ratio ** (levels - 1), n_levels=levels)
    )
    alone = noise_levels.variance_ratio(2 * cifar.step_lr, 0.01, cifar.ratio, cifar.n_steps)
    best = best_step(lambda step_lr: steady(step_lr, ffhq), 20.0)
    searched = best_step(lambda step_lr: down_the_ladder(step_lr, ffhq), 20.0)
    return [
        average("CIFAR-10: s²/σ² after 40 levels of annealed Langevin", langevin, expected),
        wrong("what technique 4 says of one level: s²/σ² after 40", alone, expected, 0.05),
        *(
            equal(
                f"{name}: v*, published step, against level by level",
                steady(p.step_lr, p),
                down_the_ladder(p.step_lr, p),
                1e-6,
            )
            for name, p in PUBLISHED.items()
        ),
        wrong("ε = step_lr in place of 2·step_lr, CIFAR-10: v*", steady(cifar.step_lr / 2, cifar), expected, 0.1),
        equal(
            "LSUN church: v* at the step of technique 4",
            steady(church.rule(), church),
            down_the_ladder(church.rule(), church),
            1e-6,
        ),
        wrong("technique 4's step is the best, FFHQ: step_lr · 10⁶", 1e6 * ffhq.rule(), searched, 1.0),
        equal("FFHQ: step_lr · 10⁶ of the least v*, against level by level", best, searched, 0.01),
        equal("… that v*", steady(1e-6 * best, ffhq), down_the_ladder(1e-6 * searched, ffhq), 1e-6),
        average("CIFAR-10: s²/σ² after 40 levels of consistent annealed sampling", consistent, 1.0),
    ]

"""Claims C: Langevin dynamics, why it needs noise levels, and how it is scaled and started."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special, stats
from sklearn.datasets import load_digits

from score_jax import arrays, distributions, losses, sampling
from score_jax import sde as sdes
from score_jax.metrics import two_sample
from score_jax.types import Array, ArrayLike, Key

from . import exact, models
from .claim import Measurement, at_least, at_most, average, claim, compute, draws, equal, wrong


def chain(key: Key, x: Array, drift: Callable[[Array], Array], noise: ArrayLike, n_steps: int) -> Array:
    """Takes steps x + drift(x) + noise·z with the same draws z as `sampling.langevin` with that key."""
    keys = arrays.example_keys(key, len(x))

    def step(i, x):
        return x + drift(x) + noise * arrays.normal(arrays.fold_in(keys, i), x)

    return jax.lax.fori_loop(0, n_steps, step, x)


@claim("C1")
def step_size_convention(key: Key) -> list[Measurement]:
    """The steps x + (ε/2)s + √ε z and x + τs + √(2τ) z are one thing at τ = ε/2; at a finite step the chain is biased,
    and unbiased only as ε → 0.

    for N(0, v) the stationary variance is v/(1 − ε/(4v));   x + εs + √ε z, the two mixed, has v/(2 − ε/v)
    """
    v, epsilons, chains = 1.0, (0.125, 0.5, 1.0, 2.0), 50

    def score_fn(x):
        return -x / v

    def measure(key):
        start, key = jax.random.split(key)
        x = np.sqrt(v) * jax.random.normal(start, (len(epsilons) * chains, 300))
        sizes, keys = jnp.repeat(jnp.asarray(epsilons), chains), arrays.example_keys(key, len(x))
        rows = slice(chains, 2 * chains)  # the chains at ε = 0.5, run again with drift τs and εs, and noise √0.5 z

        def again(factor):
            return chain(keys[rows], x[rows], lambda x: factor * score_fn(x), np.sqrt(0.5), 60)

        api = sampling.langevin(key, score_fn, x, step_size=sizes, n_steps=60)
        tau_form, mixed = jax.lax.map(again, jnp.array([0.25, 0.5]))
        return api, api[rows] - tau_form, mixed

    x, difference, mixed = compute(measure, key, effort=1)
    squares = (x**2).reshape(len(epsilons), -1)
    expected = [v / (1 - e / (4 * v)) for e in epsilons]
    variances = [
        average(f"ε = {e}: stationary variance", s, t) for e, s, t in zip(epsilons, squares, expected, strict=True)
    ]
    return [
        at_most("largest difference of the two forms after 60 steps, ε = 0.5", np.abs(difference).max(), 1e-12),
        *variances,
        wrong("no bias at ε = 1: stationary variance", squares[2].mean(), v, 0.2, draws(squares[2].size)),
        wrong("x + εs + √ε z at ε = 0.5: stationary variance", (mixed**2).mean(), expected[1], 0.2, draws(mixed.size)),
        average("… which is v/(2 − ε/v)", mixed**2, v / (2 - 0.5 / v)),
    ]


@claim("C2")
def convergence_in_distribution(key: Key) -> list[Measurement]:
    """The chain converges in distribution and not to a point: samples keep moving while the histogram stands still;
    without its noise term it collapses onto the modes.

    sup |F_n − F| → 0,   √E(x_{k+m} − x_k)² → √2·std;   x ← x + (ε/2)∇ log p(x) → argmax p
    here ε = 0.05, k = 400, m = 400 steps
    """
    p, n = exact.mixture([0.6, 0.4], [-1.0, 1.2], [0.5, 0.4]), 3_000
    score_fn = p.api().score

    def measure(key):
        start_key, *keys = jax.random.split(key, 3)
        start = 3.0 * jax.random.normal(start_key, (n, 1))

        def walk(x, key):
            x = sampling.langevin(key, score_fn, x, step_size=0.05, n_steps=400)
            return x, x

        collapsed = jax.lax.fori_loop(0, 800, lambda i, x: x + 0.025 * score_fn(x), start)
        return *jax.lax.scan(walk, start, jnp.stack(keys))[1], collapsed

    x, later, collapsed = (v[:, 0] for v in compute(measure, key, effort=1))

    def distribution_function(x):
        return p.weights @ special.ndtr((x[None] - p.means) / np.sqrt(p.variances)[:, None])

    def log_density(x):
        return np.log(p.density(np.array([[x]])))[0]

    modes = np.array(
        [optimize.minimize_scalar(lambda x: -log_density(x), bracket=(m - 0.2, m + 0.2)).x for m in (-1, 1.2)]
    )
    spread = np.sqrt(p.weights @ (p.variances + p.means[:, 0] ** 2) - (p.weights @ p.means[:, 0]) ** 2)
    moved = np.sqrt(((later - x) ** 2).mean())
    # Kolmogorov's 0.1 % point at n = 3,000 is 0.036; the finite step adds its bias.
    return [
        at_most(
            "distance of distribution functions after 400 steps",
            stats.kstest(x, distribution_function).statistic,
            0.045,
            draws(n),
        ),
        at_most("… after 800 steps", stats.kstest(later, distribution_function).statistic, 0.045, draws(n)),
        equal("√E(x_800 − x_400)² against √2·std", moved, np.sqrt(2) * spread, 0.1 * spread, draws(n)),
        wrong("the chain tends to a definite value: √E(x_800 − x_400)²", moved, 0.0, 0.5, draws(n)),
        at_most(
            "without noise: largest distance to a mode", np.abs(collapsed[:, None] - modes).min(1).max(), 1e-6, draws(n)
        ),
    ]


@claim("C3")
def weights_of_separated_modes(key: Key) -> list[Measurement]:
    """Plain Langevin dynamics gets the weights of separated modes wrong and annealed Langevin dynamics nearly right,
    because the score does not depend on the weights where the modes do not overlap.

    p = 0.8 N((5, 5), I) + 0.2 N((−5, −5), I), started uniformly in [−8, 8]²: half of the chains in either mode
    """
    p, n, sde = exact.MODES, 800, sdes.EDM(0.3, 20.0)
    even = p._replace(weights=np.array([0.5, 0.5]))
    around = np.concatenate([p.means[i] + exact.grid(2.0, 9, 2)[0] for i in (0, 1)])
    score_fn = distributions.score_of(p.api(), sde)
    ts = sampling.grids.levels(sde, sdes.geometric_sigmas(20.0, 0.3, 40))

    def measure(key):
        start_key, key = jax.random.split(key)
        start = 8 * (2 * jax.random.uniform(start_key, (n, 2)) - 1)
        plain = sampling.langevin(key, p.api().score, start, step_size=0.1, n_steps=400)
        sampler = sampling.annealed_langevin(sde, score_fn, step_size=0.1 * 0.3**2, n_steps=30)
        annealed = sampling.sample(key, sampler, start, ts)
        weights = [two_sample.mode_weights(x, jnp.asarray(p.means)).weights[0] for x in (plain, annealed)]
        return weights, p.api().score(jnp.asarray(around)) - even.api().score(jnp.asarray(around))

    (plain, annealed), difference = compute(measure, key, effort=1)
    source = draws(n)
    return [
        at_most(
            "largest difference of the scores of weights .8/.2 and .5/.5 around the modes",
            np.abs(difference).max(),
            1e-9,
        ),
        equal("plain Langevin: weight of the mode of 0.8", plain, 0.5, 4 * np.sqrt(0.25 / n), source),
        wrong("plain Langevin samples p: weight of the mode of 0.8", plain, 0.8, 0.2, source),
        equal("annealed Langevin: weight of the mode of 0.8", annealed, 0.8, 0.08, source),
    ]


@claim("C4")
def error_where_data_are_rare(key: Key) -> list[Measurement]:
    """A score learnt without noise is wrong where data are rare: its error grows as the density falls.

    ½E_p‖s − ∇ log p‖² weighs the error by p itself;   a small network fitted to 512 draws of the mixture of C3
    """
    p, n = exact.MODES, 512
    box, cell = exact.grid(8.0, 41, 2)

    def measure(key):
        data, init = jax.random.split(key)
        x = p.api().sample(data, n)

        def loss(params):
            return losses.implicit_score_matching(lambda x: models.mlp(params, x), x).mean()

        params = models.fit(loss, models.mlp_init(init, [2, 48, 2]), steps=800, learning_rate=2e-2)
        return models.mlp(params, jnp.asarray(box))

    density, truth = p.density(box), p.score(box)
    squared = ((compute(measure, key) - truth) ** 2).sum(1)
    typical, rare = density > 1e-3, density < 1e-6
    typical_error, rare_error = (np.sqrt(squared[rows].mean()) for rows in (typical, rare))
    source = f"{n:,} draws, 800 Adam steps"
    scale = np.sqrt(cell * density @ (truth**2).sum(1))
    return [
        at_most("relative error weighted by p", np.sqrt(cell * density @ squared) / scale, 0.35, source),
        at_least(
            "root mean square error where p < 10⁻⁶ over that where p > 10⁻³", rare_error / typical_error, 4.0, source
        ),
        at_most(
            "rank correlation of error and density on [−8, 8]²",
            stats.spearmanr(density, squared).statistic,
            -0.5,
            source,
        ),
        wrong(
            "small loss, small error everywhere: relative error on [−8, 8]²",
            np.sqrt(squared.mean()) / scale,
            0,
            1,
            source,
        ),
    ]


@claim("C5")
def data_on_a_manifold(key: Key) -> list[Measurement]:
    """For data on a manifold the score is unbounded and sliced score matching does not settle; noise of variance 1e-4
    settles it.

    circle + noise: √E‖∇ log q_σ‖² ≈ 1/σ;   data (a, 0), model s = −(e^θ₁ x₁, e^θ₂ x₂): J = … − e^θ₂ has no minimum
    with noise of variance τ² = 1e-4: θ₂ = −log τ² = 9.21, J = −½(1/(1 + τ²) + 1/τ²)
    """
    n, tau = 2_048, 0.01
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = distributions.Empirical(jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1))
    sigmas = jnp.geomspace(0.03, 0.1, 3)

    def score_norm(key: Key, sigma: Array) -> Array:
        q = circle.smoothed(sigma)
        return jnp.sqrt((q.score(q.sample(key, 500)) ** 2).sum(1).mean())

    def measure(key):
        key, data_key, noise_key = jax.random.split(key, 3)
        flat = jax.random.normal(data_key, (n, 2)) * jnp.array([[1.0, 0.0]])
        data = {"flat": flat, "noised": flat + tau * jax.random.normal(noise_key, (n, 2))}

        def objective(theta: Array, x: Array) -> Array:
            return losses.sliced_score_matching(
                key, lambda x: -jnp.exp(theta)[None] * x, x, variance_reduced=True
            ).mean()

        def loss(thetas: dict) -> Array:
            return objective(thetas["flat"], data["flat"]) + objective(thetas["noised"], data["noised"])

        def continued(thetas, _):
            thetas = models.fit(loss, thetas, steps=400, learning_rate=0.05)
            return thetas, (thetas, {name: objective(thetas[name], x) for name, x in data.items()})

        _, history = jax.lax.scan(continued, dict.fromkeys(data, jnp.zeros(2)), length=2)
        return history, jax.lax.map(lambda sigma: score_norm(key, sigma), sigmas)

    (theta, loss), norms = compute(measure, key)
    source = f"{n:,} draws"
    sampling_error = 4 * np.sqrt(2 / n)
    return [
        equal(
            "circle: exponent of the score's norm in σ, σ from 0.03 to 0.1",
            exact.slope(sigmas, norms),
            -1.0,
            0.05,
            draws(500),
        ),
        at_least(
            "no noise: growth of θ₂ from step 400 to step 800", theta["flat"][1, 1] - theta["flat"][0, 1], 10.0, source
        ),
        wrong(
            "no noise, yet the loss settles: J at step 800 over J at step 400",
            loss["flat"][1] / loss["flat"][0],
            1.0,
            100.0,
            source,
        ),
        equal(
            "noise of variance 1e-4: θ₂ at step 800", theta["noised"][1, 1], -2 * np.log(tau), sampling_error, source
        ),
        equal("J at step 800 over J at step 400", loss["noised"][1] / loss["noised"][0], 1.0, 1e-3, source),
        equal(
            "J at step 800 over its minimum",
            loss["noised"][1] / (-0.5 * (1 / (1 + tau**2) + tau**-2)),
            1.0,
            sampling_error,
            source,
        ),
    ]


@claim("C6")
def step_size_per_level(key: Key) -> list[Measurement]:
    """Annealing with the step ε σᵢ²/σ_L² keeps the ratio of drift to noise the same at every level.

    ‖(εᵢ/2)·score‖/‖√εᵢ z‖ = ½√εᵢ·‖score‖/√d = ½√ε/σ_L, since ‖score‖ ≈ √d/σᵢ
    here digits (d = 64), σ from 1 to 0.01, ε = 2e-5: 0.2236
    """
    n, epsilon, sigma_min = 500, 2e-5, 0.01
    sde = sdes.EDM(sigma_min, 1.0)
    data = distributions.Empirical(jnp.asarray(load_digits().data[:200] / 16.0))
    score_fn = distributions.score_of(data, sde)
    sigmas = jnp.asarray(np.geomspace(1.0, sigma_min, 4))

    def silent(x: Array, t: Array) -> Array:
        return jnp.zeros_like(x)

    def ratio(step: Callable[[Callable], Array], x: Array) -> Array:
        # With a score of 0 a step is its noise; the rest is drift.
        quiet = step(silent)
        return jnp.sqrt(((step(score_fn) - quiet) ** 2).sum() / ((quiet - x) ** 2).sum())

    def measure(key):
        def at(sigma):
            start_key, step_key = jax.random.split(key)
            x = data.smoothed(sigma).sample(start_key, n)

            def annealed(score):
                sampler = sampling.annealed_langevin(sde, score, step_size=epsilon, n_steps=1)
                return sampler.step(step_key, sampler.init(x), sigma, sigma).x

            def constant(score):
                return sampling.langevin(step_key, lambda x: score(x, sigma), x, step_size=epsilon, n_steps=1)

            return ratio(annealed, x), ratio(constant, x)

        return jax.lax.map(at, sigmas)

    annealed, constant = compute(measure, key)
    expected, source = 0.5 * np.sqrt(epsilon) / sigma_min, draws(n)
    return [
        *(
            equal(f"σ = {s:.3g}: drift over noise", r, expected, 0.03 * expected, source)
            for s, r in zip(sigmas, annealed, strict=True)
        ),
        wrong(
            "one step size at every level: ratio at σ = 0.01 over ratio at σ = 1",
            constant[-1] / constant[0],
            1.0,
            50.0,
            source,
        ),
    ]


@claim("C7")
def start_of_a_variance_exploding_chain(key: Key) -> list[Measurement]:
    """Started from N(0, I) in place of N(0, σ_max² I), the probability flow of a variance-exploding process collapses,
    while the reverse SDE, which forgets its start, hardly notices.

    in one dimension the flow keeps quantiles: x_0 = F_0⁻¹(F_T(x_T));   the reverse SDE draws x_0 from p(x_0|x_T)
    here modes at ±4 of weights .8/.2 and variance ½, σ_max = 50
    """
    p, n, sde = exact.mixture([0.8, 0.2], [4.0, -4.0], [0.5, 0.5]), 3_000, sdes.VE(0.01, 50.0)
    score_fn = distributions.score_of(p.api(), sde)
    ts = sampling.grids.log_snr(sde, 80)

    def measure(key):
        start_key, noise_key = jax.random.split(key)
        z = jax.random.normal(start_key, (n, 1))

        def run(start):
            flow = sampling.sample(noise_key, sampling.heun(sde, score_fn), start, ts)
            return flow, sampling.sample(noise_key, sampling.ancestral(sde, score_fn), start, ts)

        return jax.lax.map(run, jnp.stack([sde.sigma_max * z, z]))

    (right_flow, wrong_flow), (right_sde, wrong_sde) = compute(measure, key, effort=1)

    def distribution_function(x, sigma):
        q = p.smoothed(sigma)
        return q.weights @ special.ndtr((x[None] - q.means) / np.sqrt(q.variances)[:, None])

    def flow_map(x):
        return np.interp(distribution_function(x, 50.0), distribution_function(axis, 0.01), axis)

    def weight_given(x):
        terms = p.smoothed(50.0)._terms(x)[0]
        return terms[:, 0] / terms.sum(1)

    axis, wide_axis = np.linspace(-12, 12, 200_001), np.linspace(-300, 300, 200_001)
    # The flow carries the point at F_T = 0.2 to the gap between the modes, where F_0 = 0.2.
    share = special.ndtr(-np.interp(0.2, distribution_function(wide_axis, 50.0), wide_axis) / 50)
    z, weight = exact.normal_nodes(60)
    mean = weight @ flow_map(z[:, 0])
    deviation = np.sqrt(weight @ flow_map(z[:, 0]) ** 2 - mean**2)
    truth = np.sqrt(0.5 + 16 - 2.4**2)
    source = draws(n)
    return [
        average("flow from N(0, σ_max²): share in the mode of 0.8", right_flow > 0, share),
        average("flow from N(0, I): mean, against the quantile map", wrong_flow, mean),
        equal("flow from N(0, I): standard deviation", wrong_flow.std(), deviation, 0.1 * deviation, source),
        wrong("N(0, I) as the flow's start: standard deviation, data's", wrong_flow.std(), truth, 2.0, source),
        wrong("N(0, I) as the flow's start: share in the mode of 0.8", (wrong_flow > 0).mean(), 0.8, 0.1, source),
        average(
            "reverse SDE from N(0, σ_max²): share in the mode of 0.8", right_sde > 0, weight @ weight_given(50 * z)
        ),
        average("reverse SDE from N(0, I): share in the mode of 0.8", wrong_sde > 0, weight @ weight_given(z)),
    ]

"""Claims A: what the score is, and the objectives that fit it without knowing the normaliser."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import extend
from scipy import optimize, special, stats

from score_jax import arrays, distributions, kernels, losses
from score_jax.score import energy_score
from score_jax.types import Array, Key, PyTree

from . import exact, models
from .claim import Measurement, at_least, at_most, average, claim, compute, draws, equal, wrong


@claim("A1")
def normaliser_drops_out(key: Key) -> list[Measurement]:
    """The score of e^g/Z is the gradient of g: the normaliser Z drops out.

    ∇ₓ log(e^{g(x)}/Z) = ∇ₓ g(x),   log p = g − log Z
    Yardstick: E_p[x·∇ log p] = −d for every density that vanishes at infinity; here d = 2.
    """

    def g(x, xp):
        return xp.sin(x[:, 0]) * x[:, 1] - 0.25 * (x[:, 0] ** 2 + x[:, 1] ** 2) ** 2

    x, cell = exact.grid(4.0, 161, dims=2)
    normaliser = cell * np.exp(g(x, np)).sum()
    p = np.exp(g(x, np)) / normaliser
    truth = exact.score_by_complex_step(lambda x: np.log(np.exp(g(x, np)) / normaliser), x)
    score = compute(energy_score(lambda x: -g(x, jnp)), x)

    def yardstick(s):
        return cell * p @ (x * s).sum(1)

    return [
        equal("E_p[x·s], s = ∇g by autodiff", yardstick(score), -2.0, 1e-9),
        at_most("largest |∇g − ∇ log(e^g/Z)| on the grid", np.abs(score - truth).max(), 1e-9),
        equal("∫ e^{g − log Z} dx", cell * np.exp(g(x, np) - np.log(normaliser)).sum(), 1.0, 1e-9),
        wrong("∫ e^{g − Z} dx, from log p = g − Z", cell * np.exp(g(x, np) - normaliser).sum(), 1.0, 0.5),
        wrong("E_p[x·∇p], taking ∇p for the score", yardstick(p[:, None] * score), -2.0, 0.5),
        wrong("E_p[x·∇_θ log p(x − θ)], taking the parameter's score", yardstick(-truth), -2.0, 0.5),
    ]


@claim("A2")
def densities_may_exceed_one(key: Key) -> list[Measurement]:
    """A density may exceed 1 and its value depends on the unit of x, so "p(x) near 1" says nothing about being typical;
    the score says where more typical points lie.

    uniform on [0, ½]: p = 2;   N(0, σ²): p(0) = 1/√(2πσ²);   d/dη log p(x + η∇ log p(x)) = ‖∇ log p(x)‖² at η = 0
    """
    n, sigma = 20_000, 0.1
    narrow = distributions.Gaussian(jnp.zeros(1), sigma**2)
    peak = 1 / np.sqrt(2 * np.pi * sigma**2)
    x, cell = exact.grid(2.0, 801)
    p, points = exact.SKEWED.api(), jnp.asarray(exact.grid(3.0, 60)[0])

    def measure(key):
        drawn = narrow.sample(key, n)
        score = p.score(points)
        slope = jax.jvp(p.log_prob, (points,), (score,))[1] / (score**2).sum(1)
        rises = p.log_prob(points + 1e-3 * score) > p.log_prob(points)
        return jnp.exp(narrow.log_prob(jnp.asarray(x))), jnp.exp(narrow.log_prob(drawn)) > 1, slope, rises

    density, above_one, slope, rises = compute(measure, key)
    unit = stats.uniform(0, 0.5)
    return [
        equal("uniform on [0, ½]: density at ¼", unit.pdf(0.25), 2.0, 1e-12),
        equal("uniform on [0, ½]: its integral", unit.cdf(1.0), 1.0, 1e-12),
        equal("N(0, 0.01): density at 0", density[400], peak, 1e-9),
        equal("N(0, 0.01): its integral", cell * density.sum(), 1.0, 1e-9),
        average("N(0, 0.01): share of draws with p > 1", above_one, special.erf(np.sqrt(np.log(peak)))),
        wrong("share of N(0, 0.01) with p > 1, were 1 the top", above_one.mean(), 0.0, 0.5, draws(n)),
        equal("slope of log p along the score / ‖score‖², farthest from 1", slope[np.abs(slope - 1).argmax()], 1, 1e-9),
        equal("share of points where a small step along the score raises p", rises.mean(), 1.0, 0.0),
    ]


@claim("A3")
def gibbs_score_is_the_force(key: Key) -> list[Measurement]:
    """The score of a Gibbs density is the force −∇E times the inverse temperature.

    p = e^{−βE(x)}/Z   ⇒   ∇ log p = −β ∇E;   yardstick E_p[x·∇ log p] = −1;   here E = x⁴/4 − x²/2 + 0.3x, β = 2.5
    """
    beta = 2.5
    x, cell = exact.grid(5.0, 801)

    def energy(x):
        return (0.25 * x**4 - 0.5 * x**2 + 0.3 * x)[:, 0]

    p = np.exp(-beta * energy(x))
    p /= cell * p.sum()
    truth = exact.score_by_complex_step(lambda x: np.log(np.exp(-beta * energy(x))), x[np.abs(x[:, 0]) < 2.5])
    score = compute(energy_score(lambda x: beta * energy(x)), x)
    force = compute(energy_score(energy), x)

    def yardstick(s):
        return cell * p @ (x * s)[:, 0]

    return [
        equal("E_p[x·s], s = −β∇E", yardstick(score), -1.0, 1e-9),
        at_most("largest |s − ∇ log p|", np.abs(score[np.abs(x[:, 0]) < 2.5] - truth).max(), 1e-9),
        wrong("E_p[x·s], s = −∇E (β forgotten)", yardstick(force), -1.0, 0.5),
        wrong("E_p[x·s], s = +β∇E (sign forgotten)", yardstick(-score), -1.0, 0.5),
    ]


@claim("A4")
def implicit_equals_explicit(key: Key) -> list[Measurement]:
    """Implicit score matching is explicit score matching less a constant, ½E‖∇ log p‖², whatever the score model, so
    their gradients in the parameters agree.

    J_ESM = ½E‖s − ∇ log p‖²,   J_ISM = E[½‖s‖² + ∇·s],   J_ESM = J_ISM + ½E‖∇ log p‖²
    without the ½: E‖s − ∇ log p‖² = E[‖s‖² + 2∇·s] + E‖∇ log p‖²
    """
    p, oracle = exact.PLANE, exact.PLANE.api()
    x, cell = exact.grid(6.5, 61, dims=2)
    weight = cell * p.density(x)

    def objectives(params: PyTree) -> Array:
        def score_fn(x):
            return models.wavy_score(params, x)

        esm = losses.explicit_score_matching(score_fn, jnp.asarray(x), oracle.score)
        return jnp.stack([weight @ esm, weight @ losses.implicit_score_matching(score_fn, jnp.asarray(x))])

    params = jax.tree.map(lambda *leaves: np.stack(leaves), *(models.wavy_params(seed, 2) for seed in (1, 2, 3)))
    values, gradients = compute(lambda q: (jax.vmap(objectives)(q), jax.vmap(jax.jacrev(objectives))(q)), params)
    fisher = exact.fisher_information(p, 6.5, 61)
    gap = values[:, 0] - values[:, 1]
    score, trace = models.wavy_exact(models.wavy_params(1, 2), x)
    doubled = weight @ ((score**2).sum(1) + 2 * trace) + fisher
    apart = max(np.abs(g[:, 0] - g[:, 1]).max() for g in gradients.values())
    return [
        equal("J_ESM − J_ISM, model 1", gap[0], 0.5 * fisher, 1e-8),
        equal("J_ESM − J_ISM, model 2", gap[1], 0.5 * fisher, 1e-8),
        equal("J_ESM − J_ISM, model 3", gap[2], 0.5 * fisher, 1e-8),
        at_most("largest difference of the gradients in the parameters", apart, 1e-8),
        at_least("largest gradient of J_ESM", max(np.abs(g[:, 0]).max() for g in gradients.values()), 0.1),
        equal("2 J_ESM, model 1, against E[‖s‖² + 2∇·s] + E‖∇ log p‖²", 2 * values[0, 0], doubled, 1e-8),
        wrong("J_ESM = J_ISM: no constant", gap[0], 0.0, 0.1),
        wrong("J_ESM − J_ISM against E‖∇ log p‖²: the constant without its ½", gap[0], fisher, 0.1),
    ]


@claim("A5")
def boundary_term(key: Key) -> list[Measurement]:
    """The identity J_ESM = J_ISM + C needs p·s to vanish at the boundary of the support; for the uniform and the
    exponential density it misses exactly the boundary term.

    J_ESM − J_ISM − ½E(∂ log p)² = −[p s] from a to b
    uniform on [0, 1]: s(0) − s(1);   exponential of rate λ = 1.3: λ s(0)
    here s(x) = x + ½ + sin 2x; the factors x(1 − x) and x make it vanish at the boundary, and the identity hold
    """

    def s(x):
        return x + 0.5 + jnp.sin(2 * x)

    def gap(score_fn: Callable, x: np.ndarray, weight: np.ndarray, data_score: float) -> Array:
        esm = losses.explicit_score_matching(score_fn, jnp.asarray(x), lambda x: jnp.full_like(x, data_score))
        ism = losses.implicit_score_matching(score_fn, jnp.asarray(x))
        return jnp.asarray(weight) @ (esm - ism) - 0.5 * data_score**2

    rate = 1.3
    unit, unit_weight = exact.interval_nodes(0.0, 1.0, 30)
    half_line, weight = exact.interval_nodes(0.0, 30.0, 200)
    weight = weight * rate * np.exp(-rate * half_line[:, 0])
    uniform_gap, uniform_mended, exponential_gap, exponential_mended = compute(
        lambda: (
            gap(s, unit, unit_weight, 0.0),
            gap(lambda x: s(x) * x * (1 - x), unit, unit_weight, 0.0),
            gap(s, half_line, weight, -rate),
            gap(lambda x: s(x) * x, half_line, weight, -rate),
        )
    )
    return [
        equal("uniform: J_ESM − J_ISM − C", uniform_gap, 0.5 - (1.5 + np.sin(2.0)), 1e-9),
        equal("exponential: J_ESM − J_ISM − C", exponential_gap, rate * 0.5, 1e-9),
        wrong("uniform: the identity without its boundary term", uniform_gap, 0.0, 0.1),
        wrong("exponential: the identity without its boundary term", exponential_gap, 0.0, 0.1),
        equal("uniform, s·x(1 − x)", uniform_mended, 0.0, 1e-9),
        equal("exponential, s·x", exponential_mended, 0.0, 1e-9),
    ]


@claim("A6")
def fisher_divergence_is_not_kl(key: Key) -> list[Measurement]:
    """Minimising the Fisher divergence is not minimising KL, yet the two are tied: adding noise lowers the KL
    divergence at half the rate of the (unhalved) Fisher divergence.

    d/dσ² KL(p_σ‖q_σ) = −½ E_{p_σ}‖∇ log p_σ − ∇ log q_σ‖²   (de Bruijn)
    """
    x, cell = exact.grid(15.0, 1501)
    p, q = exact.SKEWED, exact.mixture([0.4, 0.6], [-0.5, 1.0], [0.6, 0.9])
    near, model = (exact.mixture([w, 1 - w], [-2.0, 2.0], [v, v]) for w, v in ((0.8, 1.0), (0.5, 2.0)))

    def kl(p: exact.Mixture, q: exact.Mixture) -> float:
        return float(cell * p.density(x) @ np.log(p.density(x) / q.density(x)))

    @jax.jit
    def half_fisher(weight, p, q):
        return cell * weight @ losses.explicit_score_matching(q.score, jnp.asarray(x), p.score)

    def rate_of_kl(variance: float, h: float = 0.005) -> float:
        at = [kl(p.smoothed(np.sqrt(variance + k * h)), q.smoothed(np.sqrt(variance + k * h))) for k in (-2, -1, 1, 2)]
        return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)

    def esm(variance: float) -> float:
        p_s, q_s = (m.smoothed(np.sqrt(variance)) for m in (p, q))
        return float(half_fisher(p_s.density(x), p_s.api(), q_s.api()))

    def best_weight(divergence: Callable) -> float:
        def objective(w):
            return float(divergence(model._replace(weights=np.array([w, 1 - w]))))

        return optimize.minimize_scalar(objective, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-6}).x

    swapped = near._replace(weights=near.weights[::-1])
    far, far_swapped = (m._replace(means=2.5 * m.means) for m in (near, swapped))
    by_kl = best_weight(lambda q: kl(near, q))
    by_fisher = best_weight(lambda q: half_fisher(near.density(x), near.api(), q.api()))
    return [
        equal("−½ E‖·‖² at σ² = 0.5 against dKL/dσ²", -esm(0.5), rate_of_kl(0.5), 1e-8),
        equal("−½ E‖·‖² at σ² = 2 against dKL/dσ²", -esm(2.0), rate_of_kl(2.0), 1e-8),
        wrong("−E‖·‖² at σ² = 0.5: the ½ dropped", -2 * esm(0.5), rate_of_kl(0.5), 1e-2),
        equal("KL of weights .8/.2 from .2/.8, modes at ±5", kl(far, far_swapped), 0.6 * np.log(4.0), 1e-5),
        at_most("½ Fisher divergence of the same two", half_fisher(far.density(x), far.api(), far_swapped.api()), 1e-4),
        wrong(
            "least Fisher divergence, taken for least KL: weight in a model of too wide modes", by_fisher, by_kl, 0.02
        ),
    ]


@claim("A7")
def sliced_equals_implicit(key: Key) -> list[Measurement]:
    """Sliced score matching equals implicit score matching in expectation over projections with E[vvᵀ] = I, also in its
    variance-reduced form; projections on the unit sphere give a d-th of it.

    E_v[vᵀ∇s v + ½(vᵀs)²] = ½‖s‖² + ∇·s = E_v[vᵀ∇s v + ½‖s‖²];   ‖v‖ = 1: (½‖s‖² + ∇·s)/d;   here d = 4
    """
    n, dims = 4096, 4
    params = models.wavy_params(0, dims, size=0.6)
    x = 0.7 * np.random.default_rng(1).normal(size=(n, dims))
    value, trace = models.wavy_exact(params, x)
    expected = 0.5 * (value**2).sum(1) + trace

    def score_fn(x):
        return models.wavy_score(params, x)

    def on_unit_sphere(key):
        v = jax.random.normal(key, x.shape)
        v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
        score, derivative = jax.jvp(score_fn, (jnp.asarray(x),), (v,))
        return (v * derivative).sum(1) + 0.5 * (v * score).sum(1) ** 2

    def sliced(**how):
        return lambda key: losses.sliced_score_matching(key, score_fn, jnp.asarray(x), n_projections=8, **how)

    forms = {
        "Rademacher": sliced(),
        "Gaussian": sliced(projection="gaussian"),
        "√d·sphere": sliced(projection="sphere"),
        "variance-reduced": sliced(projection="gaussian", variance_reduced=True),
        "unit sphere": lambda key: jax.vmap(on_unit_sphere)(jax.random.split(key, 8)).mean(0),
    }
    values = compute(lambda key: {name: form(key) for name, form in forms.items()}, key)
    unit = values.pop("unit sphere")
    source = f"{n:,} points, 8 projections each"
    unbiased = [average(f"{name}: E[SSM] − ISM", v - expected, 0.0, source) for name, v in values.items()]
    return [
        *unbiased,
        average("unit sphere: d·E[SSM] − ISM", dims * unit - expected, 0.0, source),
        wrong("unit sphere without the factor d: mean SSM", unit.mean(), expected.mean(), 0.1, source),
    ]


def matrix_work(jaxpr) -> float:
    """Multiplications in the matrix products of a traced program, inner programs included."""
    work = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            work += float(summed * np.prod(equation.outvars[0].aval.shape))
        work += sum(matrix_work(inner) for inner in extend.core.jaxprs_in_params(equation.params))
    return work


@claim("A8")
def cost_of_the_trace(key: Key) -> list[Measurement]:
    """The exact trace costs d passes of the network, one for each dimension, where sliced and denoising score matching
    cost a fixed number.

    Passes = multiplications in the matrix products of the traced objective / those of one call of the network.
    ISM: d + 2 (the score, and once more under the d derivatives);   SSM: 2 (score, derivative);   DSM: 1
    """

    def passes(objective: Callable, dims: int) -> float:
        params = [(np.ones((i, o)), np.ones((1, o))) for i, o in ((dims, 32), (32, 32), (32, dims))]
        x = np.ones((8, dims))

        def score_fn(x):
            return models.mlp(params, x)

        one = matrix_work(jax.make_jaxpr(score_fn)(x).jaxpr)
        return matrix_work(jax.make_jaxpr(lambda k, x: objective(k, score_fn, x))(key, x).jaxpr) / one

    def counts(objective: Callable) -> list[float]:
        return [passes(objective, dims) for dims in (4, 8, 16, 32)]

    exact_trace = counts(lambda key, s, x: losses.implicit_score_matching(s, x))
    sliced = counts(losses.sliced_score_matching)
    denoising = counts(lambda key, s, x: losses.denoising_score_matching(key, s, x, kernels.Gaussian(0.1)))
    return [
        equal("exact trace: passes at d = 4", exact_trace[0], 6, 1e-9),
        equal("exact trace: passes at d = 32", exact_trace[3], 34, 1e-9),
        equal("exact trace: passes added by a dimension", (exact_trace[3] - exact_trace[0]) / 28, 1, 1e-9),
        equal("sliced: most passes at d = 4, 8, 16, 32", max(sliced), 2, 1e-9),
        equal("sliced: fewest passes", min(sliced), 2, 1e-9),
        equal("denoising: most passes", max(denoising), 1, 1e-9),
        equal("denoising: fewest passes", min(denoising), 1, 1e-9),
    ]


@claim("A9")
def relu_energies_degenerate(key: Key) -> list[Measurement]:
    """A ReLU network's energy has zero second derivatives almost everywhere, so implicit score matching only shrinks
    its score to zero; a smooth activation learns the density, and a ReLU network does with denoising score matching,
    which takes no second derivatives.

    E = w·relu(…relu(Wx + b)…)  ⇒  ∇²E = 0 almost everywhere  ⇒  J_ISM = ½E‖∇E‖² ≥ 0, least at ∇E = 0
    data N(0, I) in two dimensions: ½E‖0 − ∇ log p‖² = 1 is the error of a score that says nothing
    """
    activations = {"relu": jax.nn.relu, "softplus": jax.nn.softplus, "relu, denoising": jax.nn.relu}
    sigma = 0.3
    plain, wide = distributions.Gaussian(jnp.zeros(2), 1.0), distributions.Gaussian(jnp.zeros(2), 1 + sigma**2)
    x, weight = map(jnp.asarray, exact.normal_nodes(16, dims=2))
    clean, noise = np.random.default_rng(0).normal(size=(2, 1_000, 2))
    pairs = exact.Noised(clean, clean + sigma * noise, np.full(1_000, 1e-3))
    kernel = exact.AtNodes(kernels.Gaussian(sigma), pairs.x_tilde)

    def score_of(name: str, params: PyTree) -> Callable[[Array], Array]:
        return energy_score(lambda x: models.mlp(params[name], x, activations[name])[:, 0])

    def loss(params: PyTree) -> Array:
        # Three fits in one program: the sum of objectives that share no parameter.
        implicit = [losses.implicit_score_matching(score_of(name, params), x) for name in ("relu", "softplus")]
        denoising = losses.denoising_score_matching(
            key, score_of("relu, denoising", params), jnp.asarray(pairs.x), kernel
        )
        return weight @ sum(implicit) + pairs.weight @ denoising

    def train(key: Key):
        start = dict.fromkeys(activations, models.mlp_init(key, [2, 32, 1]))
        params = models.fit(loss, start, steps=300, learning_rate=2e-2)
        targets = {"relu": plain.score, "softplus": plain.score, "relu, denoising": wide.score}
        errors = {n: weight @ losses.explicit_score_matching(score_of(n, params), x, t) for n, t in targets.items()}
        traces = {n: arrays.divergence(score_of(n, start), x) for n in ("relu", "softplus")}
        return traces, errors

    traces, errors = compute(train, key)
    source = "300 Adam steps"
    return [
        equal("ReLU energy: largest |∇·s| at 256 points", np.abs(traces["relu"]).max(), 0.0, 0.0),
        at_least("softplus energy: largest |∇·s|", np.abs(traces["softplus"]).max(), 0.01),
        equal("ReLU after implicit score matching: ½E‖s − ∇ log p‖²", errors["relu"], 1.0, 0.1, source),
        at_most("softplus after implicit score matching", errors["softplus"], 0.1, source),
        at_most("ReLU after denoising score matching (σ = 0.3)", errors["relu, denoising"], 0.5, source),
    ]

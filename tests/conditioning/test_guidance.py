"""Guidance on exact scores: classifiers, conditions and products whose scores are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, parameterization
from score_jax.adapters import plain
from score_jax.conditioning import (
    class_guided,
    classifier_free,
    classifier_guidance,
    guidance_interval,
    mixture_of_scores,
    product_of_scores,
)
from score_jax.score import ScoreModel
from tests.helpers import SDES, key, refused
from tests.helpers import mixture as standard

pytestmark = pytest.mark.usefixtures("strict_dtypes")

VE, VP = SDES["ve"], SDES["vp"]
PRIOR = standard()
T = jnp.array([0.1, 0.4, 0.7, 0.9])
X = arrays.normal(key(2), jnp.zeros((4, 2))) * 2


def component(k):
    return distributions.GaussianMixture(jnp.ones(1), PRIOR.means[k : k + 1], PRIOR.variances[k : k + 1])


def class_log_prob(sde, k):
    """log p_t(class k | x) of the mixture, a class being a component, up to its constant log w_k."""
    log_prob = lambda p, row, t: p.perturbed(sde, t).log_prob(row[None])[0]
    of_row = lambda row, t: log_prob(component(k), row, t) - log_prob(PRIOR, row, t)
    return lambda x, t: jax.vmap(of_row)(x, arrays.per_example(t, x))


def close(found, expected, rtol=2e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_the_exact_classifier_makes_the_exact_conditional_score(name):
    sde = SDES[name]
    score_fn = distributions.score_of(PRIOR, sde)
    for k in range(3):
        guided = jax.jit(classifier_guidance(score_fn, class_log_prob(sde, k)))
        close(guided(X, T), distributions.score_of(component(k), sde)(X, T), 1e-4)


def test_a_classifier_of_clean_data_does_not():
    """Its error at σ = 1, in the mean over p_t: E‖∇ log p_0(y | x) − ∇ log p_t(y | x)‖² by quadrature on a grid."""
    t = VE.time(jnp.zeros(()))
    axis = jnp.linspace(-6, 6, 121)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    weights = jnp.exp(PRIOR.perturbed(VE, t).log_prob(grid))
    clean = lambda x, t: class_log_prob(VE, 0)(x, jnp.full((), VE.t_min))
    zero = lambda x, t: jnp.zeros_like(x)
    wrong, right = (classifier_guidance(zero, f)(grid, t) for f in (clean, class_log_prob(VE, 0)))
    mean = lambda v: float((weights * (v**2).sum(1)).sum() / weights.sum())
    assert mean(wrong - right) > 0.5 * mean(right)


def test_the_scale_goes_from_the_unconditional_score_to_beyond_the_conditional_one():
    conditional, unconditional = distributions.score_of(component(0), VP), distributions.score_of(PRIOR, VP)
    at = lambda scale: jax.jit(classifier_free(conditional, unconditional, scale))(X, T)
    c, u = conditional(X, T), unconditional(X, T)
    close(at(0.0), u, 1e-6)
    close(at(1.0), c, 1e-6)
    close(at(3.0), u + 3 * (c - u))
    close(at(jnp.array([0.0, 1.0, 2.0, 3.0])), u + jnp.arange(4.0)[:, None] * (c - u))
    each = jax.vmap(lambda scale: classifier_free(conditional, unconditional, scale)(X, T))(jnp.array([0.0, 3.0]))
    close(each[1], at(3.0))


def test_guidance_on_an_interval_is_none_outside_it():
    scale = guidance_interval(VE, 4.0, low=0.1, high=2.0)
    times = VE.time(-2 * jnp.log(jnp.array([0.05, 0.11, 1.9, 2.1])))
    np.testing.assert_array_equal(scale(times), [1, 4, 4, 1])
    assert scale(times[1]).shape == ()
    refused("an interval of σ/α goes from low to a higher high, got 2 and 1", guidance_interval, VE, 4.0, low=2, high=1)


def labelled_model(calls):
    """A network of labels, whose calls are counted with their rows."""

    def network(variables, x, cond, label, key):
        calls.append(len(x))
        return x * variables + label.astype(x.dtype)[:, None] + cond[:, None]

    return ScoreModel({"params": jnp.ones(())}, VP, plain(network, lambda *_: jnp.ones(())), parameterization.Eps())


def test_both_scores_of_a_class_conditional_network_are_one_call():
    calls = []
    model, label = labelled_model(calls), jnp.array([0, 1, 2, -1])
    expected = classifier_free(model.conditioned(label=label), model.conditioned(label=jnp.full(4, -1)), 2.5)(X, T)
    calls.clear()
    close(class_guided(model, label, 2.5)(X, T), expected)
    close(
        class_guided(model, label, 2.5)(X, T[1]),
        classifier_free(model.conditioned(label=label), model.conditioned(label=jnp.full(4, -1)), 2.5)(X, T[1]),
    )
    assert calls[:2] == [8, 8]


def test_products_and_mixtures_of_gaussians_are_those_in_closed_form():
    """N(a, A) N(b, B) ∝ N(C(a/A + b/B), C) with 1/C = 1/A + 1/B, at each t by itself; mixtures at every t."""
    a, b = (distributions.GaussianMixture(jnp.ones(1), jnp.full((1, 2), m), v) for m, v in ((1.0, 0.5), (-2.0, 2.0)))
    scores = [distributions.score_of(one, VE) for one in (a, b)]
    va, vb = (v + VE.variance(T)[:, None] for v in (0.5, 2.0))
    close(product_of_scores(scores)(X, T), (1 - X) / va + (-2 - X) / vb)
    close(product_of_scores(scores, [2.0, -1.0])(X, T), 2 * (1 - X) / va - (-2 - X) / vb)
    logs = [
        lambda x, t, one=one: jax.vmap(lambda r, t: one.perturbed(VE, t).log_prob(r[None])[0])(x, t) for one in (a, b)
    ]
    both = distributions.GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.array([[1.0, 1.0], [-2.0, -2.0]]), jnp.array([0.5, 2.0])
    )
    close(mixture_of_scores(scores, logs, jnp.array([0.3, 0.7]))(X, T), distributions.score_of(both, VE)(X, T), 1e-4)
    refused("one weight for each score function, got 1 for 2", product_of_scores, scores, [1.0])
    refused("got 2, 1 and 2", mixture_of_scores, scores, logs[:1], jnp.ones(2))

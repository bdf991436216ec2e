"""Guided models on exact scores and an exact classifier: what is drawn from them, at what cost, on how many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from score_jax import arrays, distributions, parameterization, sampling
from score_jax import sde as sdes
from score_jax.adapters import plain
from score_jax.conditioning import Autoguided, ClassGuided, ClassifierGuided, NoisedClassifier, classifier_free
from score_jax.sampling import draw, grids
from score_jax.score import ScoreModel
from tests.helpers import key, often, trace_counter

pytestmark = pytest.mark.usefixtures("strict_dtypes")

VE = sdes.VE(0.01, 50.0)
WEIGHTS, VARIANCES = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 1.0])
MEANS = np.array([[-2.0, 0.0], [2.0, 1.0], [0.0, 2.0]])
PRIOR = distributions.GaussianMixture(*(jnp.asarray(v, jnp.float32) for v in (WEIGHTS, MEANS, VARIANCES)))
T = jnp.array([0.1, 0.4, 0.7, 0.9])
X = arrays.normal(key(2), jnp.zeros((4, 2))) * 2
LABEL = jnp.array([0, 1, 2, -1])


def of_classes(x, cond):
    """log w_k p_k(x) `(B, K)` up to a constant and ∇ log p_k `(B, K, 2)`, of what a network is given on VE."""
    weights, means, variances = (jnp.asarray(v, x.dtype) for v in (WEIGHTS, MEANS, VARIANCES))
    sigma = jnp.exp(cond)[:, None]  # it is given x/√(1 + σ²) and log σ
    offset = means[None] - (x * jnp.sqrt(1 + sigma**2))[:, None]
    variance = variances[None] + sigma**2
    log_probs = jnp.log(weights)[None] - jnp.log(variance) - (offset**2).sum(-1) / (2 * variance)
    return log_probs, offset / variance[..., None]


def logits(params, x, cond, label, key):
    return of_classes(x, cond)[0] * params


def noise(params, x, cond, label, key):
    """ε̂ = −σ s(x | label), by the exact scores; of label −1 that of the mixture. `params` is 1."""
    log_probs, scores = of_classes(x, cond)
    label = jnp.full(len(x), -1) if label is None else label
    chosen = jax.nn.one_hot(label, len(WEIGHTS), dtype=x.dtype)
    shares = jnp.where(label[:, None] < 0, jax.nn.softmax(log_probs), chosen)
    return -jnp.exp(cond)[:, None] * (shares[..., None] * scores).sum(1) * params


def ones(key, x, cond, label):
    return jnp.ones(())


def exact_model(dtype=jnp.float32, weaker=1.0):
    params = {"params": jnp.full((), weaker, dtype)}
    return ScoreModel(params, VE, plain(noise, ones), parameterization.Eps())


def exact_classifier(dtype=jnp.float32):
    params = {"params": jnp.ones((), dtype)}
    return NoisedClassifier(params, VE, plain(logits, ones), parameterization.Eps())


def close(found, expected, rtol=2e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * float(np.abs(expected).max()))


def at(model, x=X, t=T, label=LABEL):
    return jax.jit(lambda model, x, t, label: model.conditioned(label=label)(x, t))(model, x, t, label)


def exact(x=X, t=T):
    """The conditional scores of LABEL, and the mixture's in the last row."""
    variance = jnp.asarray(VARIANCES, x.dtype) + VE.variance(t[:3])
    conditional = (jnp.asarray(MEANS, x.dtype) - x[:3]) / variance[:, None]
    return jnp.concatenate([conditional, distributions.score_of(PRIOR, VE)(x[3:], t[3:]).astype(x.dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_an_exact_classifier_unlabelled_samples_have_the_conditional_score(dtype, request):
    """Label −1 leaves the model by itself; float64 is exact to 1e-9, so that nothing in between is float32."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    x, t = X.astype(dtype), T.astype(dtype)
    guided = ClassifierGuided(exact_model(dtype), exact_classifier(dtype), jnp.ones((), dtype))
    found = at(guided, x, t)
    assert found.dtype == dtype
    close(found[:3], exact(x, t)[:3], 1e-4 if dtype == "float32" else 1e-9)
    close(found[3:], exact(x, t)[3:], 1e-4)
    np.testing.assert_array_equal(at(guided.replace(scale=jnp.zeros((), dtype)), x, t), at(guided.model, x, t, None))


def test_an_exact_classifiers_probabilities_are_those_of_the_mixture():
    log_probs = exact_classifier()(X, T)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(1), 1, rtol=1e-6)
    chosen = exact_classifier().conditioned(label=jnp.array([2, 0, -1, 7]))(X, T)
    np.testing.assert_array_equal(chosen[:2], log_probs[jnp.arange(2), jnp.array([2, 0])])
    assert chosen[2] == 0 and np.isnan(chosen[3])  # any class; one that there is not


def test_a_class_guided_score_goes_from_none_to_the_label_and_beyond():
    model = exact_model()
    free, towards = at(model, label=jnp.full(4, -1)), at(model)
    close(at(ClassGuided(model, 0.0)), free, 1e-6)
    close(at(ClassGuided(model, 1.0)), towards, 1e-6)
    scales = jnp.array([0.0, 2.5])
    each = jax.vmap(lambda scale: ClassGuided(model, scale).conditioned(label=LABEL)(X, T))(scales)
    close(each[0], free, 1e-6)
    close(each[1], free + 2.5 * (towards - free))
    within = ClassGuided(model, 2.5, (0.1, 20.0))  # σ is 0.02, 0.3, 3.9 and 21 at T: the last row has no label
    close(at(within), jnp.concatenate([towards[:1], each[1][1:]]))


def test_autoguidance_leads_away_from_the_weaker_model():
    """By (1 − 0.8) w of the score, where the weaker one's is 0.8 of it; a guide of no labels is classifier-free."""
    model, weaker = exact_model(), exact_model(weaker=0.8)
    close(at(Autoguided(model, weaker, 3.0)), at(model) * (0.8 + 3 * 0.2))
    free = lambda x, t: at(model, x, t, jnp.full(4, -1))
    expected = classifier_free(lambda x, t: at(model, x, t), free, 3.0)(X, T)
    close(at(Autoguided(model, model, 3.0, labelled=False)), expected)
    close(at(ClassifierGuided(model, exact_classifier(), 0.0, labelled=True)), at(model), 1e-6)


def learned(params, x, cond, label, key):
    return jnp.concatenate([noise(params, x, cond, label, key), jnp.tanh(x + label.astype(x.dtype)[:, None])], -1)


@pytest.mark.parametrize("kind", ["label", "weaker run", "classifier"])
def test_a_learned_variance_is_the_models_own(kind):
    learns = parameterization.learned(parameterization.Eps(), floor=1e-4)
    model = exact_model().replace(apply=plain(learned, ones), parameterization=learns)
    guided = {
        "label": ClassGuided(model, 3.0),
        "weaker run": Autoguided(model, model, 3.0),
        "classifier": ClassifierGuided(model, exact_classifier(), 3.0, labelled=True),
    }[kind].conditioned(label=LABEL)
    s = T / 2
    np.testing.assert_allclose(guided.variance(X, T, s), model.variance(X, T, s, label=LABEL), rtol=1e-6)
    np.testing.assert_allclose(guided.variance(X, T[1], s[1]), model.variance(X, T[1], s[1], label=LABEL), rtol=1e-6)


TS = grids.log_snr(VE, 5)
LABELS = jnp.arange(16) % 4 - 1


def drawn(model, keys, labels):
    return draw.draw_batch(keys, model, sampling.heun, TS, (len(keys), 2), labels=labels)


PROGRAM = jax.jit(drawn)


def test_evaluations_are_counted_for_an_example_of_a_batch():
    """Heun's two scores a step and the last denoise, each of one network, or of two."""
    keys = arrays.example_keys(key(), 16)
    guided = ClassGuided(exact_model(), 2.0), ClassifierGuided(exact_model(), exact_classifier(), 2.0)
    assert [int(PROGRAM(one, keys, LABELS).nfe) for one in (exact_model(), guided[0])] == [9, 18]
    assert guided[1].evaluations == Autoguided(exact_model(), exact_model(), 2.0).evaluations == 2


@pytest.mark.parametrize("kind", often(["label", "classifier"], ["label"]))
def test_guided_samples_are_the_same_on_eight_devices_and_of_one_program_for_all_scales(kind):
    make = ClassGuided if kind == "label" else lambda model, scale: ClassifierGuided(model, exact_classifier(), scale)
    at_scale = lambda scale: make(exact_model(), jnp.float32(scale))
    counted = trace_counter(lambda model, keys, labels: drawn(model, keys, labels).x)
    program, keys = jax.jit(counted), arrays.example_keys(key(1), 16)
    expected, other = program(at_scale(2.0), keys, LABELS), program(at_scale(0.0), keys, LABELS)
    assert counted.count == 1 and (abs(expected - other) > 1e-3).any()
    one = lambda keys, labels: drawn(at_scale(2.0), keys, labels).x
    np.testing.assert_allclose(
        jax.pmap(one)(keys.reshape(8, 2), LABELS.reshape(8, 2)).reshape(16, 2), expected, rtol=1e-4, atol=1e-4
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(v, rows) for v in (keys, LABELS)]
    compiled = jax.jit(one).lower(*placed).compile()
    sharded = compiled(*placed)
    np.testing.assert_allclose(sharded, expected, rtol=1e-4, atol=1e-4)
    assert sharded.sharding.is_equivalent_to(rows, 2)
    moved = ("all-gather", "all-to-all", "collective-permute", "all-reduce")
    assert not any(word in compiled.as_text() for word in moved)  # devices exchange nothing

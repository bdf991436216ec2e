"""The encoder: what every network owes its callers, and a classifier's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import MLP, Encoder
from tests.helpers import refused
from tests.networks.filling import applier, filled

NETWORKS = {
    "encoder": Encoder(logits=3, channels=8, multipliers=(1, 2), dropout=0.2),
    "mlp": MLP((16, 12), logits=3, dropout=0.2),
}
applied = applier(NETWORKS)
X = np.random.default_rng(0).normal(size=(4, 7, 5, 2)).astype(np.float32)
COND = np.linspace(-3.0, 2.0, 4, dtype=np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_classifier_has_a_number_a_class_and_begins_undecided(name):
    module = NETWORKS[name]
    variables = filled(module, X, COND)
    out = applied(name)(variables, X, COND, None)
    assert out.shape == (4, 3) and out.dtype == np.float32
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(applied(name)(variables, X[order], COND[order], None), out[order], atol=1e-5)
    assert abs(applied(name)(variables, X, COND + np.float32(0.5), None) - out).max() > 1e-3
    last = jax.jit(lambda key: module.init(key, X, COND)["params"]["out"])(jax.random.key(0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(last))


def test_a_classifier_is_given_no_labels():
    encoder, key = NETWORKS["encoder"], jax.random.key(0)
    refused("a classifier finds labels and is given none", encoder.init, key, X, COND, jnp.zeros(4, jnp.int32))
    refused(r"Encoder takes sequences \(L, C\), images .* got \(2,\), take mlp", encoder.init, key, X[:, 0, 0], COND)

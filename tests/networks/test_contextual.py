"""A network that is told a context: what it computes, of what shapes, and through a score model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import adapters, parameterization
from score_jax.networks import MLP, Contextual, UNet
from score_jax.score import ScoreModel
from tests.helpers import SDES, key, refused
from tests.networks.filling import filled

pytestmark = pytest.mark.usefixtures("strict_dtypes")

RNG = np.random.default_rng(0)
X, Y, COND = (np.float32(RNG.normal(size=shape)) for shape in ((4, 3), (4, 2), (4,)))
MODULE = Contextual(MLP((8,), dropout=0.5))


def variables():
    """Not those at the start, where the output is zero."""
    inner = filled(MODULE.backbone, np.concatenate([X, Y], 1), COND)
    return {"params": {"backbone": inner["params"]}}


def test_it_is_the_backbone_of_both():
    both = MODULE.backbone.apply({"params": variables()["params"]["backbone"]}, np.concatenate([X, Y], 1), COND)
    found = MODULE.apply(variables(), X, COND, Y)
    np.testing.assert_array_equal(found, both[:, :3])
    other = MODULE.apply(variables(), X, COND, np.roll(Y, 1, 0))
    assert np.abs(other - found).min(1).max() > 1e-3


def test_a_score_model_takes_the_context_for_a_label():
    """Row by row, with dropout from each row's key; c_in is of x alone."""
    model = ScoreModel(variables(), SDES["edm"], adapters.linen(MODULE), parameterization.EDM(1.0))
    t = jnp.full(4, 2.0)
    whole = jax.jit(lambda y: model.conditioned(label=y)(X, t))(Y)
    for row in (0, 2):
        np.testing.assert_allclose(model(X[row : row + 1], t[:1], label=Y[row : row + 1])[0], whole[row], rtol=1e-5)
    c_in, c_noise = model.parameterization.inputs(model.sde, t)
    raw = MODULE.apply(variables(), c_in[:, None] * X, c_noise, Y)
    np.testing.assert_allclose(whole, model.parameterization.to_score(model.sde, X, t, raw), rtol=1e-5)
    dropped = [model(X, t, label=Y, key=key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3


def test_images_are_told_images_of_any_channels():
    """As many parameters more as five input channels and five output channels take; zero at the start."""
    module = Contextual(UNet(channels=8, multipliers=(1,)))
    x, y = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 8, 8, 5))
    shapes = jax.eval_shape(lambda: module.init_with_output(key(), x, jnp.ones(2), y))
    assert shapes[0].shape == x.shape
    count = lambda module, x, *context: sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, key(), x, jnp.ones(2), *context))
    )
    assert count(module, x, y) - count(module.backbone, x) == 5 * 9 * 8 + 5 * (9 * 8 + 1)


def test_a_context_that_is_none_or_does_not_fit_is_one_line():
    model = ScoreModel(variables(), SDES["edm"], adapters.linen(MODULE), parameterization.EDM(1.0))
    refused(r"a context \(4, 'C'\) beside x \(4, 3\), given as label, got none", model, X, jnp.ones(4))
    refused(r"got \(3, 2\)", model, X, jnp.ones(4), label=Y[:3])

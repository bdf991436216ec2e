"""Masks: a projection and its adjoint, broadcasting, and one clear line for what doesn't fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays
from score_jax.conditioning.operators import Mask
from score_jax.types import InputError
from tests.helpers import key

pytestmark = pytest.mark.usefixtures("strict_dtypes")

X = arrays.normal(key(), jnp.zeros((5, 4, 3, 2)))
LEFT = np.zeros((4, 3, 1), bool)
LEFT[:, :2] = True
MASKS = {
    "of an example": np.arange(24).reshape(4, 3, 2) % 3 == 0,
    "of all channels": LEFT,
    "of numbers": jnp.asarray(LEFT, jnp.float32),
    "of each example": np.arange(120).reshape(5, 4, 3, 2) % 7 < 3,
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@each_mask
def test_a_mask_is_a_projection_and_its_own_adjoint(mask):
    operator, y = Mask(mask), arrays.normal(key(1), X)
    np.testing.assert_array_equal(operator(X), np.where(np.asarray(mask) != 0, X, 0))
    np.testing.assert_array_equal(operator(operator(X)), operator(X))
    inner = lambda a, b: np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64))
    assert inner(operator(X), y) == inner(X, operator.adjoint(y))


def test_what_was_not_observed_is_never_read():
    holes = jnp.where(jnp.asarray(LEFT)[None], X, jnp.nan)
    np.testing.assert_array_equal(Mask(LEFT)(holes), Mask(LEFT)(X))
    gradient = jax.grad(lambda y: (Mask(LEFT).adjoint(y) ** 2).sum())(holes)
    np.testing.assert_array_equal(gradient, 2 * Mask(LEFT)(X))


def test_masks_are_data_to_jit_and_vmap():
    masks = jnp.stack([jnp.asarray(LEFT), ~jnp.asarray(LEFT)])
    both = jax.jit(jax.vmap(lambda mask, x: Mask(mask)(x), (0, None)))(masks, X)
    np.testing.assert_array_equal(both.sum(0), X)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 1), (4, 3, 3), (2, 4, 3, 2), (1, 5, 4, 3, 2)])
def test_a_mask_of_another_size_is_one_line(shape):
    with pytest.raises(
        InputError, match=re.escape(f"a mask of shape {shape} does not fit examples of shape (4, 3, 2): ")
    ):
        Mask(np.ones(shape))(X)


@pytest.mark.parametrize("value", [0.5, 255, np.nan])
def test_a_mask_of_anything_but_0_and_1_is_refused(value):
    with pytest.raises(InputError, match=f"1 is observed and 0 is not, got {value:g}"):
        Mask(np.full((4, 3, 2), value))

"""Structures of trees: one class's is no other's, by which JAX knows programs from one another."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from score_jax import distributions, kernels, parameterization, pytrees, sde

ALIKE = {  # of as many fields, so that their instances could be taken for each other's
    "SDEs": [sde.VE(), sde.VP(), sde.SubVP(), sde.EDM(), sde.Cosine(), sde.Flow()],
    "parameterizations": [getattr(parameterization, name)() for name in ("Score", "Eps", "X0", "V", "Flow")],
    "distributions": [distributions.Gaussian(jnp.zeros(2), 1.0), distributions.Empirical(jnp.zeros((1, 2)))],
    "kernels": [kernels.Gaussian(1.0), kernels.Laplace(1.0)],
}


@pytest.mark.parametrize("name", ALIKE)
def test_structures_of_classes_differ(name):
    for one, other in itertools.combinations(ALIKE[name], 2):
        assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)
    for one in ALIKE[name]:
        again = jax.tree.map(lambda leaf: leaf, one)
        assert type(again) is type(one) and jax.tree.structure(again) == jax.tree.structure(one)


@pytrees.dataclass
class _Line:
    slope: jax.Array
    offset: float = 0.0
    name: str = struct.field(pytree_node=False, default="line")


def test_fields_are_leaves_by_name_and_static_ones_part_of_the_structure():
    line = _Line(jnp.array([2.0]), 1.0)
    paths, structure = jax.tree_util.tree_flatten_with_path(line)
    assert structure == jax.tree.structure(line)
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".slope", ".offset"]
    doubled = jax.jit(lambda line: jax.tree.map(lambda leaf: 2 * leaf, line))(line)
    np.testing.assert_array_equal([doubled.slope[0], doubled.offset], [4.0, 2.0])
    assert doubled.name == "line" and jax.tree.structure(line.replace(name="other")) != jax.tree.structure(line)
    with pytest.raises(AttributeError, match="cannot assign to field"):
        line.offset = 3.0

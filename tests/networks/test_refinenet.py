import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks.norms import InstanceNormPlus
from score_jax.networks.refinenet import (
    LAYOUTS,
    ChainedResidualPooling,
    MultiScaleFusion,
    ResidualConvUnit,
    StageBlock,
    average_pool,
    max_pool,
)
from tests.networks.filling import filled

KEY = jax.random.key(0)


def test_published_layouts_halve_once_twice_and_thrice():
    halvings = {name: sum(stage.halves for stage in layout.stages) for name, layout in LAYOUTS.items()}
    assert halvings == {"base": 1, "deeper": 2, "deepest": 3}
    assert [stage.dilation for stage in LAYOUTS["deepest"].stages] == [1, 1, 1, 1, 2, 4]


def zeroed(variables):
    return jax.tree.map(jnp.zeros_like, variables)


def test_average_pool_counts_the_padding_and_max_pool_does_not():
    x = -jnp.ones((1, 6, 6, 1))
    np.testing.assert_allclose(average_pool(x)[0, :3, 0, 0], [-9 / 25, -12 / 25, -15 / 25], rtol=1e-6)
    np.testing.assert_array_equal(max_pool(x), x)


def test_conv_units_add_to_their_input():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.float32)
    unit = ResidualConvUnit(None)
    variables = filled(unit, x, None)
    np.testing.assert_array_equal(unit.apply(zeroed(variables), x, None), x)
    kernels = {name: v["kernel"] for name, v in variables["params"].items()}
    assert set(kernels) == {"conv_0_0", "conv_0_1", "conv_1_0", "conv_1_1"}

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    expected = x
    for i in range(2):
        h = convolve(jax.nn.elu(expected), kernels[f"conv_{i}_0"])
        expected = expected + convolve(jax.nn.elu(h), kernels[f"conv_{i}_1"])
    np.testing.assert_allclose(unit.apply(variables, x, None), expected, atol=1e-5)


def identity_conv(scale, channels=1):
    return {"kernel": scale * jnp.zeros((3, 3, channels, channels)).at[1, 1].set(jnp.eye(channels))}


def test_pooling_chain_adds_every_stage():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 1)), jnp.float32)
    chain = ChainedResidualPooling(None, average_pool)
    params = {"conv_0": identity_conv(2.0), "conv_1": identity_conv(3.0)}
    start = jax.nn.elu(x)
    once = 2 * average_pool(start)
    expected = start + once + 3 * average_pool(once)
    np.testing.assert_allclose(chain.apply({"params": params}, x, None), expected, rtol=1e-5, atol=1e-6)


def test_fusion_sums_aligned_resizes_at_the_first_size():
    fine, coarse = jnp.ones((1, 3, 3, 1)), jnp.asarray([[0.0, 2.0], [4.0, 6.0]])[None, ..., None]
    bias = {"bias": jnp.zeros(1)}
    params = {"conv_0": identity_conv(1.0) | bias, "conv_1": identity_conv(10.0) | bias}
    out = MultiScaleFusion(1, None).apply({"params": params}, [fine, coarse], None)
    np.testing.assert_allclose(out[0, ..., 0], 1 + 10 * np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6]]), rtol=1e-6)


@pytest.mark.parametrize(("dilation", "size"), [(1, (4, 3)), (2, (7, 5)), (4, (7, 5))])
def test_only_undilated_stages_reduce_the_size(dilation, size):
    x = jnp.ones((1, 7, 5, 4))
    block = StageBlock(8, InstanceNormPlus, True, dilation)
    out, variables = jax.eval_shape(block.init_with_output, KEY, x, None)
    assert out.shape == (1, *size, 8)
    assert variables["params"]["shortcut"]["kernel"].shape == ((1, 1, 4, 8) if dilation == 1 else (3, 3, 4, 8))


@pytest.mark.parametrize("dilation", [1, 2])
def test_dilation_sets_the_reach_of_a_block(dilation):
    x = jnp.zeros((1, 15, 15, 2)).at[0, 7, 7].set(jnp.array([1.0, 2.0]))
    block = StageBlock(2, lambda name: lambda x, cond: x, False, dilation)
    variables = filled(block, x, None)
    influence = block.apply(variables, x, None) - block.apply(variables, jnp.zeros_like(x), None)
    rows = np.flatnonzero(np.abs(influence).max((0, 2, 3)) > 1e-7)
    np.testing.assert_array_equal(rows, 7 + dilation * np.arange(-2, 3))  # two 3×3 convolutions

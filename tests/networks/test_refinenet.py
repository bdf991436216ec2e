import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks.norms import InstanceNormPlus, instance_norm_plus
from score_jax.networks.refinenet import (
    ChainedResidualPooling,
    MultiScaleFusion,
    Pool,
    RefineBlock,
    ResidualBlock,
    ResidualConvUnit,
    average_pool,
    conv,
    max_pool,
)
from tests.networks.filling import filled

KEY = jax.random.key(0)


class LevelNorm(nn.Module):
    """InstanceNorm++ with a table of ten levels, as in the published NCSN."""

    @nn.compact
    def __call__(self, x, level):
        rows = nn.Embed(10, 3 * x.shape[-1])(level)
        return instance_norm_plus(x, *jnp.split(rows, 3, axis=-1))


class Published(nn.Module):
    """The published arrangement of the blocks, for 28×28 to 64×64."""

    n: int
    norm: type[nn.Module]
    head_norm: type[nn.Module] | None
    pool: Pool

    @nn.compact
    def __call__(self, x, cond):
        n, norm = self.n, self.norm
        h, stages = conv(n, x, name="begin"), []
        for i, (features, down, dilation) in enumerate(
            [(n, False, 1), (2 * n, True, 1), (2 * n, True, 2), (2 * n, True, 4)]
        ):
            h = ResidualBlock(features, norm, down, dilation, name=f"a{i}")(h, cond)
            h = ResidualBlock(features, norm, False, dilation, name=f"b{i}")(h, cond)
            stages.append(h)
        refine = functools.partial(RefineBlock, norm=self.head_norm, pool=self.pool)
        h = refine(2 * n, name="r0")([stages[3]], cond)
        h = refine(2 * n, name="r1")([stages[2], h], cond)
        h = refine(n, name="r2")([stages[1], h], cond)
        h = refine(n, end=True, name="r3")([stages[0], h], cond)
        return conv(x.shape[-1], nn.elu(norm(name="norm")(h, cond)), name="end")


@pytest.mark.parametrize(
    ("module", "channels", "count"),
    [
        (Published(64, InstanceNormPlus, None, max_pool), 1, 7_426_881),  # NCSNv2, MNIST
        (Published(128, InstanceNormPlus, None, max_pool), 3, 29_694_083),  # NCSNv2, CIFAR-10
        (Published(64, InstanceNormPlus, InstanceNormPlus, average_pool), 1, 7_443_393),  # single-noise baseline
        (Published(128, LevelNorm, LevelNorm, average_pool), 3, 30_117_635),  # NCSN, CIFAR-10
    ],
)
def test_blocks_compose_to_the_published_parameter_counts(module, channels, count):
    x, level = jnp.zeros((1, 28, 28, channels)), jnp.zeros(1, int)
    out, variables = jax.eval_shape(lambda: module.init_with_output(KEY, x, level))
    assert out.shape == x.shape
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


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
    block = ResidualBlock(8, InstanceNormPlus, True, dilation)
    out, variables = jax.eval_shape(block.init_with_output, KEY, x, None)
    assert out.shape == (1, *size, 8)
    assert variables["params"]["shortcut"]["kernel"].shape == ((1, 1, 4, 8) if dilation == 1 else (3, 3, 4, 8))


@pytest.mark.parametrize("dilation", [1, 2])
def test_dilation_sets_the_reach_of_a_block(dilation):
    x = jnp.zeros((1, 15, 15, 2)).at[0, 7, 7].set(jnp.array([1.0, 2.0]))
    block = ResidualBlock(2, lambda name: lambda x, cond: x, False, dilation)
    variables = filled(block, x, None)
    influence = block.apply(variables, x, None) - block.apply(variables, jnp.zeros_like(x), None)
    rows = np.flatnonzero(np.abs(influence).max((0, 2, 3)) > 1e-7)
    np.testing.assert_array_equal(rows, 7 + dilation * np.arange(-2, 3))  # two 3×3 convolutions

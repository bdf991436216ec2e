import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks.norms import (
    ConditionalInstanceNormPlus,
    GroupNorm,
    InstanceNormPlus,
    channel_moments,
    instance_norm_plus,
    num_groups,
)
from tests.networks.filling import filled, jit


def images(*shape, offset=0.0):
    rng = np.random.default_rng(0)
    channels = 1 + np.arange(shape[-1])
    return (offset + channels * rng.normal(size=shape) + channels).astype(np.float32)


def instance_norm_plus_by_loops(x, gamma, alpha, beta):
    """The published formula, one example and one channel at a time, in float64."""
    out = np.empty(x.shape)
    for b, image in enumerate(x.astype(np.float64)):
        means = image.mean((0, 1))
        spread = means.var(ddof=1) if len(means) > 1 else 0.0
        for c in range(image.shape[-1]):
            h = (image[..., c] - means[c]) / np.sqrt(image[..., c].var() + 1e-5)
            between = (means[c] - means.mean()) / np.sqrt(spread + 1e-5)
            out[b, ..., c] = gamma[c] * (h + alpha[c] * between) + beta[c]
    return out


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 4, 4, 1), (1, 1, 1, 4)])
def test_instance_norm_plus_is_the_published_formula(shape):
    x, rng = images(*shape), np.random.default_rng(1)
    gamma, alpha, beta = rng.normal(size=(3, shape[-1])).astype(np.float32)
    out = instance_norm_plus(jnp.asarray(x), gamma[None], alpha[None], beta[None])
    # 1×1 pixels: the instance part is 0 and what is left is the difference between channels
    np.testing.assert_allclose(out, instance_norm_plus_by_loops(x, gamma, alpha, beta), rtol=1e-4, atol=2e-5)


def test_variance_between_channels_is_unbiased():
    x = jnp.stack([jnp.full((3, 3), -1.0), jnp.full((3, 3), 1.0)], -1)[None]
    out = instance_norm_plus(x, jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.zeros((1, 2)))
    # means ±1 have unbiased variance 2 and biased variance 1: the output is ±1/√2, not ±1
    np.testing.assert_allclose(out[0, 0, 0], [-(0.5**0.5), 0.5**0.5], rtol=1e-4)


def test_conditional_instance_norm_plus_is_affine_in_the_embedding():
    x, emb = images(2, 5, 5, 6), np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)
    variables = filled(ConditionalInstanceNormPlus(), x, emb)
    dense = variables["params"]["Dense_0"]
    assert dense["kernel"].shape == (8, 18)
    gamma, alpha, beta = np.split(emb @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 3, -1)
    expected = [instance_norm_plus_by_loops(x[i : i + 1], gamma[i], alpha[i], beta[i])[0] for i in range(2)]
    out = ConditionalInstanceNormPlus().apply(variables, jnp.asarray(x), jnp.asarray(emb))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=5e-5)


def test_instance_norms_start_at_gain_one_and_shift_zero():
    x, emb = jnp.zeros((1, 2, 2, 400)), jnp.zeros((1, 8))
    conditional = jit(ConditionalInstanceNormPlus().init)(jax.random.key(0), x, emb)["params"]["Dense_0"]["bias"]
    np.testing.assert_array_equal(conditional.reshape(3, 400)[:, 0], [1, 1, 0])
    plain = jit(InstanceNormPlus().init)(jax.random.key(0), x)["params"]
    assert not plain["beta"].any()
    for name in ("gamma", "alpha"):  # N(1, 0.02²) by 400: standard errors 0.001 of the mean, 0.0007 of the deviation
        np.testing.assert_allclose([plain[name].mean(), plain[name].std()], [1.0, 0.02], atol=0.004)


def test_group_norm_with_modulation_is_the_formula():
    x, rng = images(2, 3, 5, 12), np.random.default_rng(1)
    scale, shift = rng.normal(size=(2, 2, 12)).astype(np.float32)
    gamma, beta = rng.normal(size=(2, 1, 12)).astype(np.float32)
    out = GroupNorm().apply({"params": {"scale": gamma, "bias": beta}}, jnp.asarray(x), scale, shift)
    grouped = x.astype(np.float64).reshape(2, 3, 5, 3, 4)  # num_groups(12) = 3
    h = (grouped - grouped.mean((1, 2, 4), keepdims=True)) / np.sqrt(grouped.var((1, 2, 4), keepdims=True) + 1e-5)
    expected = (h.reshape(x.shape) * gamma[0] + beta[0]) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_groups_hold_four_channels_at_least_and_are_thirty_two_at_most():
    assert [num_groups(c) for c in (1, 3, 4, 8, 12, 36, 128, 512, 7, 30)] == [1, 1, 1, 2, 3, 9, 32, 32, 1, 6]


def test_moments_survive_a_large_mean():
    x = images(2, 9, 9, 4, offset=3000.0)
    mean, variance = channel_moments(jnp.asarray(x))
    np.testing.assert_allclose(mean, x.astype(np.float64).mean((1, 2)), rtol=1e-6)
    # E[x²] − E[x]² in float32 would be off by about 3000²·6e-8 ≈ 0.5 where the variance is 1
    np.testing.assert_allclose(variance, x.astype(np.float64).var((1, 2)), rtol=1e-5)


def test_bfloat16_statistics_are_float32():
    x = jnp.asarray(images(1, 32, 32, 4, offset=4.0), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    mean, variance = channel_moments(x)
    assert mean.dtype == variance.dtype == jnp.float32
    # a bfloat16 sum of 1024 terms stalls at 2⁸ times a term: errors of tens of per cent
    np.testing.assert_allclose(mean, exact.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, exact.var((1, 2)), rtol=1e-5)
    out = InstanceNormPlus(jnp.bfloat16).apply(filled(InstanceNormPlus(), x), x)
    assert out.dtype == jnp.bfloat16

"""Losses and samplers compose under jit, vmap, grad, pmap and shard_map, with one result."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from score_jax import arrays, distributions, likelihood, losses, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.sampling.langevin import batch_norm
from tests.helpers import key, mixture, often

SDE = sdes.VP()
SCORE = distributions.score_of(mixture(), SDE)


def loss(keys, x0):
    return losses.diffusion_loss(keys, SDE, lambda x, t: 0.9 * SCORE(x, t), x0)


def draw(keys, x):
    return sampling.sample(keys, sampling.ancestral(SDE, SCORE), x, grids.log_snr(SDE, 6))


def log_prob(keys, x):
    return likelihood.log_likelihood(SDE, SCORE, x, key=keys, rtol=1e-3, atol=1e-3).log_prob


def flow(keys, x):
    return sampling.probability_flow(SDE, SCORE, x, rtol=1e-3, atol=1e-3)[0]


WORK = {"loss": loss, "sample": draw, "flow": flow, "likelihood": log_prob}


@pytest.mark.parametrize("name", often(WORK, ("loss", "sample")))
def test_eight_devices_give_what_one_gives(name):
    fn = WORK[name]
    assert jax.device_count() == 8
    x, keys = mixture().sample(key(), 16), arrays.example_keys(key(1), 16)
    expected = jax.jit(fn)(keys, x)

    by_pmap = jax.pmap(fn)(keys.reshape(8, 2), x.reshape(8, 2, 2))
    np.testing.assert_allclose(by_pmap.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(fn)(jax.device_put(keys, rows), jax.device_put(x, rows))
    np.testing.assert_allclose(sharded, expected, rtol=1e-5, atol=1e-5)
    assert sharded.sharding.is_equivalent_to(rows, sharded.ndim)

    mapped = jax.shard_map(fn, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    np.testing.assert_allclose(jax.jit(mapped)(keys, x), expected, rtol=1e-5, atol=1e-5)


def over_devices(v):
    """The norm that `langevin_corrector`'s docstring gives for the published mean over all devices."""
    return jax.lax.pmean(batch_norm(v), "data")


@pytest.mark.slow
def test_a_corrector_whose_norm_is_over_devices_is_that_of_the_whole_batch():
    """On eight devices of two rows; with norm="batch" each device has norms of its own."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    x, keys, ts = mixture(8).sample(key(), 16), arrays.example_keys(key(1), 16), jnp.array([0.6, 0.5, 0.4])
    score_fn = distributions.score_of(mixture(8), SDE)

    def corrected(norm, keys, x):
        corrector = sampling.langevin_corrector(SDE, score_fn, snr=0.16, n_steps=2, norm=norm)
        return sampling.sample(keys, sampling.predictor_corrector(sampling.ddim(SDE, score_fn), corrector), x, ts)

    whole = jax.jit(partial(corrected, "batch"))(keys, x)
    by_pmap = jax.pmap(partial(corrected, over_devices), axis_name="data")(keys.reshape(8, 2), x.reshape(8, 2, 8))
    np.testing.assert_allclose(by_pmap.reshape(x.shape), whole, rtol=1e-5, atol=1e-5)
    mapped = jax.shard_map(partial(corrected, over_devices), mesh=mesh, in_specs=rows, out_specs=rows)
    np.testing.assert_allclose(jax.jit(mapped)(keys, x), whole, rtol=1e-5, atol=1e-5)

    each = jax.pmap(partial(corrected, "batch"))(keys.reshape(8, 2), x.reshape(8, 2, 8))
    alone = jax.jit(partial(corrected, "batch"))(keys[6:8], x[6:8])
    np.testing.assert_allclose(each[3], alone, rtol=1e-5, atol=1e-5)
    assert np.abs(alone - whole[6:8]).max() > 0.01


def test_vmap_over_keys_and_over_numbers_of_the_sde():
    x0 = mixture().sample(key(), 8)
    keys = arrays.split(key(3), 4)
    swept = jax.vmap(lambda k, b: losses.diffusion_loss(k, sdes.VP(0.1, b), lambda x, t: -x, x0))(
        keys, jnp.linspace(5, 20, 4)
    )
    one = losses.diffusion_loss(keys[2], sdes.VP(0.1, 15.0), lambda x, t: -x, x0)
    np.testing.assert_allclose(swept[2], one, rtol=1e-4)
    runs = jax.vmap(lambda k, eta: sampling.sample(k, sampling.ddim(SDE, SCORE, eta=eta), x0, grids.log_snr(SDE, 4)))
    samples = runs(keys, jnp.array([0.0, 0.0, 0.5, 1.0]))
    np.testing.assert_allclose(samples[0], samples[1], rtol=1e-6)  # deterministic at eta = 0
    alone = sampling.sample(keys[3], sampling.ddim(SDE, SCORE, eta=1.0), x0, grids.log_snr(SDE, 4))
    # Roundings of 6e-8·3·σ/α in the estimate of x0: of the first step, from σ/α = 152, 3e-5, of which the second, from
    # σ/α = 3, keeps a tenth and adds 5e-7 a rounding.
    np.testing.assert_allclose(samples[3], alone, rtol=0, atol=2e-5)


def test_gradients_flow_through_a_whole_sampling_run():
    """d sample/d mean of N(m, v) through 6 DDIM steps equals the finite difference."""
    x = SDE.prior_sample(key(), (3, 2))

    def end(mean):
        score_fn = distributions.score_of(distributions.Gaussian(mean, 0.3), SDE)
        return sampling.sample(key(), sampling.ddim(SDE, score_fn), x, grids.log_snr(SDE, 6)).sum()

    mean = jnp.array([0.3, -0.2])
    gradient = jax.grad(end)(mean)
    shift = jnp.array([1e-2, 0.0])
    # The end is linear in the mean: the difference is exact but for rounding, some 10 of 6e-8·|end| ≈ 1, over 2e-2.
    np.testing.assert_allclose(gradient[0], (end(mean + shift) - end(mean - shift)) / 2e-2, rtol=0, atol=1e-4)

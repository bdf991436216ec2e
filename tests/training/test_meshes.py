"""A training is the same on every mesh but for the order of sums: loss, parameters, average.

A mesh changes how the gradients of its devices are added, so each of the N = 99,136 numbers of a gradient has another
rounding error, of ε of their usual size. The least of N numbers is some 1/N of their size, and wrong by N·ε of its own;
Adam, which divides by it, moves that parameter by lr·N·ε elsewhere: 1e-2 · 1e5 · 6e-8 = 6e-5 in float32, where it is
the least, once or a few times in ten updates. Allowed are three, 2e-4 of float32, 3.3e-13 of float64; found were 3e-5.
Loss and the gradient's norm are of all parameters together: to 200 ε, relatively, 1.2e-5 in float32.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import parameterization
from score_jax.adapters import linen
from score_jax.losses import diffusion_loss, times
from score_jax.score import ScoreModel
from score_jax.sde import VE
from score_jax.training import create, ema_decay, make_placement, make_train_step, optimizer, place, put_batches
from score_jax.training.collectives import collectives, operand_bytes
from tests.helpers import compiled

SDE, K, BATCH, DIMS, WIDTH, LR = VE(0.1, 10.0), 5, 16, 64, 256, 1e-2
MIN_SIZE = 1000  # numbers: kernels are cut, biases whole


class Net(nn.Module):
    """Two hidden layers whose kernels are cut, and biases which are not; recomputed in the backward pass on request."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        del label, train
        dense = nn.remat(nn.Dense) if self.remat else nn.Dense
        h = jnp.concatenate([x, cond[:, None].astype(x.dtype)], axis=1)
        for i in range(2):
            h = nn.tanh(dense(WIDTH, name=f"Dense_{i}")(h))
        return nn.Dense(x.shape[-1], name="Dense_2")(h)


def model(remat=False):
    net = Net(remat)
    variables = net.init(jax.random.key(0), jnp.zeros((1, DIMS)), jnp.zeros(1))
    variables = jax.tree.map(lambda x: x.astype(jnp.result_type(float)), variables)
    return ScoreModel(variables, SDE, linen(net), parameterization.Eps())


def chain():
    return optimizer(LR, warmup_steps=5, clip_norm=1.0, weight_decay=0.1)


def objective(key, score_fn, x0, times):
    return diffusion_loss(key, SDE, score_fn, x0, times=times)


def state():
    return create(jax.random.key(7), model().variables, chain())


def batches():
    x = np.random.default_rng(0).normal(size=(K, BATCH, DIMS))
    return {"x": x.astype(jnp.result_type(float))}


def make_step(placement, *, accumulation=1, remat=False):
    options = {"times": times.uniform(), "decay": ema_decay(0.9), "accumulation": accumulation}
    return make_train_step(model(remat), objective, chain(), placement=placement, **options)


def trained(placement, **how):
    """Returns the state after two dispatches, ten updates, and what is compared of it."""
    step, now = make_step(placement, **how), place(state(), placement)
    for n in range(2):
        before = now
        with compiled() as names:
            now, report = step(before, put_batches(batches(), placement.mesh))
        assert names.count("jit(dispatch)") == 1 - n, names  # what comes out lies as what goes in
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state, before.ema)))
    return now, jax.device_get((now.params, now.ema)), jax.device_get((report.loss, report.grad_norm))


@functools.cache
def alone(x64=False):
    """Of one device; `x64` tells the precision that is on."""
    assert jax.config.jax_enable_x64 == x64
    return trained(make_placement(devices=jax.devices()[:1]))[1:]


def assert_trained_alike(found, expected):
    epsilon = jnp.finfo(jnp.result_type(float)).eps / 2
    chex.assert_trees_all_close(found[0], expected[0], rtol=0, atol=3 * LR * 99_136 * float(epsilon))
    np.testing.assert_allclose(found[1], expected[1], rtol=2e2 * float(epsilon))


OFTEN = [((4, 2), {"accumulation": 2, "remat": True}), ((1, 8), {})]
ALL = [(mesh, {"accumulation": n}) for mesh in ((1, 8), (2, 4), (4, 2), (8, 1)) for n in (1, 2)]


@pytest.mark.parametrize(("mesh", "how"), OFTEN + [pytest.param(*one, marks=pytest.mark.slow) for one in ALL])
def test_every_mesh_trains_as_one_device_does(mesh, how):
    assert_trained_alike(trained(make_placement(*mesh, min_size=MIN_SIZE), **how)[1:], alone())


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "how"), [((2, 4), {"accumulation": 2}), ((1, 8), {"remat": True})])
def test_every_mesh_trains_as_one_device_does_in_double_precision(mesh, how):
    with jax.enable_x64(True):
        found = trained(make_placement(*mesh, min_size=MIN_SIZE), **how)[1:]
        assert_trained_alike(found, alone(x64=True))


def test_a_device_holds_its_part_of_the_state_alone():
    placement = make_placement(2, 4, min_size=MIN_SIZE)
    for leaf in jax.tree.leaves(place(state(), placement)):
        parts = 4 if leaf.size >= MIN_SIZE else 1
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert {shard.data.nbytes * parts for shard in leaf.addressable_shards} == {leaf.nbytes}


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def exchanged(placement):
    """The operands' bytes on a device in one update."""
    lowered = make_step(placement).lower(place(state(), placement), put_batches(batches(), placement.mesh))
    inside = [one for one in collectives(lowered.compile().as_text()) if one.times == K]
    return {kind: size / K for kind, size in operand_bytes(inside).items()}


def test_without_fsdp_an_update_exchanges_the_gradient_and_the_loss_and_nothing_else():
    assert exchanged(make_placement()) == {"all-reduce": bytes_of(state().params) + 4}


def test_with_fsdp_an_update_gathers_the_parameters_that_are_cut():
    cut = [leaf for leaf in jax.tree.leaves(state().params) if leaf.size >= MIN_SIZE]
    found = exchanged(make_placement(2, 4, min_size=MIN_SIZE))
    assert found.pop("all-gather") == bytes_of(cut) / 4
    # XLA for CPUs: the gradients over one axis, parts of those that are cut over the other, norms; no more than twice.
    assert bytes_of(state().params) < found.pop("all-reduce") < 2 * bytes_of(state().params) and not found

"""A training is the same on every mesh but for the order of sums: loss, parameters, average, moments."""

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
from score_jax.training import (
    create,
    ema_decay,
    make_placement,
    make_train_step,
    optimizer,
    place,
    put_batches,
)
from tests.helpers import trace_counter

SDE, K, BATCH, DIMS, WIDTH = VE(0.1, 10.0), 5, 16, 64, 256
MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]


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
    return optimizer(1e-2, warmup_steps=5, clip_norm=1.0, weight_decay=0.1)


def batches():
    x = np.random.default_rng(0).normal(size=(K, BATCH, DIMS))
    return {"x": x.astype(jnp.result_type(float))}


def train(placement, *, accumulation=1, remat=False, dispatches=2):
    """Returns state and reports of some dispatches, and how often the step was traced and compiled."""
    objective = trace_counter(lambda key, score_fn, x0, times: diffusion_loss(key, SDE, score_fn, x0, times=times))
    options = {"times": times.uniform(), "decay": ema_decay(0.9), "accumulation": accumulation}
    step = make_train_step(model(remat), objective, chain(), placement=placement, **options)
    state = place(create(jax.random.key(7), model().variables, chain()), placement)
    for _ in range(dispatches):
        before = state
        state, report = step(state, put_batches(batches(), placement.mesh))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state, before.ema)))
    assert step._cache_size() == 1
    return state, report


def numbers(state, report):
    return jax.device_get((state.params, state.ema, state.opt_state, report.loss, report.grad_norm))


@functools.cache
def alone(x64=False, accumulation=1):
    del x64  # tells which precision is on
    return numbers(*train(make_placement(devices=jax.devices()[:1]), accumulation=accumulation))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_mesh_trains_as_one_device_does(mesh, accumulation):
    found = numbers(*train(make_placement(*mesh, min_size=1000), accumulation=accumulation))
    chex.assert_trees_all_close(found, alone(), rtol=1e-4, atol=1e-4)

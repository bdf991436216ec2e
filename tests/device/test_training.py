"""Training on the device: a resumed run is the same run bit for bit, and the hot loops stay on the device.

On a GPU bits are the same only with --xla_gpu_deterministic_ops=true in XLA_FLAGS, which excludes sums in any order and
the choice of algorithms by their time; `make check-device` sets it.
"""

import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, networks, parameterization, sampling
from score_jax.adapters import linen
from score_jax.losses import diffusion_loss, times
from score_jax.networks import layers
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.sde import VP
from score_jax.training import create, ema_decay, make_placement, make_train_step, optimizer, place, put_batches, train
from tests.device.compare import MARKS
from tests.helpers import key, trace_counter
from tests.networks.filling import filled

pytestmark = MARKS

SDE, K, BATCH, SHAPE = VP(), 2, 4, (8, 8, 1)
CONFIG = {"network": {"channels": 8}, "training": {"batch_size": BATCH}}


class SmallUNet(nn.Module):
    """Two levels of one layer each: a U-Net whose training step a CPU compiles in seconds."""

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        del label, train
        fine = nn.Conv(8, (3, 3))(x)
        scale, shift = jnp.split(nn.Dense(16)(networks.Sinusoidal(8)(cond)), 2, axis=-1)
        coarse = layers.downsample(nn.swish(networks.GroupNorm()(fine, scale, shift)))
        coarse = layers.upsample(layers.SelfAttention()(coarse), fine)
        return nn.Conv(x.shape[-1], (3, 3))(jnp.concatenate([coarse, fine], axis=-1))


class Batches:
    """Endless batches `(K, BATCH, *SHAPE)` that depend on their number alone, which is the position."""

    def __init__(self):
        self.number = 0

    def __next__(self):
        x = np.random.default_rng(self.number).normal(size=(K, BATCH, *SHAPE)).astype(np.float32)
        self.number += 1
        return {"x": x}

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


def placement():
    return make_placement(devices=jax.devices()[:1])


@functools.cache
def model():
    variables = filled(SmallUNet(), np.zeros((1, *SHAPE), np.float32), np.zeros(1, np.float32))
    return ScoreModel(variables, SDE, linen(SmallUNet()), parameterization.Eps())


@trace_counter
def objective(key, score_fn, x0, times):
    return diffusion_loss(key, SDE, score_fn, x0, times=times)


def chain():
    return optimizer(1e-3, clip_norm=1.0)


def state():
    return create(jax.random.key(7), model().variables, chain())


def make_step():
    return make_train_step(
        model(), objective, chain(), times=times.uniform(), placement=placement(), decay=ema_decay(0.9)
    )


step = functools.cache(make_step)  # compiled once for all tests


def run(workdir, train_step, steps):
    every = {"steps_per_dispatch": K, "log_every": K, "checkpoint_every": K}
    options = {"config": CONFIG, "placement": placement(), "progress": False}
    result = train(state(), train_step, Batches(), workdir=workdir, steps=steps, **every, **options)
    return jax.device_get(result.state.replace(key=jax.random.key_data(result.state.key)))


def deterministic():
    return jax.default_backend() != "gpu" or "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")


def test_a_stopped_run_goes_on_from_its_checkpoint_bit_identically(tmp_path):
    if not deterministic():
        pytest.skip("equal bits on a GPU need --xla_gpu_deterministic_ops=true in XLA_FLAGS from the process's start")
    whole = run(tmp_path / "whole", step(), 4 * K)
    stopped = run(tmp_path / "stopped", step(), 2 * K)
    # Traced and compiled anew, as in another process.
    resumed = run(tmp_path / "stopped", make_step(), 4 * K)
    assert (int(stopped.step), int(resumed.step)) == (2 * K, 4 * K)
    for name in ("params", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(whole, name))
    moved = [np.any(a != b) for a, b in zip(*(jax.tree.leaves(s.params) for s in (stopped, whole)), strict=True)]
    assert all(moved) and int(resumed.failures) == 0


def test_train_steps_stay_on_the_device_are_traced_once_and_donate_their_state():
    now, batches = place(state(), placement()), Batches()
    now, _ = step()(now, put_batches(next(batches), placement().mesh))
    traced = objective.count
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            before = now
            now, report = step()(before, put_batches(next(batches), placement().mesh))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state, before.ema)))
        found = jax.device_get((now.step, report.failure.step))
    assert objective.count == traced
    assert found == (4 * K, -1)


def test_sampling_stays_on_the_device_and_is_traced_once():
    @jax.jit
    @trace_counter
    def draw(model, key, ts):
        keys = arrays.example_keys(key, BATCH)
        x = SDE.prior_sample(keys, (BATCH, *SHAPE))
        return sampling.sample(keys, sampling.ddim(SDE, model.conditioned(), eta=0.5), x, ts)

    arguments = model(), [key(0), key(1), key(2)], grids.log_snr(SDE, 5)
    network, keys, ts = jax.device_put(arguments, jax.devices()[0])
    with jax.transfer_guard("disallow"):
        drawn = jax.device_get([draw(network, key, ts) for key in keys])
    assert draw.__wrapped__.count == 1
    assert np.isfinite(drawn).all() and not np.array_equal(drawn[0], drawn[1])


def test_the_guard_sees_a_number_that_is_sent_with_every_call():
    on_device = jax.device_put(np.ones(3, np.float32), jax.devices()[0])
    add = jax.jit(jnp.add)
    with jax.transfer_guard("disallow"):
        add(on_device, on_device)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            add(on_device, np.ones(3, np.float32))

"""A run small enough for tests, and as a program: `python -m tests.training.tiny WORKDIR STEPS [SECONDS_PER_BATCH]`."""

import functools
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays, parameterization
from score_jax.adapters import linen
from score_jax.losses import diffusion_loss, times
from score_jax.score import ScoreModel
from score_jax.sde import VE
from score_jax.training import create, ema_decay, make_placement, make_train_step, optimizer, train

SDE = VE(0.1, 10.0)
K, BATCH, DIMS = 5, 16, 2
FATAL = 1000.0
CONFIG = {"network": {"width": 8}, "training": {"batch_size": BATCH, "steps": 40}}


class Net(nn.Module):
    """Two layers of width 8, with an input for the label (−1: none) and dropout."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        h = jnp.concatenate([x, cond[:, None], jnp.zeros_like(x) if label is None else label[:, None] * 0.1], axis=1)
        h = nn.Dropout(self.rate, deterministic=not train)(nn.tanh(nn.Dense(8)(h)))
        return nn.Dense(x.shape[-1])(h)


class Batches:
    """Endless batches `(K, BATCH, DIMS)` that depend on their number alone, which is the position."""

    def __init__(self, seconds=0.0, k=K):
        self.number, self.seconds, self.k = 0, seconds, k

    def __next__(self):
        time.sleep(self.seconds)
        steps = [np.random.default_rng(self.number * self.k + i).normal(size=(BATCH, DIMS)) for i in range(self.k)]
        self.number += 1
        return {"x": np.stack(steps).astype(np.float32), "index": np.zeros((self.k, BATCH), np.uint32)}

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


@functools.lru_cache
def model(rate=0.0, label=False):
    net = Net(rate)
    x = jnp.zeros((1, DIMS))
    variables = net.init(jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1) if label else None)
    return ScoreModel(variables, SDE, linen(net), parameterization.Eps())


def objective(key, score_fn, x0, times):
    """Denoising score matching; an example that starts with FATAL has the loss NaN."""
    return jnp.where(x0[:, 0] == FATAL, jnp.nan, diffusion_loss(key, SDE, score_fn, x0, times=times))


def times_of(step):
    """The times `(BATCH,)` that the train step draws for the examples of this step (from 0)."""
    keys = arrays.example_keys(jax.random.fold_in(state().key, 1), BATCH, step * BATCH)
    return times.uniform()(keys, SDE, BATCH)[0]


def without_speed(records):
    """Records but for what the clock says."""
    clock = ("examples_per_second", "seconds_left")
    return [{name: value for name, value in record.items() if name not in clock} for record in records]


def chain():
    return optimizer(1e-2, warmup_steps=5, clip_norm=1.0)


def state(**kwargs):
    return create(jax.random.key(7), model(**kwargs).variables, chain())


def placement(n=1, **how):
    return make_placement(devices=jax.devices()[:n], **how)


def mesh(n=1):
    return placement(n).mesh


@functools.lru_cache
def step(n_devices=1):
    """The compiled step, one for all tests: compiling takes longer than anything it is used for."""
    decay = ema_decay(0.9)
    return make_train_step(
        model(), objective, chain(), times=times.uniform(), placement=placement(n_devices), decay=decay
    )


def run(workdir, steps=40, *, seconds=0.0, **changes):
    settings = {"log_every": 10, "checkpoint_every": 15, "progress": False, "config": CONFIG} | changes
    batches = settings.pop("loader", None) or Batches(seconds)
    return train(
        state(), step(), batches, workdir=workdir, placement=placement(), steps=steps, steps_per_dispatch=K, **settings
    )


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), seconds=float((*sys.argv, 0)[3]))

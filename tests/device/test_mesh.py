"""On several devices: a training whose state is cut over them is that of one, and goes on on one."""

import math

import jax
import numpy as np
import pytest

from score_jax.losses import times
from score_jax.training import ema_decay, make_placement, make_train_step, place, put_batches, train
from tests.device.compare import MARKS, assert_close, rounding
from tests.device.test_training import CONFIG, SHAPE, Batches, K, chain, model, objective, state

pytestmark = [*MARKS, pytest.mark.usefixtures("float32_products")]

# A gradient, a sum over some 64 numbers, is wrong by δ of the usual size. Adam divides by each one's own: those below
# δ, a share of δ, move by up to lr otherwise, which is lr·√(2δ) in norm. Four updates, of parameters of 0.1 and more.
BOUND = 4 * 1e-3 * math.sqrt(2 * rounding(64)) / 0.1


@pytest.fixture
def devices():
    found = jax.devices()
    if len(found) < 2:
        pytest.skip("for several devices, and there is one")
    return found


class Several(Batches):
    """Batches that all devices can share."""

    def __next__(self):
        x = np.random.default_rng(self.number).normal(size=(K, 4 * jax.device_count(), *SHAPE)).astype(np.float32)
        self.number += 1
        return {"x": x}


def placements(devices):
    return make_placement(fsdp=len(devices), min_size=64, devices=devices), make_placement(devices=devices[:1])


def make_step(placement):
    return make_train_step(
        model(), objective, chain(), times=times.uniform(), placement=placement, decay=ema_decay(0.9)
    )


def parameters(state):
    return jax.device_get((state.params, state.ema))


def test_a_state_that_is_cut_over_all_devices_trains_as_on_one(devices, record_property):
    found = []
    for placement in placements(devices):
        now, step = place(state(), placement), make_step(placement)
        batches = Several()
        for _ in range(2):
            now, _ = step(now, put_batches(next(batches), placement.mesh))
        found.append(parameters(now))
    assert_close(record_property, "parameters", *found, BOUND)


def test_a_run_goes_on_on_one_device_from_what_several_wrote(devices, tmp_path, record_property):
    cut, alone = placements(devices)
    every = {"steps_per_dispatch": K, "log_every": K, "checkpoint_every": K, "config": CONFIG, "progress": False}
    first = train(state(), make_step(cut), Several(), placement=cut, workdir=tmp_path, steps=K, **every)
    largest = max(jax.tree.leaves(first.state.params), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size * len(devices) == largest.size
    end = train(state(), make_step(alone), Several(), placement=alone, workdir=tmp_path, steps=2 * K, **every)
    whole = train(state(), make_step(alone), Several(), placement=alone, workdir=tmp_path / "one", steps=2 * K, **every)
    assert int(end.state.step) == 2 * K
    assert_close(record_property, "parameters", parameters(end.state), parameters(whole.state), BOUND)

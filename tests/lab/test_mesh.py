"""The mesh of the settings, from training to samples and measures."""

import json
from functools import partial

import chex
import jax
import numpy as np
import pytest

from configs import toy
from score_jax import devices
from score_jax.lab import build, memory, run, samples
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.lab.measures.likelihood import likelihood_of_run
from score_jax.training import sharding
from score_jax.types import InputError


def config_of(**changes):
    config = toy.get_config()
    config.data.n, config.network.mlp.hidden, config.optimizer.schedule = 256, (64, 64), "constant"
    config.training.update(steps=4, steps_per_dispatch=2, batch_size=16, log_every=2, checkpoint_every=4)
    config.sampler.update(name="ddim", grid="log_snr", steps=3, n=10, batch_size=10)
    config.evaluation.update(levels=2, likelihood_n=10, likelihood_tolerance=1e-2)
    config.mesh.min_size = 1000
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


CUT, COPIED = {"mesh__data": 2, "mesh__fsdp": 4}, {"mesh__fsdp": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose state is cut into four parts."""
    return run.train(build.experiment(config_of(**CUT)), tmp_path_factory.mktemp("run"))


def test_a_run_is_trained_on_the_mesh_of_its_settings_and_says_so(trained):
    kernel = trained.state.params["hidden_1"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(64, 16)}
    assert json.loads((trained.workdir / "environment.json").read_text())["mesh"] == {"data": 2, "fsdp": 4}


def test_a_run_is_restored_onto_another_mesh_with_the_same_samples(trained):
    restored = run.restore(build.experiment(config_of(**COPIED)), trained.workdir, step=4)
    assert restored.state.params["hidden_1"]["kernel"].is_fully_replicated
    chex.assert_trees_all_equal(*(devices.gather(one.model.variables) for one in (restored, trained)))
    # Ten rows, of which eight devices have two each; products of as many rows, in both cases, by the same program.
    drawn = [samples.draw_samples(one, n=10, quiet=True).x for one in (restored, trained)]
    np.testing.assert_array_equal(*drawn)


def test_a_run_goes_on_on_another_mesh(trained, tmp_path):
    with_more = build.experiment(config_of(**COPIED, training__steps=6), before=run.before(trained.workdir))
    longer = run.train(with_more, trained.workdir)
    assert int(longer.state.step) == 6
    assert json.loads((trained.workdir / "environment-4.json").read_text())["mesh"] == {"data": 8, "fsdp": 1}
    whole = run.train(build.experiment(config_of(**CUT, training__steps=6)), tmp_path / "whole")
    # Six updates of at most lr = 2e-3 · n/5 by the warm-up; of 4,994 numbers the least moves lr·4,994·6e-8 otherwise.
    chex.assert_trees_all_close(devices.gather(longer.state.params), devices.gather(whole.state.params), atol=2e-6)


@pytest.mark.slow
def test_measures_are_those_of_another_mesh(trained):
    restored = run.restore(build.experiment(config_of(**COPIED)), trained.workdir, step=4)
    here, there = (loss_of_state(one.experiment)(one.state)["loss_by_sigma"] for one in (trained, restored))
    np.testing.assert_allclose(list(here.values()), list(there.values()), rtol=1e-5)
    found = [likelihood_of_run(one, 0) for one in (trained, restored)]
    assert found[0]["log_likelihood_n"] == 10
    np.testing.assert_allclose(found[0]["log_likelihood"], found[1]["log_likelihood"], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh__fsdp": 3}, "mesh.data=-1 × mesh.fsdp=3 cannot be made of 8 device"),
        ({"mesh__fsdp": 0}, "mesh.data and mesh.fsdp are numbers of devices, or -1"),
        ({"mesh__min_size": -1}, "mesh.min_size is a number from 0"),
        (
            {"mesh__fsdp": 8, "mesh__rules": ((".*out.kernel", (None, "fsdp")),)},
            r"\(64, 2\) into 8 parts, which do n",
        ),
        ({"mesh__rules": ((".*Conv_0.kernel", (None, "fsdp")),)}, "matches no array of 2 axes or more: paths are writ"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_line_before_anything_is_trained(changes, message):
    with pytest.raises(InputError, match=message) as error:
        build.experiment(config_of(**changes))
    assert "\n" not in str(error.value)


def test_rules_of_settings_hold_before_the_rule_on_size():
    made = build.experiment(config_of(**CUT, mesh__rules=((".*hidden_1.kernel", ("fsdp",)),)))
    state = jax.eval_shape(partial(run.first_state, made))
    found = sharding.shardings(state, made.placement).ema["hidden_1"]["kernel"].spec
    assert found == jax.sharding.PartitionSpec("fsdp")


def test_a_network_that_fits_in_parts_alone_is_not_refused(monkeypatch):
    """Parameters whole, and four copies of them in parts: of P bytes 5 P on a device, or 2 P of four parts."""
    shapes = {"w": jax.ShapeDtypeStruct((1000,), "float32")}
    assert memory.of_parameters(shapes) == 20_000 and memory.of_parameters(shapes, 4) == 8_000
    of_all = memory.of_parameters(build.experiment(config_of()).model.variables)
    monkeypatch.setattr(memory, "available", lambda: of_all // 2)
    build.experiment(config_of(**CUT))
    with pytest.raises(InputError, match=r"the parameters of network\.mlp"):
        build.experiment(config_of(**COPIED))

"""Settings that cannot work are refused before anything is made; those not given follow from SDE, data and length."""

import importlib.util
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits, toy
from score_jax import distributions, metrics, noise_levels, sampling
from score_jax import sde as sdes
from score_jax.devices import device_mesh
from score_jax.lab import build, memory, run, settings
from score_jax.lab.build import noise
from score_jax.lab.build.sampling import grid, plan, with_step_size
from score_jax.lab.build.training import intervals
from score_jax.training.checkpoint import read_config
from score_jax.types import InputError
from tests.helpers import key


def config_of(module=settings, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network__mlp__hidden": ("a",)},
            r"network.mlp.hidden is whole numbers from 1 to 1,000,000,000, got \('a',\)",
        ),
        ({"optimizer__b1": 2.0}, "optimizer.b1 is a number from 0 and below 1, got 2.0"),
        ({"optimizer__warmup_steps": -5}, "optimizer.warmup_steps is a number from -1, got -5"),
        ({"optimizer__warmup_steps": 20, "training__steps": 20}, "warmup_steps 20 leaves nothing of training.steps 20"),
        ({"training__keep_last": 0}, "training.keep_last is a number from 1, got 0"),
        ({"sampler__t_end": 1.5}, "sampler.t_end is a time below t_max = 1 of this SDE, got 1.5"),
        ({"network__mlp__hidden": (10**7, 10**7)}, "needs at least 1.78 PiB of memory .* parameters of network.mlp"),
        # x of 2 float32 numbers, in each of the 250 steps of a dispatch, on one of eight devices
        ({"training__batch_size": 10**12}, r"needs at least 227 TiB of memory .*batch_size=1000000000000 in 250 steps"),
        ({"training__wandb": "mine"}, r"training.wandb needs wandb: pip install 'score-jax\[wandb\]'"),
        (
            {"sampler__threshold": "static"},
            "sampler.threshold 'static' keeps images of grey levels in data.value_range",
        ),
        ({"sampler__annealed_langevin__step_size": 0.0101}, "step_size 0.0101 is 4.04 σ² at every level .*step_size=0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2**40)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=message):
        build.experiment(config_of(toy, data__n=10, **changes), before=run.before(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (sdes.VE(0.01, 1e25), r"VE: σ\(t_max\) = inf"),
        (sdes.VP(t_min=1e-44), r"VP: σ\(t_min\) = 0"),
        (sdes.Flow(t_max=jnp.float32(1.0)), r"Flow: α\(t_max\) = 0"),
    ],
)
def test_ends_that_are_no_numbers_are_refused_at_build_time(process, message, monkeypatch):
    monkeypatch.setitem(noise.SDES, "vp", lambda **_: process)
    with pytest.raises(InputError, match=message):
        noise.sde(config_of(sde__name="vp"))
    with pytest.raises(InputError, match=message):
        build.experiment(config_of(toy, data__n=10), sde=process)


# What follows from what


@pytest.mark.parametrize(
    ("process", "name"),
    [
        ("vp", "annealed_langevin"),
        pytest.param("edm", "annealed_langevin", marks=pytest.mark.slow),
        ("cosine", "consistent_annealed"),
    ],
)
def test_a_word_swaps_the_process_of_langevin_samplers(process, name):
    """With the exact score of eight Gaussians and 50 levels: measured 0.002 to 0.011 for all seven processes, and 0.001
    to 0.004 of other data. VE's own step, ε = 2.5e-4, is 250 σ² on VP, whose samples are not finite."""
    experiment = build.experiment(config_of(toy, data__n=10, sde__name=process, sampler__name=name))
    mixture, sde, ts = experiment.data.oracle, experiment.model.sde, experiment.sampling.ts
    score = distributions.score_of(mixture, sde)
    sampler = experiment.sampling.make(sde, score)

    @jax.jit
    def distance(key_data, key_samples):
        x = sampling.sample(key_samples, sampler, sde.prior_sample(key_samples, (2000, 2)), ts)
        return metrics.energy_distance(sde.denoise(x, ts[-1], score(x, ts[-1])), mixture.sample(key_data, 2000))

    assert distance(key(0), key(1)) < 0.02


def test_steps_not_given_are_the_rules_of_the_levels():
    config = config_of(sde__ve__sigma_max=10.0, sampler__steps=31)
    sde = noise.sde(config)
    ratio = (10 / float(sde.sigma(sde.t_min))) ** (1 / 30)
    found = with_step_size(config, sde).sampler.annealed_langevin.step_size
    assert found == pytest.approx(noise_levels.step_size(float(sde.sigma(sde.t_min)), ratio, 5), rel=1e-3)
    given = config_of(sampler__annealed_langevin__step_size=1e-5)
    assert with_step_size(given, sde) is given


def test_levels_not_given_follow_from_the_data_and_stay_with_the_run(tmp_path):
    x = np.array([[0, 0], [3, 4], [100, 0]], np.float32)
    np.save(tmp_path / "x.npy", x)
    config = config_of(
        toy, data__name="array", data__root=str(tmp_path / "x.npy"), data__holdout=0.0, sde__ve__sigma_max=0.0
    )
    config.optimizer.warmup_steps, config.training.steps, config.network.mlp.hidden = -1, 20, (4,)
    experiment = build.experiment(config)
    assert experiment.settings["sde"]["ve"]["sigma_max"] == 100.0 == float(experiment.model.sde.sigma_max)
    assert experiment.settings["optimizer"]["warmup_steps"] == 4
    assert config.sde.ve.sigma_max == 0.0  # the caller's config is the caller's
    config.sde.ve.sigma_max, config.optimizer.warmup_steps = 100.0, 4
    assert build.experiment(config).settings == experiment.settings


def test_the_summary_shows_the_data_and_warns_of_levels_below_their_scale(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 2000.0], [0.0, 2000.0]], np.float32))
    config = config_of(toy, data__name="array", data__root=str(tmp_path / "x.npy"), data__holdout=0.0)
    config.network.mlp.hidden = (4,)
    said = build.experiment(config).summary
    assert said[1] == "data in training: mean 1e+03, standard deviation 1e+03, from 0 to 2e+03 (2 examples)"
    assert said[2].startswith("warning: the largest noise level, σ/α = 10, is below the data's scale, 1.41e+03")
    assert said[2].endswith("set --config.sde.ve.sigma_max=0")
    assert said[3].endswith("set --config.parameterization.edm.sigma_data=1.4e+03") and len(said) == 4
    assert len(build.experiment(digits.get_config("mlp")).summary) == 2  # nothing to warn of


def test_consistent_sampling_that_is_ddim_says_so(caplog):
    sde = sdes.VE(0.01, 10.0)
    score = lambda x, t: -x
    least = 2 * float(sde.variance(1e-5)) * (1 - (10 / float(sde.sigma(1e-5))) ** (-1 / 99))
    for step_size, said in [(0.98 * least, 1), (1.02 * least, 0), (0.0, 0)]:
        config = config_of(sampler__name="consistent_annealed", sampler__consistent_annealed__step_size=step_size)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            plan(config, sde, score, mesh=device_mesh())
        assert sum("every step is DDIM's" in record.getMessage() for record in caplog.records) == said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (250, 250, 3000, None, None, None)),  # 6,000 steps
        ({"training__steps": 20}, (20, 20, 20, None, None, None)),
        ({"training__steps": 300}, (50, 250, 300, None, None, None)),
        ({"training__steps": 6001}, (1, 250, 3000, None, None, None)),
        ({"training__keep_every": 1000}, (250, 250, 3000, 1000, None, None)),
        ({"training__steps_per_dispatch": 7}, (5, 250, 3000, None, None, None)),
        ({"training__sample_every": 400, "training__evaluate_every": 9000}, (50, 250, 3000, None, 400, None)),
    ],
)
def test_dispatches_divide_every_interval_and_none_is_longer_than_the_training(changes, expected):
    assert intervals(config_of(toy, **changes)) == expected


@pytest.mark.parametrize(("process", "end"), [("vp", 1e-3), ("edm", 0.002), ("subvp", 1e-3)])
def test_grids_do_not_end_before_t_min(process, end):
    config = config_of(sde__name=process, sampler__grid="uniform", sampler__t_end=1e-3)
    assert float(grid(config, noise.sde(config))[-1]) == pytest.approx(end)


def train(config, folder, **changes):
    config = config.copy_and_resolve_references()
    config.training.update(**changes)
    return run.train(build.experiment(config, before=run.before(folder)), folder)


def test_a_run_goes_on_to_any_number_of_steps_with_the_numbers_it_began_with(tmp_path):
    """A dispatch divides the step of the checkpoint too: else the end would be passed by, and nothing saved."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    config = config_of(toy, data__name="array", data__root=str(tmp_path / "x.npy"), sde__ve__sigma_max=0.0)
    config.optimizer.schedule, config.network.mlp.hidden, config.training.batch_size = "constant", (4,), 8
    assert train(config, tmp_path / "run", steps=20).state.step == 20
    before = read_config(tmp_path / "run")
    np.save(tmp_path / "x.npy", 100 * np.load(tmp_path / "x.npy"))  # what is derived of these would be another σ_max
    for steps in (47, 60):
        assert train(config, tmp_path / "run", steps=steps, log_every=10).state.step == steps
    now = read_config(tmp_path / "run")
    assert now["sde"] == before["sde"] and now["optimizer"]["warmup_steps"] == 4
    assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()) == 60

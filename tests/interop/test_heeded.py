"""Every setting of a source's config is heeded, refused by name, or known to be harmless."""

import math
import sys
from typing import NamedTuple

import numpy as np
import pytest

from score_jax import interop, parameterization
from score_jax.interop import settings
from score_jax.interop.settings import merged
from score_jax.interop.sources import SOURCES, as_score, open_checkpoint
from score_jax.lab import command, samples
from score_jax.types import InputError
from tests.interop.test_published import FILES as NCSNS
from tests.interop.test_sampling import loaded, prepared, with_module
from tests.interop.test_unet_files import score_sde_config
from tests.interop.test_unets import FILES, config_of, opened, source_of

UNKNOWN = [
    ("ddpmpp", {"model": {"sigma_data": 0.5}}, "model.sigma_data = 0.5"),
    ("ddpmpp", {"sampling": {"temperature": 0.9}}, "sampling.temperature = 0.9"),
    ("ddpmpp", {"training": {"objective": "x0"}}, "training.objective = 'x0'"),
    ("ddpmpp", {"guidance": 3}, "guidance = 3"),
    ("ddpmpp", {"model": {"conv_size": 5}}, "model.conv_size is 5"),
    ("diffusers", {"use_linear_projection": True}, "use_linear_projection = True"),
    ("diffusers", {"scheduler": {"shift": 3.0}}, "scheduler.shift = 3.0"),
    ("diffusers", {"quantization_config": {"load_in_8bit": True}}, "quantization_config.load_in_8bit = True"),
    ("edm", {"logvar_channels": 128}, "logvar_channels = 128"),
    ("edm", {"loss": {"P_mean": -1.2}}, "loss.P_mean = -1.2"),
]


@pytest.mark.parametrize(("name", "change", "message"), UNKNOWN)
def test_settings_that_are_not_known_are_refused_by_name(name, change, message):
    with pytest.raises(InputError, match=message) as error:
        interop.load(FILES[name], source=source_of(name), config=merged(config_of(name) or {}, change))
    assert str(error.value).startswith(f"{FILES[name]}: the config") and "\n" not in str(error.value)


def test_a_file_is_not_saved_with_settings_that_are_not_known(tmp_path):
    found = opened("edm")
    with pytest.raises(InputError, match="logvar_channels = 128, which is not known"):
        interop.save(tmp_path / "x", *found[:2], source="edm", config={**found.config, "logvar_channels": 128})
    assert not (tmp_path / "x").exists()


SAMPLING = {"n_steps_each": 1, "noise_removal": True, "probability_flow": False, "snr": 0.16, "method": "pc"}
TRAINING = {"batch_size": 128, "n_iters": 9, "reduce_mean": True, "likelihood_weighting": False, "snapshot_freq": 5}
NCSNV2 = {  # cifar10.yml as published, but for the network's size
    "training": {"batch_size": 128, "n_epochs": 500000, "snapshot_sampling": True, "anneal_power": 2},
    "sampling": {"batch_size": 100, "data_init": False, "step_lr": 6.2e-6, "n_steps_each": 7, "denoise": False},
    "fast_fid": {"step_lr": 6.2e-6, "ensemble": False},
    "test": {"begin_ckpt": 5000},
    "data": {"dataset": "CIFAR10", "image_size": 24, "random_flip": True, "rescaled": False, "num_workers": 4},
    "model": {"sigma_begin": 50, "sigma_end": 0.01, "sigma_dist": "geometric", "ema": True, "spec_norm": False},
    "optim": {"optimizer": "Adam", "amsgrad": False},
}  # fmt: skip
SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.42.1", "solver_order": 2,
    "algorithm_type": "dpmsolver++", "use_karras_sigmas": True, "timestep_spacing": "linspace", "steps_offset": 1,
    "final_sigmas_type": "zero", "variance_type": None, "use_flow_sigmas": False, "flow_shift": 1.0,
}  # fmt: skip
HARMLESS = {
    "ncsnv2": NCSNV2,
    "score_sde_pytorch": merged(
        score_sde_config(),
        {
            "training": TRAINING,
            "sampling": SAMPLING,
            "eval": {"bpd_dataset": "test"},
            "optim": {"lr": 2e-4},
            "seed": 1,
            "model": {"sigma_begin": 90},
        },
    ),
    "diffusers": {"_name_or_path": "x", "decay": 0.9999, "num_train_timesteps": None, "scheduler": SOLVER},
    "edm": {"class_name": "EDMPrecond", "use_fp16": True, "augment_dim": 9},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_settings_of_published_configs_are_known(name):
    settings.require_known(HARMLESS[name], SOURCES[name].known)


# NCSN


def ncsnv2(config):
    return prepared(NCSNS["ncsnv2"], source="ncsnv2", source_config=config)


def test_ncsns_config_says_how_it_was_sampled():
    checkpoint, config, trained = ncsnv2(NCSNV2)
    sampler = config.sampler
    # released step_lr is ε/2
    assert sampler.annealed_langevin.to_dict() == {"step_size": pytest.approx(1.24e-5), "n_steps": 7}
    assert checkpoint.shape == trained.examples.shape == (24, 24, 3)
    assert not sampler.denoise and not trained.sampling.denoise
    assert tuple(config.data.value_range) == trained.examples.value_range == (0.0, 1.0)
    _, config, trained = ncsnv2(merged(NCSNV2, {"data": {"rescaled": True}}))
    assert tuple(config.data.value_range) == trained.examples.value_range == (-1.0, 1.0)
    assert not trained.model.apply.module.rescale
    for change, message in [
        ({"data": {"logit_transform": True}}, "data.logit_transform is True"),
        ({"data": {"rescaled": 3}}, "data.rescaled is 3, expected true or false"),
        ({"sampling": {"data_init": True}}, "sampling.data_init is True"),
        ({"sampling": {"denoise": "yes"}}, "sampling.denoise is 'yes'"),
        ({"model": {"spec_norm": True}}, "model.spec_norm is True"),
        ({"model": {"sigma_begin": 90}}, "has levels from 50 to 0.01, unlike the config's model.sigma_begin"),
        ({"model": {"attention": True}}, "model.attention = True, which is not known"),
    ]:
        with pytest.raises(InputError, match=message):
            ncsnv2(merged(NCSNV2, change))


# Score SDE


FLOWS = [
    ({"method": "ode"}, ("probability_flow", False, True)),
    ({"method": "ODE", "predictor": "reverse_diffusion", "corrector": "langevin"}, ("probability_flow", False, True)),
    ({"method": "ode", "noise_removal": False}, ("probability_flow", False, False)),
    ({"method": "PC", "predictor": "Euler_Maruyama"}, ("euler_maruyama", False, True)),
    ({"probability_flow": True}, ("euler_maruyama", False, True)),
    ({"probability_flow": True, "corrector": "langevin"}, ("euler_maruyama", True, True)),
    ({"probability_flow": True, "predictor": "reverse_diffusion"}, ("reverse_diffusion", False, True)),
    ({"probability_flow": False, "predictor": "reverse_diffusion"}, ("reverse_diffusion", False, True)),
]


@pytest.mark.parametrize(("sampling", "expected"), FLOWS)
def test_score_sdes_config_may_ask_for_the_flow(sampling, expected):
    sampler = loaded("ddpmpp", changed={"sampling": sampling}).config.sampler
    assert (sampler.name, sampler.corrector, sampler.denoise) == expected
    assert sampler.t_end == 1e-3
    wanted = bool(sampling.get("probability_flow"))  # each by the predictor it is asked of
    if sampler.name != "probability_flow":
        assert sampler[sampler.name].probability_flow == wanted
    assert sampler.probability_flow.to_dict() == {"rtol": 1e-5, "atol": 1e-5}  # as released


@pytest.mark.parametrize(
    ("name", "sampling", "message"),
    [
        ("ddpmpp", {"method": "heun"}, "sampling.method is 'heun', expected one of pc, ode"),
        ("ddpmpp", {"predictor": "none"}, "sampling.predictor is 'none', expected one of euler_maruyama"),
        ("ddpmpp", {"corrector": "ald"}, "sampling.corrector is 'ald', expected one of langevin, none"),
        ("ddpmpp", {"probability_flow": 1}, "sampling.probability_flow is 1, expected true or false"),
        ("ddpmpp", {"probability_flow": True, "predictor": "ancestral_sampling"}, "the predictor ancestral_sampling"),
    ],
)  # fmt: skip
def test_what_score_sde_could_ask_for_and_is_not_read_is_one_line(name, sampling, message):
    with pytest.raises(InputError, match=message):
        loaded(name, changed={"sampling": sampling})


def test_changes_of_resolution_without_parameters_are_read_where_they_mean_something():
    for settings_, resampling in [
        ({"resblock_type": "ddpm"}, "plain"), ({"resblock_type": "biggan"}, "block"), ({"name": "ddpm"}, "plain"),
    ]:  # fmt: skip
        module = SOURCES["score_sde_pytorch"].module({}, score_sde_config(resamp_with_conv=False, **settings_))
        assert module.resampling == resampling
    with pytest.raises(InputError, match=r"model\.resamp_with_conv is 'no', expected true or false"):
        SOURCES["score_sde_pytorch"].module({}, score_sde_config(resamp_with_conv="no", name="ddpm"))


# Diffusers


def process(scheduler):
    found = opened("diffusers")
    return as_score(found._replace(config={**found.config, "scheduler": scheduler}), "diffusers")


def test_what_old_schedulers_predict():
    """predict_epsilon, before version 0.10, is what prediction_type says today."""
    for scheduler, expected in [
        ({"predict_epsilon": False}, parameterization.X0),
        ({"predict_epsilon": True}, parameterization.Eps),
        ({"predict_epsilon": None, "prediction_type": "sample"}, parameterization.X0),
        ({"predict_epsilon": False, "prediction_type": "sample"}, parameterization.X0),
    ]:
        assert isinstance(process(scheduler).parameterization, expected)
    for scheduler, message in [
        (
            {"predict_epsilon": False, "prediction_type": "epsilon"},
            "predict_epsilon is False and prediction_type epsilon",
        ),
        ({"predict_epsilon": True, "prediction_type": "v_prediction"}, "which is meant"),
        ({"predict_epsilon": "no"}, "predict_epsilon is 'no', expected one of"),
    ]:
        with pytest.raises(InputError, match=message):
            process(scheduler)


def test_ddims_scheduler_means_ddim():
    for change, denoise in [({}, True), ({"set_alpha_to_one": True}, True), ({"set_alpha_to_one": False}, False)]:
        scheduler = {"_class_name": "DDIMScheduler", "clip_sample": False, **change}
        sampler = loaded("diffusers", changed={"scheduler": scheduler}).config.sampler
        assert (sampler.name, sampler.ddim.eta, sampler.grid, sampler.steps) == ("ddim", 0.0, "ddpm", 1000)
        assert (sampler.denoise, sampler.threshold) == (denoise, "none")
    assert loaded("diffusers", changed={"scheduler": SOLVER}).config.sampler.name == "ancestral"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 4}, "in_channels = 4 and out_channels = 3: 1 channels of a condition beside its image"),
        ({"in_channels": 6}, "3 channels of a condition beside its image"),
        ({"out_channels": 6}, "twice as many where scheduler.variance_type is 'learned_range'"),
        ({"out_channels": 4}, "no image alone"),
    ],
)
def test_networks_of_more_than_images_say_what_they_are_given(change, message):
    with pytest.raises(InputError, match=message):
        interop.load(FILES["diffusers"], source="diffusers", config=change)


def test_sizes_are_numbers_or_pairs(monkeypatch):
    for given, expected in [(32, (32, 32)), ([32, 32], (32, 32)), ([32, 16], (32, 16)), ((8, 24), (8, 24))]:
        assert loaded("diffusers", changed={"sample_size": given}).trained.examples.shape == (*expected, 3)
    for given in ([32], [32, 0], [1, 2, 3], "32", True, 3.0):
        with pytest.raises(InputError, match=r"sample_size is .*, expected a number of pixels, or height and width"):
            loaded("diffusers", changed={"sample_size": given})
    for size in (48, (48, 48)):
        wide = loaded("diffusers", changed={"sample_size": [32, 16]}, size=size)
        assert wide.trained.examples.shape == (48, 48, 3)
    assert loaded("ddpmpp", changed={"data": {"image_size": [16, 16]}}).trained.examples.shape == (16, 16, 3)
    assert loaded("edm", changed={"img_resolution": [16, 16]}).trained.examples.shape == (16, 16, 3)
    with pytest.raises(InputError, match=r"data\.image_size is 16 by 32, expected square images"):
        loaded("ddpmpp", changed={"data": {"image_size": [16, 32]}})
    for text, expected in [("32", (32, 32)), ("32x48", (32, 48)), ("8,16", (8, 16))]:
        monkeypatch.setattr(sys, "argv", ["sample.py", f"--size={text}"])
        assert command.given_size("size") == expected
    for text in ("0", "32x", "32x0", "-3", "big"):
        monkeypatch.setattr(sys, "argv", ["sample.py", f"--size={text}"])
        with pytest.raises(InputError, match="--size is the side of the images in pixels, or their height and width"):
            command.given_size("size")


def test_a_network_of_wide_images_draws_them():
    wide = loaded("diffusers", changed={"sample_size": [4, 8]}, sampler="ddim", steps=2)
    assert samples.draw_samples(with_module(wide.trained, Zero()), n=1).x.shape == (1, 4, 8, 3)


class Zero(NamedTuple):
    """A network whose output is zero."""

    def apply(self, variables, x, cond, label=None, *, train):
        return 0 * x


# EDM


VP = lambda t: math.sqrt(math.expm1(0.1 * t + 19.9 * t**2 / 2))
RANGES = [  # max(.002, σ_min of the network) and min(80, σ_max), as the released sampler takes them
    ({}, (0.002, 80.0)),
    ({"sigma_min": 0.05, "sigma_max": 10.0}, (0.05, 10.0)),
    ({"sigma_min": 0, "sigma_max": math.inf}, (0.002, 80.0)),
    ({"class_name": "VPPrecond"}, (0.002, 80.0)),
    ({"class_name": "VPPrecond", "epsilon_t": 1e-3}, (VP(1e-3), 80.0)),
    ({"class_name": "VPPrecond", "beta_d": 10.0}, (0.002, math.sqrt(math.expm1(0.1 + 10.0 / 2)))),
    ({"class_name": "VPPrecond", "beta_d": 1e9}, (math.sqrt(math.expm1(0.05 + 1e-6)), 80.0)),
    ({"class_name": "VEPrecond"}, (0.02, 100.0)),
    ({"class_name": "VEPrecond", "sigma_min": 0.1, "sigma_max": 50}, (0.1, 50.0)),
]


@pytest.mark.parametrize(("change", "expected"), RANGES)
def test_edm_is_sampled_in_the_range_that_its_network_supports(change, expected):
    config = config_of("edm") | change
    sde = SOURCES["edm"].score(SOURCES["edm"].module({}, config), config)[0]
    np.testing.assert_allclose([sde.t_min, sde.t_max], expected, rtol=1e-6)


def test_a_range_of_noise_that_is_none_is_one_line():
    for change in ({"sigma_min": 90.0}, {"sigma_min": 3.0, "sigma_max": 2.0}):
        with pytest.raises(InputError, match="expected sigma_min below sigma_max"):
            interop.score_model(FILES["edm"], source="edm", config=config_of("edm") | change)
    assert open_checkpoint(
        FILES["edm"], source="edm", config=config_of("edm") | {"label_dropout": 0.2}
    ).examples.null_class

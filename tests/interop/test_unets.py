"""Published U-Nets, against what the original implementations compute with the same files."""

import functools
import itertools
import json
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from score_jax import parameterization
from score_jax.interop.mapping import to_tensors
from score_jax.interop.sources import SOURCES, as_score, open_checkpoint
from score_jax.interop.unet_names import score_sde_entries
from tests.helpers import often
from tests.interop.writing import with_tensors, write_zip
from tests.networks.filling import jit

DATA = Path(__file__).parent.parent / "data"
SDE, DIFFUSERS, SONG = DATA / "score_sde_pytorch", DATA / "diffusers" / "ddpm", DATA / "edm" / "songunet_ddpmpp"
NCSNPP = SDE / "ncsnpp_ve_fourier_residual"


FILES = {
    "ddpm": None,  # its weights are the numbers that their names give, and it is the largest
    "ddpmpp": SDE / "ddpmpp.pth",
    "ncsnpp": NCSNPP.with_suffix(".pth"),
    "diffusers": DIFFUSERS,
    "edm": SONG.with_suffix(".safetensors"),
}
OUTPUTS = {
    "ddpm": SDE / "ddpm.npz",
    "ddpmpp": SDE / "ddpmpp.npz",
    "ncsnpp": NCSNPP.with_suffix(".npz"),
    "diffusers": DIFFUSERS.with_suffix(".npz"),
    "edm": SONG.with_suffix(".npz"),
}


# Modes that the files above do not have (tests/data/README.md): source/case, score SDE's by output and input path.
# Their .npz list names and shapes of the original's state dict, and hold the buffers that keep their own values.
MODES = (
    "score_sde_pytorch/ncsnpp_skip_skip",
    "score_sde_pytorch/ncsnpp_skip_residual",
    "score_sde_pytorch/ncsnpp_residual_residual",
    "score_sde_pytorch/ncsnpp_residual_none",
    "score_sde_pytorch/ncsnpp_residual_skip_cat",
    "score_sde_pytorch/ncsnpp_none_skip_cat",
    "score_sde_pytorch/ncsnpp_plain_fir",
    "diffusers/defaults",
    "diffusers/groups",
    "diffusers/ncsnpp",
    "diffusers/ncsnpp_narrow",
    "diffusers/ncsnpp_groups",
    "edm/adm_edm",
    "edm/adm_iddpm",
    "edm/song_skip",
    "edm/song_ve",
    "edm/song_vp",
)
OUTPUTS |= {name: (DATA / name).with_suffix(".npz") for name in MODES}


def source_of(name):
    source = name.split("/")[0]
    return source if source in SOURCES else "score_sde_pytorch"


def config_of(name):
    return None if name == "diffusers" else json.loads(OUTPUTS[name].with_suffix(".json").read_text())


@functools.cache
def opened(name):
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), name) if name in MODES else FILES[name]
        path = path or write_published(Path(folder) / "checkpoint.pth", config_of(name))
        return open_checkpoint(path, source=source_of(name), config=config_of(name))


def written(folder, name):
    """Writes the state dict of an original, and returns its path."""
    data = np.load(OUTPUTS[name])
    shapes = {key: tuple(shape[shape > 0]) for key, shape in zip(data["names"].tolist(), data["shapes"], strict=True)}
    state = {key: data[key] if key in data else from_name(key, shape) for key, shape in shapes.items()}
    safetensors.numpy.save_file(state, folder / "state.safetensors")
    return folder / "state.safetensors"


@functools.cache
def reference(name):
    """Returns (x, cond, label or nothing, out) of the original implementation, NHWC."""
    data = np.load(OUTPUTS[name])
    x, out = (data[key].transpose(0, 2, 3, 1) for key in ("x", "out"))
    cond = np.float32(data["sigma"] if "sigma" in data else data["labels"])
    one_hot = data["labels"] if "sigma" in data else np.zeros((len(x), 0))
    classes = data["classes"] if "classes" in data else one_hot.argmax(-1) if one_hot.shape[1] else None
    return x, cond, ([] if classes is None else [classes.astype(np.int32)]), out


def from_name(name, shape):
    """What the fixtures' float weights are, by their names in the original state dict."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return np.float32(z / np.sqrt(np.prod(shape[1:])))
    return np.float32(0.1 * z if name.endswith(("bias", ".b")) else 1 + 0.1 * z)


def weights(config):
    """Returns a state dict of a score SDE network without Fourier features, averages."""
    entries = score_sde_entries(SOURCES["score_sde_pytorch"].module({}, config), 3)
    order = sorted(entries, key=lambda e: int(e.name.split(".")[1]))
    return {e.name: from_name(e.name, e.source_shape) for e in order}


def parts(config, change=lambda contents: None):
    """Returns what a file of score SDE holds, raw weights half the averages as in the fixtures."""
    state = weights(config)
    contents = {
        "optimizer": {"state": {}, "param_groups": [{"lr": None, "params": [0]}]},
        "model": {"module.sigmas": np.ones(3)} | {f"module.{name}": array / 2 for name, array in state.items()},
        "ema": {"decay": 0.999, "num_updates": 10, "shadow_params": list(state.values())},
        "step": 1234,
    }
    change(contents)
    return contents


def write_published(path, config, change=lambda contents: None):
    return write_zip(path, with_tensors(parts(config, change), itertools.count()))


# Parity


# One of every source and of every path of images through a network
OFTEN = {*FILES, "score_sde_pytorch/ncsnpp_none_skip_cat", "score_sde_pytorch/ncsnpp_residual_residual"}
OFTEN |= {"score_sde_pytorch/ncsnpp_residual_none", "score_sde_pytorch/ncsnpp_plain_fir"}
OFTEN |= {"edm/song_skip", "edm/adm_edm", "diffusers/groups"}


@pytest.mark.parametrize("name", often([*FILES, *MODES], OFTEN))
def test_outputs_are_the_original_implementations(name):
    x, cond, label, expected = reference(name)
    found = opened(name)
    out = jit(found.module.apply)(found.variables, x, cond, *label)
    # float32 rounding: at most 1.7e-5 of the standard deviation of an example's output was measured
    for example, there in zip(np.asarray(out), expected, strict=True):
        assert abs(example - there).max() < 1e-4 * there.std()


@pytest.mark.parametrize("name", FILES)
def test_weights_are_the_numbers_that_their_names_give(name):
    found = opened(name)
    tensors = to_tensors(SOURCES[source_of(name)].entries(found.module, found.examples.channels), found.variables)
    for key, array in tensors.items():
        np.testing.assert_array_equal(array, from_name(key, array.shape), err_msg=key)
    assert len(tensors) == {"ddpm": 134, "ddpmpp": 154, "ncsnpp": 157, "diffusers": 144, "edm": 144}[name]


def test_the_moving_average_is_taken_unless_the_raw_weights_are_asked_for():
    path, config = FILES["ncsnpp"], config_of("ncsnpp")
    raw = open_checkpoint(path, source="score_sde_pytorch", config=config, use_ema=False).variables
    average = opened("ncsnpp").variables
    jax.tree.map(lambda r, a: np.testing.assert_array_equal(2 * r, a), raw["params"], average["params"])
    # Fourier frequencies are no part of the average
    np.testing.assert_array_equal(raw["fixed"]["embedding"]["frequencies"], from_name("all_modules.0.W", (16,)))
    np.testing.assert_array_equal(average["fixed"]["embedding"]["frequencies"], from_name("all_modules.0.W", (16,)))


# Score functions


def scores(name, **changes):
    """Returns a fixture as a score model, its SDE, and what its network was given and returned."""
    found = opened(name)
    config = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
        for key, value in found.config.items()
    }
    return as_score(found._replace(config=config), source_of(name)), *reference(name)


def assert_score(model, x, t, cond, F, expected, atol=1e-6):
    """Asserts that at t the network is told `cond`, is given x itself, and its output F means `expected`."""
    np.testing.assert_allclose(model.condition(model.sde, t), cond, rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(model.parameterization.inputs(model.sde, t)[0], 1, rtol=1e-6)
    np.testing.assert_allclose(model.parameterization.to_score(model.sde, x, t, F), expected, rtol=1e-4, atol=atol)


def scaled(F, factors):
    return F * np.float32(factors)[:, None, None, None]


def test_continuous_vp_and_sub_vp_are_eps_at_999_t():
    # σ of the two at t = 1e-3, .25 and 1: VP's from sde.md's closed form, sub-VP's its square
    sigma = np.float32([0.010485416335094895, 0.6901596036263088, 0.9999784068923386])
    t = np.float32([1e-3, 0.25, 1])
    for kind, power in [("vpsde", 1), ("subvpsde", 2)]:
        model, x, _, _, F = scores("ddpmpp", training={"sde": kind, "continuous": True})
        assert_score(model, x, t, 999 * t, F, scaled(F, -1 / sigma**power))


def test_discrete_vp_is_eps_on_ddpms_table():
    model, x, cond, _, F = scores("ddpm")  # told 0, 300 and 999
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    t = (np.float32(cond) + 1) / 1000
    assert_score(model, x, t, cond, F, scaled(F, -1 / np.sqrt(1 - alphas_bar[np.int32(cond)])))
    assert model.sde.t_min == 1e-3


def test_ve_is_the_score_at_sigma_or_at_the_index_of_sigma():
    model, x, cond, _, F = scores("ncsnpp")
    t = np.log(cond / 0.01) / np.log(5000)
    assert_score(model, x, np.float32(t), cond, F, F)
    model = scores("ncsnpp", training={"continuous": False})[0]
    t = np.float32([1, 500 / 999, 0])  # round((1 − t) · 999), 0 the largest
    np.testing.assert_allclose(model.condition(model.sde, t), [0, 499, 999], atol=2e-3)


def test_a_diffusers_model_is_ddpm_until_its_scheduler_says_otherwise():
    model, x, cond, _, F = scores("diffusers")  # told 0 and 500; no scheduler: DDPM's table
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    t = (np.float32(cond) + 1) / 1000
    assert_score(model, x, t, cond, F, scaled(F, -1 / np.sqrt(1 - alphas_bar[np.int32(cond)])))
    found = opened("diffusers")
    sigmoid_last = np.prod([1 - (0.4999 / (1 + np.exp(end)) + 1e-4) for end in (6, -6)])
    for scheduler, last in [
        (
            {"beta_schedule": "scaled_linear", "num_train_timesteps": 100},
            np.prod(1 - np.linspace(0.01, 0.02**0.5, 100) ** 2),
        ),
        ({"beta_schedule": "squaredcos_cap_v2"}, 2.4287669070348567e-9),
        ({"trained_betas": [0.1, 0.2, 0.5]}, 0.9 * 0.8 * 0.5),
        ({"beta_schedule": "sigmoid", "num_train_timesteps": 2, "beta_end": 0.5}, sigmoid_last),
    ]:
        model = as_score(found._replace(config={**found.config, "scheduler": scheduler}), "diffusers")
        np.testing.assert_allclose(np.exp(model.sde.log_alphas_bar[-1]), last, rtol=1e-9)
        assert model.condition.n == len(model.sde.log_alphas_bar)
    v = as_score(found._replace(config={**found.config, "scheduler": {"prediction_type": "v_prediction"}}), "diffusers")
    assert v.parameterization == parameterization.V()


def test_an_edm_denoiser_gives_the_score_of_its_tweedie_estimate():
    model, x, sigma, _, D = scores("edm")
    # D − x is known to a unit in the last place of x, up to 4: 2.4e-7, and is divided by .05²
    assert_score(model, x, sigma, sigma, D, scaled(D - x, 1 / sigma**2), atol=2e-4)
    assert (model.sde.t_min, model.sde.t_max) == (0.002, 80.0)

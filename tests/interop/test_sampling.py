"""Published U-Nets sampled: the settings their authors used, other samplers, and the command's short flags."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs import edm
from score_jax import metrics, networks, noise_levels, parameterization
from score_jax import sde as sdes
from score_jax.adapters import linen
from score_jax.conditions import NoiseLevel
from score_jax.interop.settings import merged
from score_jax.interop.sources import as_score, open_checkpoint
from score_jax.lab import build, evaluation, published, run, samples, settings, show
from score_jax.lab.build.sampling import with_step_size
from score_jax.lab.experiment import Trained
from score_jax.lab.published import Published
from score_jax.types import InputError
from tests.helpers import refused
from tests.interop.test_published import FILES as NCSNS
from tests.interop.test_unets import FILES, OUTPUTS, source_of

ROOT = Path(__file__).parents[2]
SOURCE_CONFIGS = {name: None if name == "diffusers" else OUTPUTS[name].with_suffix(".json") for name in FILES}


class Loaded(NamedTuple):
    """A checkpoint as it was read, the settings it is sampled with, and what is made of both."""

    published: Published
    config: ConfigDict
    trained: Trained


def prepared(path, *, sampler=None, steps=None, **options):
    """A checkpoint as the command opens it."""
    found, config = published.open_published(path, **options), settings.get_config()
    config.update_from_flattened_dict(found.settings)
    settings.with_sampler(config, sampler, steps)
    return Loaded(found, config, build.of_checkpoint(config, found))


def loaded(name, *, changed=None, **options):
    config = SOURCE_CONFIGS[name]
    if changed:
        config = merged(json.loads(config.read_text()) if config else {}, changed)
    return prepared(FILES[name], source=source_of(name), source_config=config, **options)


def with_module(trained, module):
    return replace(trained, model=replace(trained.model, apply=linen(module)))


def sigmas(trained):
    return np.exp(-0.5 * np.asarray(trained.model.sde.log_snr(trained.sampling.ts)))


AUTHORS = {
    "ddpmpp": ({"name": "euler_maruyama", "grid": "uniform", "steps": 999, "corrector": False}, (-1, 1)),
    "ncsnpp": ({"name": "reverse_diffusion", "grid": "uniform", "steps": 999, "corrector": True}, (0, 1)),
    "diffusers": ({"name": "ancestral", "grid": "ddpm", "steps": 1000, "corrector": False}, (-1, 1)),
    "edm": ({"name": "heun", "grid": "karras", "steps": 17, "rho": 7.0}, (-1, 1)),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_checkpoints_are_sampled_as_their_authors_did(name):
    (checkpoint, config, trained), (expected, value_range) = loaded(name), AUTHORS[name]
    found = config.sampler.to_dict()
    assert {key: found[key] for key in expected} == expected
    assert found["start"] == "prior" and found["denoise"] and trained.sampling.denoise
    assert tuple(config.data.value_range) == trained.examples.value_range == value_range
    assert checkpoint.shape == trained.examples.shape == (16, 16, 3)
    assert checkpoint.num_classes == len(trained.examples.names) == (10 if name == "edm" else 0)


def test_grids_are_the_authors():
    # Karras et al. 2022, eq. (5) with n = 18, as in sde.md; the first network call is at 80, the denoise at .002
    expected = [80, 57.585984721, 40.785573797, 28.374584604, 19.352452980, 12.910082381]
    np.testing.assert_allclose(sigmas(loaded("edm").trained)[:6], expected, rtol=1e-5)
    # all of the 1000 levels; t is known to 6e-8 and log σ to 8.5 times that, but t_min is 1e-5 and not 0
    np.testing.assert_allclose(sigmas(loaded("ncsnpp").trained), np.geomspace(50, 0.01, 1000), rtol=1e-4)
    ts = loaded("diffusers").trained.sampling.ts
    np.testing.assert_allclose(ts, np.arange(1000, 0, -1) / 1000, rtol=1e-6)
    ts = loaded("ddpmpp").trained.sampling.ts  # 1000 times from 1 to 1e-3 (Song et al. 2021)
    np.testing.assert_allclose(ts, np.linspace(1, 1e-3, 1000), rtol=1e-5)


def test_the_sources_config_and_scheduler_choose_the_sampler():
    sampling = {"predictor": "ancestral_sampling", "corrector": "none", "snr": 0.1, "n_steps_each": 2}
    sampler = loaded("ncsnpp", changed={"sampling": {**sampling, "noise_removal": False}}).config.sampler
    assert (sampler.name, sampler.ancestral.variance, sampler.corrector, sampler.denoise) == (
        "ancestral", "posterior", False, False,
    )  # fmt: skip
    assert (sampler.langevin_corrector.snr, sampler.langevin_corrector.n_steps) == (0.1, 2)
    discrete = loaded("ddpmpp", changed={"training": {"continuous": False}}).config.sampler
    assert (discrete.name, discrete.ancestral.variance, discrete.grid) == ("ancestral", "transition", "ddpm")
    assert loaded("diffusers").config.sampler.ancestral.variance == "posterior"
    large = {"scheduler": {"variance_type": "fixed_large", "num_train_timesteps": 50}}
    sampler = loaded("diffusers", changed=large).config.sampler
    assert (sampler.ancestral.variance, sampler.steps) == ("transition", 50)
    for scheduler, expected in [
        ({}, ("static", 0.995)),  # diffusers clips unless told otherwise
        ({"clip_sample": False}, ("none", 0.995)),
        ({"_class_name": "PNDMScheduler"}, ("none", 0.995)),  # only these two clip
        ({"_class_name": "DDIMScheduler"}, ("static", 0.995)),
        # s = clamp(quantile, 1, sample_max_value), which is 1 unless it says otherwise
        ({"thresholding": True, "dynamic_thresholding_ratio": 0.9, "clip_sample": False}, ("static", 0.995)),
        ({"thresholding": True, "sample_max_value": 1}, ("static", 0.995)),
    ]:
        sampler = loaded("diffusers", changed={"scheduler": scheduler}).config.sampler
        assert (sampler.threshold, sampler.quantile) == expected
    with pytest.raises(InputError, match=r"variance_type is 'learned', expected one of fixed_small"):
        loaded("diffusers", changed={"scheduler": {"variance_type": "learned"}})
    with pytest.raises(InputError, match=r"sample_max_value is 2\.0, expected one of 1\.0"):
        loaded("diffusers", changed={"scheduler": {"thresholding": True, "sample_max_value": 2.0}})
    with pytest.raises(InputError, match=r"does not say the side of its images.*give --size"):
        loaded("diffusers", changed={"sample_size": None})


def test_schedulers_on_a_table_are_read_and_others_refused_by_name():
    for name, first in [
        (None, 1e-4), ("DDPMScheduler", 1e-4), ("DDIMScheduler", 1e-4), ("PNDMScheduler", 1e-4),
        ("UniPCMultistepScheduler", 1e-4), ("HeunDiscreteScheduler", 8.5e-4),
    ]:  # fmt: skip
        scheduler = {"variance_type": None} | ({} if name is None else {"_class_name": name})
        model = loaded("diffusers", changed={"scheduler": scheduler}).trained.model
        np.testing.assert_allclose(-np.expm1(model.sde.log_alphas_bar[0]), first, rtol=1e-4)
    refused = ["KarrasVeScheduler", "ScoreSdeVpScheduler", "ScoreSdeVeScheduler", "FlowMatchEulerDiscreteScheduler", 3]
    for name in refused:
        with pytest.raises(InputError, match=rf"the config's scheduler is '?{name}'?, which is not read"):
            loaded("diffusers", changed={"scheduler": {"_class_name": name}})
    for key, odd in [("use_flow_sigmas", True), ("timestep_type", "continuous")]:  # the latter is told log(σ)/4
        with pytest.raises(InputError, match=f"{key} is {odd!r}, expected one of"):
            loaded("diffusers", changed={"scheduler": {key: odd}})


def test_a_table_of_zero_terminal_snr_is_sampled_from_its_second_knot():
    changed = {"scheduler": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}}
    for options in ({}, {"sampler": "ddim", "steps": 10}, {"sampler": "unipc", "steps": 20}):
        trained = loaded("diffusers", changed=changed, **options).trained
        first = float(trained.sampling.ts[0])
        assert first == pytest.approx(0.901 if options.get("sampler") == "ddim" else 0.999, rel=1e-6)
        assert np.isfinite(sigmas(trained)).all()
    sde = loaded("diffusers", changed=changed).trained.model.sde
    assert len(sde.knots()) == 1000  # each at its own time, index and ᾱ


def test_a_learned_range_is_read_and_sampled_with(tmp_path):
    """A network of diffusers with twice the channels, the second half v = 0.2: log std² a share 0.6 of the way."""
    weights = safetensors.numpy.load_file(FILES["diffusers"] / "diffusion_pytorch_model.safetensors")
    for name, more in {"conv_out.weight": 0.0, "conv_out.bias": 0.2}.items():
        weights[name] = np.concatenate([weights[name], np.full_like(weights[name], more)])
    safetensors.numpy.save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    config = json.loads((FILES["diffusers"] / "config.json").read_text()) | {"out_channels": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"variance_type": "learned_range"}))
    found = prepared(tmp_path)
    assert found.config.sampler.ancestral.variance == "learned"
    model, sde, x = found.trained.model, found.trained.model.sde, jnp.ones((1, 16, 16, 3))
    t, s = sde.knots()[500], sde.knots()[400]
    high, low = sde.transition(t, s)[1], sde.posterior_variance(t, s)
    np.testing.assert_allclose(model.variance(x, t, s), high**0.6 * low**0.4, rtol=1e-5)
    np.testing.assert_allclose(model(x, t), loaded("diffusers").trained.model(x, t), rtol=1e-4, atol=1e-5)


def test_edm_takes_more_steps_for_larger_images_and_noise_for_imagenet():
    """Karras et al. 2022: 79 network calls for FFHQ and AFHQ, 511 for ImageNet of 64 pixels, S_churn = 40."""
    found = open_checkpoint(FILES["edm"], source="edm", config=SOURCE_CONFIGS["edm"])
    model = as_score(found, "edm")
    larger = found._replace(examples=found.examples._replace(size=(64, 64)))
    assert published.DEFAULTS["edm"]("edm", larger, model).settings["sampler.steps"] == 39
    adm = larger._replace(module=larger.module.clone(network=networks.adm()))
    config = settings.get_config()
    config.update_from_flattened_dict(published.DEFAULTS["edm"]("edm", adm, model).settings)
    there = edm.get_config("imagenet64").sampler
    assert (config.sampler.steps, config.sampler.heun) == (there.steps, there.heun) == (255, there.heun)
    faces = edm.get_config("ffhq").sampler
    assert faces.steps == 39 and config.sampler.heun.churn == 40 / 256 != faces.heun.churn


def test_ncsnpp_of_diffusers_is_sampled_as_a_variance_exploding_process():
    found = open_checkpoint(FILES["ncsnpp"], source="score_sde_pytorch", config=SOURCE_CONFIGS["ncsnpp"])
    scheduler = {"num_train_timesteps": 50, "snr": 0.2, "sigma_max": 10.0, "correct_steps": 2}
    config = {"time_embedding_type": "fourier", "scheduler": scheduler}
    for changed, message in [
        ({"sigma_max": None}, "sigma_max is None"),
        ({"_class_name": "DDPMScheduler"}, "_class_name is 'DDPMScheduler', expected one of ScoreSdeVeScheduler"),
    ]:
        with pytest.raises(InputError, match=message):
            as_score(found._replace(config={**config, "scheduler": scheduler | changed}), "diffusers")
    with pytest.raises(InputError, match=r"needs scheduler\.sigma_max"):
        as_score(found._replace(config={"time_embedding_type": "fourier"}), "diffusers")
    found = found._replace(config=config)
    model = as_score(found, "diffusers")
    assert (model.sde.sigma_min, model.sde.sigma_max) == (0.01, 10.0)
    assert (model.parameterization, model.condition) == (parameterization.Score(), NoiseLevel())
    chosen, size = published.DEFAULTS["diffusers"]("diffusers", found, model)
    assert (size, chosen["data.value_range"]) == ((16, 16), (0.0, 1.0))
    assert (chosen["sampler.name"], chosen["sampler.corrector"]) == ("reverse_diffusion", True)
    assert (chosen["sampler.steps"], chosen["sampler.langevin_corrector.snr"]) == (49, 0.2)
    assert chosen["sampler.langevin_corrector.n_steps"] == 2
    none = found._replace(config={**config, "scheduler": scheduler | {"correct_steps": 0}})
    assert not published.DEFAULTS["diffusers"]("diffusers", none, model).settings["sampler.corrector"]


def test_another_sampler_runs_on_a_grid_that_suits_it():
    unipc = loaded("diffusers", sampler="unipc", steps=20)
    sampler = unipc.config.sampler
    assert (sampler.name, sampler.grid, sampler.steps, sampler.corrector) == ("unipc", "log_snr", 20, False)
    # equal steps in log-SNR from the last entry of the table to the first, ᾱ_0 = .9999
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    ends = np.sqrt((1 - alphas_bar) / alphas_bar)[[-1, 0]]
    np.testing.assert_allclose(sigmas(unipc.trained), np.geomspace(*ends, 21), rtol=2e-4)
    assert loaded("edm", sampler="unipc").config.sampler.grid == "karras"
    assert loaded("ncsnpp", sampler="heun").config.sampler.corrector is False
    # DDIM's own steps: every 100th knot, the last of them for the denoise there: 10 calls
    ddim = loaded("diffusers", sampler="ddim", steps=10)
    ts = ddim.trained.sampling.ts
    np.testing.assert_allclose(ts, np.arange(901, 0, -100) / 1000, rtol=1e-6)
    assert len(ts) - 1 + ddim.trained.sampling.denoise == 10


def test_another_samplers_settings_suit_the_checkpoints_noise_and_steps():
    ratio = (80 / 0.002) ** (1 / 20)

    def by(sampler):
        """The settings that it is sampled with, numbers that follow from the levels included."""
        conditions = loaded("edm", sampler=sampler, steps=20).trained.sampling.conditions
        assert conditions["sampler_steps"] == conditions["sampler_settings"]["steps"] == 20
        return conditions["sampler_settings"]

    annealed = by("annealed_langevin")
    assert (annealed["grid"], annealed["steps"]) == ("log_snr", 20)
    step_size, n_steps = (annealed["annealed_langevin"][name] for name in ("step_size", "n_steps"))
    assert 0 < step_size < 2 * 0.002**2  # x ← (1 − ε/2σ²) x beyond is unstable
    assert step_size == pytest.approx(noise_levels.step_size(0.002, ratio, n_steps))
    # η = ε/2σ² = 1 − γ², whose noise is ancestral sampling's
    consistent = by("consistent_annealed")
    assert consistent["consistent_annealed"]["step_size"] == pytest.approx(2 * 0.002**2 * (1 - ratio**-2))
    # A grid that ends above t_min: 20 steps from σ/α of t = 1 to that of 1e-3, ε at the sampler's own smallest level.
    vp, config = sdes.VP(), settings.get_config()
    config.sampler.update(name="euler_maruyama", t_end=1e-3)
    settings.with_sampler(config, "consistent_annealed", 20)
    config = with_step_size(config, vp)
    change = float(vp.log_snr(1.0) - vp.log_snr(1e-3)) / 20  # 2 log(1/γ) < 0
    expected = 2 * float(vp.variance(vp.t_min)) * -np.expm1(change)
    assert config.sampler.consistent_annealed.step_size == pytest.approx(expected)
    # S_churn = 40 over N steps, the denoise being the last, and at most √2 − 1
    noisy = settings.get_config()
    noisy.sampler.update(name="heun", steps=255)
    noisy.sampler.heun.churn = 40 / 256
    for steps, churn in [(255, 40 / 256), (511, 40 / 512), (127, 40 / 128), (39, 2**0.5 - 1), (None, 40 / 256)]:
        config = noisy.copy_and_resolve_references()
        settings.with_sampler(config, None, steps)
        assert config.sampler.heun.churn == pytest.approx(churn)


def test_langevin_samples_of_an_edm_denoiser_are_its_images():
    """D = 0.4 everywhere, so the law at σ is N(0.4, σ²): annealed Langevin and consistent sampling end at 0.4."""
    for sampler in ("annealed_langevin", "consistent_annealed", "probability_flow"):
        trained = with_module(loaded("edm", sampler=sampler, steps=20).trained, Constant())
        drawn = samples.draw_samples(trained, n=2, labels=np.full(2, 4))
        np.testing.assert_allclose(drawn.x, (0.4 + 1) / 2, atol=1e-5)
        last = drawn.path[-1] - 0.7  # before the last denoise: noise of σ = 0.002, in [0, 1] half of it
        assert np.abs(last).max() < 0.02 and (sampler == "probability_flow" or 2e-4 < last.std() < 2.5e-3)
    assert drawn.nfe > 7 and len(drawn.path) == 1  # counted, not of a grid
    with pytest.raises(InputError, match="sampler 'heum' does not exist"):
        loaded("edm", sampler="heum")


def test_a_checkpoints_source_is_told_by_its_looks():
    looks = {
        "google/ddpm-cifar10-32": "diffusers",
        FILES["diffusers"]: "diffusers",
        "edm/cifar10.pkl": "edm",
        "runs/checkpoint.pth": "ncsnv2",
        FILES["edm"]: "edm",
        FILES["ncsnpp"]: "score_sde_pytorch",
        NCSNS["ncsn"]: "ncsn",
        NCSNS["ncsnv2"]: "ncsnv2",
        FILES["diffusers"] / "diffusion_pytorch_model.safetensors": "diffusers",
    }
    assert {path: published.usual_source(path) for path in looks} == looks
    with pytest.raises(InputError, match="is neither a folder, nor a file, nor a hub id"):
        published.open_published("runs/nothing.safetensors", source="diffusers")
    with pytest.raises(InputError, match=r"needs model.*--source_config.*; read as score_sde_pytorch, --source=\.\.\."):
        published.open_published(FILES["ncsnpp"])
    with pytest.raises(InputError, match=r"nothing\.pth: cannot be read.*; read as ncsnv2, --source="):
        published.open_published("runs/nothing.pth")


class Constant(NamedTuple):
    """A denoiser D(x; σ) that knows the images: label/10 everywhere, −1 for none."""

    def apply(self, variables, x, cond, label, *, train):
        return jnp.zeros_like(x) + label[:, None, None, None] / 10


def draw(trained, folder, *, n, label=None):
    """Draws and writes what the command does without a label, or of the class that `label` names."""
    examples = trained.examples
    in_turn = samples.classes_in_turn(examples, n)
    labels = in_turn if label is None else np.full(n, samples.label_named(examples, label), np.int32)
    drawn = samples.draw_samples(trained, n=n, labels=labels)
    written = show.show_samples(trained, drawn, folder, labels=labels)
    return [*written, samples.save_samples(trained, drawn, folder, seed=0, labels=labels)]


PICTURES = {"grid.png", "annealing.png", "annealing.gif", "classes.png"}  # of which the last names the columns


def test_all_classes_in_turn_or_the_one_asked_for_in_the_unit_interval(tmp_path):
    trained = with_module(loaded("edm", steps=2, changed={"label_dropout": 0.1}).trained, Constant())
    for label, expected in [(None, np.arange(12) % 10), ("7", np.full(12, 7)), ("-1", np.full(12, -1))]:
        written = draw(trained, tmp_path, n=12, label=label)
        assert {path.name for path in written} == {*PICTURES, "samples.npz"}
        saved = np.load(tmp_path / "samples.npz")
        np.testing.assert_array_equal(saved["label"], expected)
        # the last denoise gives D itself, label/10 of [-1, 1]; (x + σ² (D − x)/σ²) is rounded like x, 1e-6 here
        np.testing.assert_allclose(saved["x"].mean((1, 2, 3)), (expected / 10 + 1) / 2, atol=1e-5)
    with pytest.raises(InputError, match=r"there is no class '10': this model has the classes 0, 1, .*, 9"):
        draw(trained, tmp_path, n=1, label="10")
    with pytest.raises(InputError, match="labels must be 0 to 9, or -1 for any, got 10 to 10"):
        samples.draw_samples(trained, n=1, labels=np.array([10]))
    unconditional = loaded("diffusers").trained
    with pytest.raises(InputError, match="there is no class '0': this model has no classes"):
        draw(unconditional, tmp_path, n=1, label="0")
    with pytest.raises(InputError, match="this model has no classes"):
        samples.draw_samples(unconditional, n=1, labels=np.array([0]))


def test_no_label_is_asked_only_of_networks_that_saw_none(tmp_path):
    """EDM leaves labels out in the share of the examples that label_dropout says, 0 unless told; diffusers never."""
    checkpoint, _, trained = loaded("edm", steps=2)
    assert (checkpoint.num_classes, checkpoint.null_class) == (10, False)
    assert loaded("edm", changed={"label_dropout": 0.1}).published.null_class
    classes = open_checkpoint(FILES["diffusers"], source="diffusers").examples._replace(num_classes=4)
    assert not classes.null_class
    message = "label -1, any, was never learned by this model: give every label, 0 to 9"
    for ask in (
        lambda: draw(trained, tmp_path, n=1, label="-1"),
        lambda: samples.draw_samples(trained, n=2),
        lambda: samples.draw_samples(trained, n=2, labels=np.array([3, -1])),
    ):
        with pytest.raises(InputError, match=message):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTHORS)
def test_the_command_samples_every_source(name, tmp_path):
    given = [] if SOURCE_CONFIGS[name] is None else [f"--source_config={SOURCE_CONFIGS[name]}"]
    command = [
        sys.executable, "experiments/sample.py",
        f"--checkpoint={FILES[name]}", f"--source={source_of(name)}", *given,
        "--sampler=unipc", "--steps=3", "--n=2", f"--out={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    x = np.load(tmp_path / "samples.npz")["x"]
    assert x.shape == (2, 16, 16, 3) and np.isfinite(x).all() and x.std() > 0
    assert Path(tmp_path / "grid.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("diffusers", marks=pytest.mark.slow), "edm"])
def test_a_published_checkpoint_is_measured_beside_its_data(name, tmp_path):
    """Its samples are those that sampling draws, and its held-out loss that of its own score, by hand."""
    label = np.arange(60) % 10
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=images, label=label)
    found, config, trained = loaded(name, sampler="ddim", steps=2)
    config.data.update(name="array", root=str(tmp_path / "x.npz"), holdout=20, labels=name == "edm")
    config.evaluation.update(n=8, levels=2, measures=("held_out_loss", "nearest_neighbours"))
    made = run.of_published(build.experiment_of(config, found), found, tmp_path / "runs")
    numbers = evaluation.evaluate(made)
    assert numbers["checkpoint"] == found.checkpoint and numbers["n"] == 8 and numbers["left_out"] == {}
    drawn = samples.draw_samples(trained, n=8, labels=samples.classes_in_turn(trained.examples, 8)).x.clip(0, 1)
    nearest = metrics.nearest_neighbours(drawn, made.experiment.data.train.batch(np.arange(40))["x"] / np.float32(255))
    assert numbers["nearest_neighbour_distance"] == pytest.approx(float(np.median(nearest[1])), rel=1e-5)
    assert all(np.isfinite(v) and v > 0 for v in numbers["loss_by_sigma"].values())
    config.data.update(name="digits", root="")
    refused(r"is of examples \(16, 16, 3\), and data 'digits' are of \(8, 8, 1\)", build.experiment_of, config, found)

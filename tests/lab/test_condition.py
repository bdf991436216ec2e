"""Restoring pictures: posterior samples within their law, costs that are counted, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_jax import data, metrics, parameterization, plotting
from score_jax import sde as sdes
from score_jax.conditioning.cost import Cost
from score_jax.devices import device_mesh
from score_jax.lab import build, condition, pictures, run, settings
from score_jax.lab.build import sampling as of_sampling
from score_jax.lab.experiment import Examples, Trained
from score_jax.lab.reports import page
from score_jax.lab.restoring import inputs, results
from score_jax.lab.restoring.chosen import chosen_options
from score_jax.lab.restoring.methods import METHODS, Counts, Observation, _any
from score_jax.lab.restoring.posterior import Posterior, draw_posterior
from score_jax.lab.restoring.tasks import TASKS
from score_jax.score import ScoreModel
from score_jax.types import InputError
from tests.lab.test_commands import tiny_digits

ROOT = Path(__file__).parents[2]
MEAN, STD = 0.3, 0.25  # of the Gaussian pixels of `exact`
SHAPE = (4, 4, 3)


def exact_score(variables, x, cond, label, key):
    """Of independent pixels N(MEAN, STD²) on VE; cond is log σ."""
    return (MEAN - x) / (STD**2 + jnp.exp(2 * cond).reshape(-1, 1, 1, 1))


def exact(shape=SHAPE, **sampler) -> Trained:
    """A model of images, by default in colour, whose score is exact, with Heun's method."""
    config, sde = settings.get_config(), sdes.VE(sigma_max=5.0)
    config.sampler.update({"name": "heun", "grid": "karras", "steps": 20, "batch_size": 64} | sampler)
    model = ScoreModel({}, sde, exact_score, parameterization.Score())
    examples = Examples("Gaussian pixels", shape, 256, (0.0, 1.0))
    plan = of_sampling.plan(config, sde, model, mesh=device_mesh())
    return Trained(examples, model, plan, {"checkpoint": "exact"})


def task(name, **options):
    return TASKS[name](SHAPE, (0.0, 1.0), None, **options)


def truth(n):
    return np.asarray(MEAN + STD * jax.random.normal(jax.random.key(5), (n, *SHAPE)))


def test_posterior_samples_and_their_residual_follow_their_law():
    """On Gaussian pixels, of which ΠGDM is exact: mean (y d² + μ σ²)/(d² + σ²), variance d² σ²/(d² + σ²) where seen.

    And ‖y − A x‖² is σ² χ²_m if y was made of a truth: m = 36 numbers of 12 pixels.
    """
    model, noise, n, k = exact(), 0.2, 40, 16
    seen = inputs.of_truth(model.examples, task("inpaint"), truth(k), noise, 0)
    drawn = draw_posterior(model, "pigdm", {"data_std": STD}, seen, n=n, seed=1)
    where = np.broadcast_to(seen.operator.mask, SHAPE)
    share = STD**2 / (STD**2 + noise**2)
    expected = np.where(where, share * np.asarray(seen.y) + (1 - share) * MEAN, MEAN)
    variance = np.where(where, share * noise**2, STD**2)
    z = (drawn.x.mean(1) - expected) / np.sqrt(variance / n)
    # 768 means: each within 4.5 s.e., mean square 1 ± 4 √(2/768), and 3 % for Heun's 20 steps
    assert np.abs(z).max() < 4.5 and abs((z**2).mean() - 1) < 0.25
    ratio = (drawn.x.var(1, ddof=1) / variance).mean((0, 3))
    assert np.abs(ratio - 1).max() < 4 * np.sqrt(2 / (n * k * 3)) + 0.03
    restored = results.restored(model.examples, "inpaint", seen, drawn, None)
    residual = results.restoration_numbers(model.examples, seen, drawn, restored)["residual"]
    assert residual["observed"] == 36 and residual["expected"] == pytest.approx(noise * 6)
    # Mean of χ over σ√m: 1 − 1/(4m); given y samples are not independent, so 4 s.e. of 16 of them: √(1/(2·36·16))
    assert abs(residual["value"] / residual["expected"] - (1 - 1 / 144)) < 4 / np.sqrt(2 * 36 * 16)


def test_what_light_was_counted_of_follows_poissons_posterior():
    """TDS against quadrature: one pixel N(MEAN, STD²), 9 of 20 photons: p(x | y) ∝ N(x) (20 x)⁹ e^(−20 x)."""
    model, n, counts = exact((1, 1, 1), name="ancestral", steps=100, batch_size=2048), 2048, Counts(20.0, (0.0, 1.0))
    seen = Observation(TASKS["denoise"]((1, 1, 1), (0.0, 1.0), None), jnp.full((1, 1, 1, 1), 9 / 20), 0.0, counts)
    x = np.linspace(1e-4, 2, 4000)
    weights = np.exp(-0.5 * ((x - MEAN) / STD) ** 2 + 9 * np.log(20 * x) - 20 * x)
    mean = np.average(x, weights=weights)
    std = np.average((x - mean) ** 2, weights=weights) ** 0.5
    drawn = draw_posterior(model, "tds", {"threshold": 0.5}, seen, n=n, seed=1)
    # Particles are drawn again at half their number in effect: 4.5 s.e. of n/2, and 2 % for 100 steps
    assert abs(drawn.x.mean() - mean) < 4.5 * std / np.sqrt(n / 2) + 0.02 * std
    assert abs(drawn.x.std() / std - 1) < 4.5 / np.sqrt(n) + 0.02
    assert drawn.cost == (102, 101)  # and the last denoise
    guided = draw_posterior(exact((1, 1, 1), steps=40), "dps", {"scale": 1.0}, seen, n=512, seed=1)
    # DPS forgets what x̂0 leaves open: it pulls too hard, towards y, and is too sure
    assert np.sign(guided.x.mean() - mean) == np.sign(9 / 20 - MEAN) and guided.x.std() < std


def test_counts_are_drawn_and_their_residual_is_expected_by_their_sum():
    """Whole numbers of photons in the units of x0; E‖y − A x‖² of the truth is Σ A x/photons: s.e. of 4,096 pixels."""
    examples = Examples("grey", (64, 64, 1), 256, (-1.0, 1.0))
    x, counts = np.full((1, 64, 64, 1), 0.4), Counts(25.0, (-1.0, 1.0))
    seen = inputs.of_truth(examples, TASKS["low_light"]((64, 64, 1), (-1.0, 1.0), None), x, 0.0, 0, counts)
    photons = 25 * (np.asarray(seen.y) + 1) / 2
    np.testing.assert_allclose(photons, photons.round(), atol=1e-4)
    assert abs(photons.mean() - 10) < 4 * np.sqrt(10 / 4096)
    drawn = Posterior(examples.of_picture(x)[None], Cost(1, 0))
    found = results.restored(examples, "low_light", seen, drawn, x)
    residual = results.restoration_numbers(examples, seen, drawn, found)["residual"]
    assert residual["expected"] == pytest.approx(np.sqrt(photons.sum()) / 25)
    assert abs(residual["value"] / residual["expected"] - 1) < 4 * np.sqrt((2 + 1 / 10) / 4096) / 2 + 0.01
    with pytest.raises(InputError, match=r"method pigdm is of Gaussian noise, .* Poisson's: take dps or tds$"):
        draw_posterior(exact(steps=3), "pigdm", {"data_std": 1.0}, seen, n=2)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "method", "options", "products"),
    [
        ("inpaint", "replacement", {}, 0),
        pytest.param("super_resolution", "pigdm", {"data_std": STD}, 7, marks=SLOW),
        pytest.param("inpaint", "pigdm", {"data_std": STD}, 7, marks=SLOW),
        pytest.param("colorize", "tmpd", {}, 14, marks=SLOW),
    ],
)
def test_what_is_observed_without_noise_is_exact_in_the_end(name, method, options, products):
    """Three of Heun's steps and the denoise are 7 network calls."""
    model = exact(steps=3)
    seen = inputs.of_truth(model.examples, task(name), truth(1), 0.0, 0)
    drawn = draw_posterior(model, method, options, seen, n=2)
    again = np.asarray(seen.operator(jnp.asarray(drawn.x[0])))
    y = np.broadcast_to(seen.y, again.shape)
    if name == "inpaint":
        np.testing.assert_array_equal(again, y)
    np.testing.assert_allclose(again, y, atol=1e-6)  # rounding of numbers of size 1
    assert drawn.cost == (7, products)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "products"),
    [("dps", {"scale": 0.1}, 7), ("tmpd", {}, 14), ("mmps", {"n_steps": 3}, 28)],
)
def test_vector_jacobian_products_are_counted(method, options, products):
    """MMPS takes n_steps + 1 of a call."""
    model = exact(steps=3)
    seen = inputs.of_truth(model.examples, task("inpaint"), truth(1), 0.1, 0)
    assert draw_posterior(model, method, options, seen, n=2).cost == (7, products)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_restores_from_the_command_s_options(method):
    """Half of Gaussian pixels: what was observed is within 0.3 of y, where the prior's draws are 0.35 away."""
    model, row = exact(name="ancestral", steps=40), METHODS[method]
    given = {"dps_ancestral": [("step_size", "0.1")], "dps": [("scale", "0.3")], "daps": [("data_std", "0.25")]}
    chosen = chosen_options(f"method {method}", row.make, given.get(method, []), without=("noise_std",))
    noise = 0.0 if row.require is not _any else 0.1
    seen = inputs.of_truth(model.examples, task("inpaint"), truth(1), noise, 0)
    found = draw_posterior(model, method, chosen, seen, n=64)
    assert np.isfinite(found.x).all() and found.cost.calls >= 40
    observed = np.asarray(seen.operator(found.x[0]) - seen.y)
    assert np.sqrt((observed**2).sum() / (64 * 36)) < (1e-6 if noise == 0 else 0.3)


@pytest.mark.slow
def test_what_depends_on_x_is_scaled_by_its_calls():
    """The adaptive flow's calls are those of the samples that were drawn, with one product each by DPS."""
    model = exact(name="probability_flow", probability_flow={"rtol": 1e-2, "atol": 1e-2})
    seen = inputs.of_truth(model.examples, task("inpaint"), truth(1), 1.0, 0)
    cost = draw_posterior(model, "dps", {"scale": 0.1}, seen, n=2).cost
    assert cost.calls == cost.products > 7


@pytest.mark.slow
def test_a_sample_depends_on_its_picture_and_its_index_alone():
    """Whatever is drawn beside it."""
    model = exact(steps=3, batch_size=2)
    seen = inputs.of_truth(model.examples, task("inpaint"), truth(2), 0.1, 0)
    whole = draw_posterior(model, "pigdm", {"data_std": 1.0}, seen, n=3, seed=3).x
    fewer = draw_posterior(model, "pigdm", {"data_std": 1.0}, seen._replace(y=seen.y[:1]), n=2, seed=3).x
    np.testing.assert_allclose(fewer, whole[:1, :2], rtol=1e-5, atol=1e-6)
    assert len(np.unique(whole.round(4)[..., 1, 1, 0])) == 6


@pytest.mark.parametrize(
    ("method", "options", "name", "noise", "message"),
    [
        (
            "pigdm",
            {"data_std": 1.0},
            "phase_retrieval",
            0.1,
            "pigdm needs an operator with its singular values, .* mag",
        ),
        ("tmpd", {}, "quantized", 0.1, "tmpd needs a linear operator, .* got quantized_to_levels: take dps or mmps"),
        ("replacement", {}, "saturated", 0.0, "replacement needs an operator with its singular values"),
        ("replacement", {}, "inpaint", 0.1, "takes what is observed for exact, got --noise_std: give 0, or take pigdm"),
        ("dps", {"scale": 1.0}, "inpaint", 0.0, "dps: noise_std must be positive, got 0"),
    ],
)
def test_a_method_that_does_not_suit_the_task_is_refused(method, options, name, noise, message):
    model = exact(steps=3)
    operator = task(name, **({"size": 3} if name == "deblur" else {}))
    seen = inputs.of_truth(model.examples, operator, truth(1), noise, 0)
    with pytest.raises(InputError, match=message):
        draw_posterior(model, method, options, seen, n=2)


def test_a_class_is_of_a_conditional_model():
    model = exact(steps=3)
    seen = Observation(task("denoise"), jnp.zeros((1, *SHAPE)), 0.1)
    classes = replace(model.examples, names=("cat", "dog"), occurring=(0, 1), null_label=False)
    with pytest.raises(InputError, match="label -1, any, was never learned by this model: give every label, 0 to 1"):
        draw_posterior(replace(model, examples=classes), "pigdm", {"data_std": 1.0}, seen, n=2)
    with pytest.raises(InputError, match="labels must be 0 to 1, or -1 for any, got 2 to 2"):
        draw_posterior(replace(model, examples=classes), "pigdm", {"data_std": 1.0}, seen, n=2, label=2)


def asked(**changes):
    flags = {"input": [], "truth": [], "held_out": None, "mask": None, "noise_std": 0.0, "task": "inpaint"}
    return SimpleNamespace(**flags | {"method": "pigdm"} | changes)


def test_a_request_is_read(tmp_path):
    save(tmp_path / "mask.png", np.full((4, 4), 255))
    save(tmp_path / "b" / "x.png", np.zeros((4, 4, 3)))
    given = asked(truth=[str(tmp_path / "b")], mask=str(tmp_path / "mask.png"), method="mmps", noise_std=0.1)
    found = condition.request(given, task=[], method=[("n_steps", "2")])
    assert found.truth == [tmp_path / "b" / "x.png"] and found.mask == tmp_path / "mask.png"
    assert found.method_options == {"n_steps": 2} and found.task_options == {"box": 0.5} and not found.given


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"noise_std": -0.1}, {}, "--noise_std is a standard deviation, 0 or more, got -0.1"),
        ({"noise_std": float("nan")}, {}, "0 or more, got nan"),
        ({"input": ["a.png"], "truth": ["b.png"]}, {}, "--input and --truth exclude each other"),
        ({"truth": ["b.png"], "held_out": 3}, {}, "--truth and --held_out exclude each other"),
        ({"input": ["nowhere/a.png"]}, {}, "nowhere/a.png: no such file or folder; expected a picture"),
        ({"mask": "nowhere.png"}, {}, "nowhere.png: no such file"),
        ({"mask": "m.png", "task": "deblur"}, {}, "--mask is of task inpaint, and the task is deblur"),
        ({"mask": "m.png"}, {"task": [("box", "0.5")]}, "--mask and --task.box exclude each other"),
        ({"input": ["a.png"], "task": "phase_retrieval"}, {}, "what phase_retrieval observes is no picture: give --tr"),
        ({}, {"task": [("factor", "2")]}, "task inpaint has no option 'factor': choose one of box$"),
        ({"task": "colorize"}, {"task": [("factor", "2")]}, "task colorize has no option 'factor': it has none$"),
        (
            {"task": "low_light"},
            {},
            "method pigdm is of Gaussian noise, and that of counted light is Poisson's: take d",
        ),
        (
            {"task": "low_light", "noise_std": 0.1},
            {},
            "the noise of task low_light is Poisson's, by --task.photons: le",
        ),
        ({}, {"method": [("noise_std", "1")]}, "method pigdm has no option 'noise_std': choose one of data_std"),
        (
            {"method": "mmps"},
            {"method": [("n_steps", "1.5")]},
            "--method.n_steps is a whole number, such as 1, got '1.5'",
        ),
        ({}, {"task": [("box", "half")]}, "--task.box is a number, such as 0.5, got 'half'"),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_is_opened(changes, options, message):
    with pytest.raises(InputError, match=message) as error:
        condition.request(asked(**changes), **({"task": [], "method": []} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("super_resolution", {"factor": 0}, "task super_resolution: factor must be at least 1, got 0"),
        ("low_light", {"photons": 0.0}, "task low_light: photons must be positive, got 0.0"),
        ("phase_retrieval", {"padding": -1}, "task phase_retrieval: padding must be at least 0, got -1"),
        ("saturated", {"black": 0.7}, "task saturated: black must be below white, got 0.7 and 0.6"),
        ("inpaint", {"box": 1.5}, "box: rows -1 to 4, columns -1 to 4 are not inside images of 4×4"),
        ("random_mask", {"share": 1.0}, "random_mask: share is between 0 and 1, got 1.0"),
        ("deblur", {"size": 0}, "gaussian_kernel: size must be at least 1, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        task(name, **options)


def test_an_option_without_a_default_is_asked_for():
    def wanting(sampler, *, n_resample):
        """As RePaint is."""

    assert chosen_options("method wanting", wanting, [("n_resample", "3")]) == {"n_resample": 3}
    with pytest.raises(InputError, match=r"method wanting needs --method\.n_resample=NUMBER"):
        chosen_options("method wanting", wanting, [])


def save(path, x):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(x, np.uint8)).save(path)
    return path


def test_a_mask_is_black_and_white_and_of_the_networks_size(tmp_path):
    pattern = np.zeros((4, 4), np.uint8)
    pattern[1:] = 255
    for x in (pattern, np.repeat(pattern[..., None], 3, -1)):
        mask = inputs.read_mask(save(tmp_path / "mask.png", x), SHAPE)
        np.testing.assert_array_equal(mask[..., 0], pattern == 255)
    with pytest.raises(InputError, match=r"mask.png: is 5×4 pixels, and the network's images are 4×4: bring it"):
        inputs.read_mask(save(tmp_path / "mask.png", np.zeros((5, 4))), SHAPE)
    pattern[2, 2] = 128
    with pytest.raises(InputError, match=r"has grey levels such as 128: a mask is black, 0, .* white, 255, where they"):
        inputs.read_mask(save(tmp_path / "mask.png", pattern), SHAPE)


def test_pictures_are_read_as_the_network_has_them(tmp_path):
    x = np.arange(48).reshape(SHAPE)
    found = inputs.read_pictures([save(tmp_path / "a.png", x), save(tmp_path / "b.png", x + 9)], SHAPE, "images are")
    np.testing.assert_allclose(found.x * 255, [x, x + 9], atol=1e-4)
    with pytest.raises(InputError, match=r"small.png: is 2×2 pixels, and what bicubic observes is 4×4: bring it"):
        inputs.read_pictures([save(tmp_path / "small.png", x[:2, :2])], SHAPE, "what bicubic observes is")
    with pytest.raises(InputError, match=r"grey.png: has mode L, expected RGB \(channels=3\); save it as such"):
        inputs.read_pictures([save(tmp_path / "grey.png", x[..., 0])], SHAPE, "images are")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((tmp_path / "a.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"damaged.png: not a readable image .*; mend or remove it"):
        inputs.read_pictures([damaged], SHAPE, "images are")
    with pytest.raises(InputError, match=r"empty: holds no image .*; expected a picture, or a folder of some"):
        (tmp_path / "empty").mkdir()
        data.picture_files(tmp_path / "empty")


def test_a_picture_is_seen_in_the_middle_of_its_grey_levels_cell():
    """The mean of what training makes of a grey level: (x + ½)/17 on [−1, 1], and back."""
    examples = Examples("digits", (8, 8, 1), 17, (-1.0, 1.0), dequantized=True)
    stored = np.arange(17, dtype=np.uint8).reshape(-1, 1)
    many = data.images.prepare(jax.random.key(0), np.repeat(stored, 4096, 1), grey_levels=17, value_range=(-1.0, 1.0))
    pixels = examples.of_picture(stored / 16)
    np.testing.assert_allclose(pixels[:, 0], many.mean(1), atol=4 * 2 / 17 / np.sqrt(12 * 4096))
    np.testing.assert_allclose(examples.to_picture(pixels), stored / 16, atol=1e-6)
    assert examples.contrast == pytest.approx(2 * 16 / 17)
    plain = Examples("plain", (8, 8, 1), 256, (0.0, 1.0))
    np.testing.assert_array_equal(plain.of_picture(stored / np.float32(16)), stored / np.float32(16))


def test_a_hidden_pixel_of_a_picture_is_never_looked_at():
    examples, operator = exact().examples, task("inpaint")
    x = truth(1)
    other = np.where(operator.mask, x, 7.0)
    for found in (x, other):
        y = inputs.as_given(examples, operator, found, 0.1).y
        np.testing.assert_array_equal(y, np.where(operator.mask, x, 0))


def test_numbers_are_those_of_the_metrics():
    """Samples off by 0.1 and −0.1: PSNR of 20 dB each, and an exact mean; the residual is 0.1 √48 of 48 numbers."""
    model, x = exact().examples, 0.3 + 0.1 * np.arange(48, dtype=np.float32).reshape(1, *SHAPE) / 48
    seen = Observation(task("denoise"), jnp.asarray(x), 0.05)
    drawn = Posterior(np.stack([x[0] + 0.1, x[0] - 0.1])[None], Cost(9, 0))
    restored = results.restored(model, "denoise", seen, drawn, x)
    numbers = results.restoration_numbers(model, seen, drawn, restored)
    assert numbers["psnr"]["value"] == pytest.approx(20, rel=1e-5) and numbers["psnr"]["standard_error"] is None
    assert numbers["psnr_of_mean"]["value"] > 100  # rounding
    assert numbers["ssim"]["window"] == 3 and numbers["ssim_of_mean"]["value"] == pytest.approx(1)
    by_hand = metrics.ssim(jnp.asarray(drawn.x[0]), jnp.repeat(jnp.asarray(x), 2, 0), window=3).mean()
    assert numbers["ssim"]["value"] == pytest.approx(float(by_hand), rel=1e-5)
    assert numbers["residual"]["value"] == pytest.approx(0.1 * 48**0.5, rel=1e-5)
    assert numbers["residual"]["expected"] == pytest.approx(0.05 * 48**0.5)
    np.testing.assert_allclose(restored.std, 0.1 * 2**0.5, rtol=1e-5)


def test_observations_of_any_size_are_shown_beside_samples():
    """Means of blocks as blocks, grey as grey, magnitudes up to the largest, what is hidden in the middle grey."""
    examples, drawn = exact().examples, Posterior(np.zeros((2, 1, *SHAPE)), Cost(1, 0))
    shown = {}
    for name in ("super_resolution", "colorize", "phase_retrieval", "inpaint"):
        seen = inputs.of_truth(examples, task(name), truth(2), 0.1, 0)
        found = results.restored(examples, name, seen, drawn, None)
        shown[name] = found.observed
        tiles = results.figure(found).axes[0].images[0].get_array()  # observed, sample, mean, std, a pixel apart
        assert tiles.shape[:2] == (2 * 5 - 1, 4 * 5 - 1)
        if name == "super_resolution":
            blocks = np.round(255 * found.observed[0]).repeat(2, 0).repeat(2, 1)
            np.testing.assert_array_equal(tiles[:4, :4], blocks)
    assert shown["colorize"].shape == (2, 4, 4, 1) and shown["phase_retrieval"].shape == (2, 12, 12, 3)
    assert shown["phase_retrieval"].min() >= 0 and (shown["phase_retrieval"].max((1, 2, 3)) == 1).all()
    assert (shown["inpaint"][:, 1:3, 1:3] == 0.5).all()


def test_other_results_and_other_files_are_never_replaced(tmp_path):
    results.require_free(tmp_path / "new", {"n": 1})
    (tmp_path / "condition.json").write_text(json.dumps({"conditions": {"n": 1, "box": [1]}}))
    results.require_free(tmp_path, {"n": 1, "box": (1,)})
    with pytest.raises(InputError, match="holds other files: give a new folder, --out=FOLDER"):
        results.require_free(tmp_path, {"n": 2})
    (tmp_path / "condition.json").unlink()
    (tmp_path / "mean.png").touch()
    with pytest.raises(InputError, match="holds other files"):
        results.require_free(tmp_path, {"n": 1})


def test_attributions_stand_below_figures_and_beside_pictures(tmp_path):
    note, tiles = "Digits by E. Alpaydin & C. Kaynak", np.zeros((2, 4, 4, 1))
    heights = []
    for folder, told in [(tmp_path / "without", ""), (tmp_path / "with", note)]:
        saved = plotting.save_figure(plotting.image_grid(tiles), folder / "classes.png", note=told)
        heights.append(Image.open(saved).height)
        assert pictures.write_attribution(folder, told) == ([folder / "attribution.txt"] if told else [])
    assert heights[1] > heights[0]
    assert (tmp_path / "with" / "attribution.txt").read_text() == f"{note}\n"
    assert "Digits by E. Alpaydin &amp; C. Kaynak" in page.picture(tmp_path / "with" / "classes.png", "samples")
    assert "small" not in page.picture(tmp_path / "without" / "classes.png", "samples")


def restore(folder, *more):
    """Runs the command on a tiny run, which is trained if it isn't there."""
    if not (folder / "run").exists():
        run.train(build.experiment(tiny_digits()), folder / "run")
    arguments = ["--task=inpaint", "--method=mmps", "--method.n_steps=2", "--noise_std=0.1", "--held_out=2", "--n=3"]
    arguments += [f"--workdir={folder / 'run'}", "--sampler=heun", "--steps=3", f"--out={folder / 'out'}", *more]
    command = [sys.executable, "experiments/condition.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_command_writes_what_its_help_says(tmp_path):
    done = restore(tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "condition.json").read_text())
    assert (told["network_calls"], told["vector_jacobian_products"], told["not_finite"]) == (7, 21, 0)
    assert told["residual"]["expected"] == pytest.approx(0.1 * 48**0.5) and told["psnr"]["pictures"] == 2
    assert told["conditions"]["method_options"] == {"n_steps": 2} and told["conditions"]["step"] == 40
    saved = np.load(tmp_path / "out" / "samples.npz")
    assert saved["x"].shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(saved["mean"], saved["x"].mean(1), atol=1e-6)
    by_hand = np.mean(metrics.psnr(jnp.asarray(saved["mean"]), jnp.asarray(saved["truth"])))
    assert told["psnr_of_mean"]["value"] == pytest.approx(float(by_hand), rel=1e-5)
    kept = {path.name for path in (tmp_path / "out" / "1").iterdir()}
    assert kept == {"mean.png", "observed.png", "std.png", "truth.png", *(f"sample-0{i}.png" for i in range(3))}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"0", "1", "condition.json", "restored.png", "samples.npz"}
    shown = np.asarray(Image.open(tmp_path / "out" / "1" / "sample-02.png"))
    np.testing.assert_array_equal(shown, np.round(255 * saved["x"][1, 2, ..., 0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task=paint"], "value should be one of <inpaint|random_mask|super_resolution|"),
        (["--method=ddrn"], "value should be one of <replacement|repaint|ilvr|"),
        (["--task.size=3"], "task inpaint has no option 'size': choose one of box"),
        (["--task=colorize"], "task colorize is of colour images, and this network's are (8, 8, 1)"),
        (["--held_out=9999"], "--held_out=9999: 297 examples of digits are held out"),
        (["--label=11"], "there is no class '11'"),
        (["--step=3"], "3"),
        ([], "holds other files: give a new folder, --out=FOLDER"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(tmp_path, more, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    done = restore(tmp_path, *more)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

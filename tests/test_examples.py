"""The examples: they run in small, and their numbers are those that theory or the data ask for."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def example(name):
    """The module of an example, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_new_process(name, *arguments):
    """Runs an example as its reader does: on one device, not on the eight virtual ones of the tests."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    command = [sys.executable, FOLDER / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


def is_drawn(path):
    """Whether a picture is there and not of one colour."""
    return np.ptp(np.asarray(Image.open(path).convert("L"))) > 0


def test_minimal_learns_eight_gaussians(tmp_path):
    samples, other = example("minimal").main(tmp_path, steps=1000)
    # Of 2,000 points to as many others the energy distance has a standard error of 0.001 where the laws agree.
    assert abs(other) < 0.004
    assert samples < 0.01  # and the learned score's own error; 0.64 of the noise that they come from
    assert is_drawn(tmp_path / "minimal.png")


def test_minimal_is_short_and_of_the_core_alone():
    text = (FOLDER / "minimal.py").read_text()
    assert len(text.splitlines()) <= 60
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert modules == {"jax", "jax.numpy", "optax", "sys"}
    (of_the_package,) = (node for node in nodes if isinstance(node, ast.ImportFrom))
    assert of_the_package.module == "score_jax" and "lab" not in {name.name for name in of_the_package.names}


def test_an_array_of_yours_is_learned_and_sampled_in_its_own_units(tmp_path):
    x = example("your_data").sine_waves(2000)
    np.save(tmp_path / "mine.npy", x)
    printed = in_new_process("your_data", tmp_path / "mine.npy", f"--workdir={tmp_path / 'run'}", "--steps=500")
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert f"samples {numbers['samples']:.4f}" in printed
    # Of 200 examples to as many others the energy distance has a standard deviation of 0.027, of twenty such pairs.
    assert abs(numbers["training_examples"]) < 4 * 0.027
    assert abs(numbers["samples"]) < 0.05 + 4 * 0.027  # and what 500 steps leave; 0.55 of Gaussian noise
    samples = np.load(tmp_path / "run" / "samples.npy")
    # 1,000 samples of standard deviation 0.75 have means with a standard error of 0.024; the waves are around 5.
    assert samples.shape == (1000, 32)
    assert np.abs(samples.mean(0) - x.mean(0)).max() < 0.05 + 4 * 0.024


@pytest.mark.parametrize(("side", "channels", "network"), [(8, 1, "mlp"), (20, 3, "unet")])
def test_a_folder_of_images_of_yours_is_a_source(tmp_path, side, channels, network):
    yours, rng = example("your_data"), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, side, side, channels), np.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.squeeze()).save(tmp_path / f"{i}.png")
    source, in_units = yours.source_of(tmp_path, channels=channels)
    np.testing.assert_array_equal(source.batch(np.arange(5))["x"], pictures)
    np.testing.assert_array_equal(in_units(pictures), pictures)
    assert yours.config_of(source, steps=10).network.name == network


def test_an_nnx_network_learns_the_score():
    errors, (samples, other) = example("nnx").main(steps=1000, width=64, depth=2)
    assert (errors[:2] < 0.8).all() and (errors[2:] < 0.05).all()  # of 1 without a score; detail is learned last
    # Of 2,000 points to as many others the standard error is 0.001 where the laws agree.
    assert abs(other) < 0.004 and samples < 0.02


def test_the_posterior_of_a_gaussian_is_exact_and_of_a_mixture_approached_by_particles():
    conditional = example("conditional")
    off, _ = conditional.compare(conditional.GAUSSIAN, ["MMPS"], n=4000, steps=400)
    # The posterior covariance C has trace 0.96, so the mean of 4,000 a standard error of √(0.96/4000) = 0.015, and the
    # covariance one of √((0.96² + ‖C‖²)/4000) = 0.02; without a condition they are off by 0.13 and 0.63.
    assert off["MMPS"]["mean"] < 4 * 0.015 and off["MMPS"]["covariance"] < 4 * 0.02
    off, _ = conditional.compare(conditional.THREE, ["TDS"], n=4000, steps=100)
    # Particles are not independent: 4 standard errors, 0.022, of a quarter as many. Without a condition 0.48.
    assert off["TDS"]["mean"] < 4 * 0.022 * 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_shows_how_it_is_run_and_what_it_takes(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"python examples/{name}.py" in text and "core-seconds" in text

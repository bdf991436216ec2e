"""The studies show what their READMEs claim, at a size that fits a test; and no README lacks its result."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import study
from experiments.manifold_noise import __main__ as manifold_noise
from experiments.mode_weights import __main__ as mode_weights
from experiments.score_accuracy import __main__ as score_accuracy
from experiments.small_noise import __main__ as small_noise

FOLDERS = sorted(path.parent for path in Path(study.__file__).parent.glob("*/README.md"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_study_has_its_result_and_pictures(folder):
    page = (folder / "README.md").read_text()
    result = page.split("<!-- result -->")[1].split("<!-- /result -->")[0]
    assert result.count("\n|") >= 3 and ("seed" in result or "medians" in result)
    assert f"python -m experiments.{folder.name}" in page
    pictures = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert pictures and all((folder / name).exists() for name in pictures)


@pytest.mark.slow
def test_annealed_langevin_weighs_modes_and_langevin_does_not():
    rows = {row["method"]: row for row in mode_weights.run(1).rows}
    weight = lambda name: rows[name]["weight of (5, 5)"]  # noqa: E731
    # Langevin keeps the start's share, ½, to 4 s.e. = 4 √(¼/1280); annealed is within 4 s.e. and its finite-time bias.
    assert abs(weight("Langevin") - 0.5) < 0.06
    for name in ("annealed Langevin", "annealed, density convolved"):
        assert abs(weight(name) - 0.8) < 4 * 0.0112 + 0.02
    for row in rows.values():
        # The variance of 2·1280 residuals has the relative standard error √(2/2560) = 0.028.
        assert abs(row["variance in a mode"] / row["expected variance"] - 1) < 4 * 0.028


@pytest.mark.slow
def test_a_learned_score_is_accurate_only_near_the_data():
    rows = score_accuracy.run(1, steps=2000).rows
    error = {row["distance to the nearest mode"]: row["error E‖s − s*‖²"] for row in rows}
    near = max(error["0 to 1"], error["1 to 2"], error["2 to 3"])
    assert near < 0.3 and error["6 to 12"] > 30 * near


@pytest.mark.slow
def test_the_control_variate_takes_off_variance_at_every_level(monkeypatch):
    monkeypatch.setattr(small_noise, "SIGMAS", (0.001, 0.05, 1.0))
    monkeypatch.setattr(small_noise, "DRAWS", 64)
    rows = small_noise.run(1, steps=300).rows
    for row in rows:
        assert row["… with c(σ)"] < 1.05 * row["variance of the loss"]
        assert row[".. with c(σ)"] < 1.05 * row["variance of the gradient"]
    assert rows[0]["… with c(σ)"] < 1e-3 * rows[0]["variance of the loss"]
    assert rows[0][".. with c(σ)"] < 1e-3 * rows[0]["variance of the gradient"]
    assert rows[-1]["… with c = 1"] > 2 * rows[-1]["variance of the loss"]


@pytest.mark.slow
def test_noise_settles_the_loss_of_data_on_a_manifold():
    without, noisy = manifold_noise.run(1, steps=8000).rows
    assert without["last tenth / second half"] > 1.3 and without["mean loss, second half"] < -5000
    assert noisy["last tenth / second half"] < 1.15
    assert noisy["mean loss, second half"] > -0.5 / 0.01**2


def test_a_result_replaces_the_one_before_and_nothing_else(tmp_path, capsys):
    (tmp_path / "README.md").write_text("claim\n<!-- result -->\nold\n<!-- /result -->\nend\n")
    figure = mode_weights.plotting.curves({"a": (np.arange(3), np.arange(3))}, xlabel="x", ylabel="y")
    result = study.Result([{"a": 1.23456, "b": "x"}], {"a.png": figure}, f"seed 0, {jax.__version__}.")
    study.publish(tmp_path, result, 1.0)
    page = (tmp_path / "README.md").read_text()
    assert "old" not in page and "| a | b |\n| --- | --- |\n| 1.235 | x |" in page
    assert page.startswith("claim\n") and page.endswith("end\n") and (tmp_path / "a.png").exists()
    assert "a.png" in capsys.readouterr().out

"""The studies show what their READMEs claim, at a size that fits a test; and no README lacks its result."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fashion_mnist
from experiments.studies import of_sweep, study
from experiments.studies.ablation_objectives import sweep as ablation_objectives
from experiments.studies.ddpm_equivalence import __main__ as equivalence
from experiments.studies.ddpm_equivalence import (
    coordinates,
    discretisation,
    identities,
    networks,
    objectives,
    oracle,
    samplers,
)
from experiments.studies.fast_config import sweep as fast_config
from experiments.studies.few_steps import __main__ as few_steps
from experiments.studies.manifold_noise import __main__ as manifold_noise
from experiments.studies.mode_weights import __main__ as mode_weights
from experiments.studies.ncsn_techniques import __main__ as ncsn_techniques
from experiments.studies.objective_cost import __main__ as objective_cost
from experiments.studies.score_accuracy import __main__ as score_accuracy
from experiments.studies.small_noise import __main__ as small_noise
from score_jax import arrays, data, metrics
from score_jax.lab import build, run

FOLDERS = sorted(path.parent for path in Path(study.__file__).parent.glob("*/README.md"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_study_has_its_result_and_pictures(folder):
    page = (folder / "README.md").read_text()
    result = "".join(re.findall(r"<!-- result.*? -->\n(.*?)<!-- /result", page, re.DOTALL))
    assert result.count("\n|") >= 3 and ("seed" in result or "medians" in result)
    of_a_sweep = f"experiments/sweep.py --sweep=experiments/studies/{folder.name}/sweep.py"
    assert (of_a_sweep if (folder / "sweep.py").exists() else f"python -m experiments.studies.{folder.name}") in page
    pictures = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert pictures and all((folder / name).exists() for name in pictures)


@pytest.mark.slow
def test_annealed_langevin_weighs_modes_and_langevin_does_not():
    rows = {row["method"]: row for row in mode_weights.run(1).rows}
    weight = lambda name: rows[name]["weight of (5, 5)"]
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
def test_released_third_order_is_ahead_on_karras_grid_of_fifteen_steps(monkeypatch):
    """.043 against .068 in the study; lower orders at the end are what matters in five steps."""
    monkeypatch.setattr(few_steps, "MIXTURES", {"wide": few_steps.exact.SKEWED})
    monkeypatch.setattr(few_steps, "FEW", (5,))
    monkeypatch.setattr(few_steps, "MORE", (15,))
    released = "3M, halved (released)"
    found = few_steps.errors({name: few_steps.METHODS[name] for name in ("3M", released)})
    at = lambda name, limit, steps: few_steps.mean(found[name, limit], "karras", (steps,))
    assert at(released, few_steps.RELEASED, 15) < 0.8 * at("3M", "long", 15)
    for name in ("3M", released):
        assert at(name, "last", 5) < 0.5 * at(name, "never", 5)


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


def test_the_exact_trace_takes_a_pass_for_each_dimension_and_the_others_a_fixed_number():
    """In floating-point operations of one gradient, as XLA counts them: the study's times without their noise."""

    def operations(name, dims):
        program, init = objective_cost.gradient(objective_cost.OBJECTIVES[name], dims)
        arguments = jax.random.key(0), jax.ShapeDtypeStruct((8, dims), np.float32)
        return program.lower(jax.eval_shape(init, *arguments), *arguments).cost_analysis()["flops"]

    few, many = ({name: operations(name, d) for name in objective_cost.OBJECTIVES} for d in (16, 64))
    for name in ("FD-SSM", "SSM", "SSM-VR"):
        # Two passes (a score and its derivative, or two scores) where DSM takes one.
        assert few[name] / few["DSM"] == pytest.approx(2, abs=0.1) == many[name] / many["DSM"]
    for counts, dims in ((few, 16), (many, 64)):
        # d derivatives and the score; what is shared between derivatives makes each a little less than a pass.
        assert counts["exact ISM"] / counts["DSM"] == pytest.approx(dims + 1, rel=0.07)


def test_a_result_replaces_the_one_before_and_nothing_else(tmp_path, capsys):
    (tmp_path / "README.md").write_text("claim\n<!-- result -->\nold\n<!-- /result -->\nend\n")
    figure = mode_weights.plotting.curves({"a": (np.arange(3), np.arange(3))}, xlabel="x", ylabel="y")
    result = study.Result([{"a": 1.23456, "b": "x"}], {"a.png": figure}, f"seed 0, {jax.__version__}.")
    study.publish(tmp_path, result, 1.0)
    page = (tmp_path / "README.md").read_text()
    assert "old" not in page and "| a | b |\n| --- | --- |\n| 1.235 | x |" in page
    assert page.startswith("claim\n") and page.endswith("end\n") and (tmp_path / "a.png").exists()
    assert "a.png" in capsys.readouterr().out


def test_a_sweep_is_put_between_the_marks_of_its_name(tmp_path):
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "table.md").write_text("| a |\n")
    (tmp_path / "out" / "figures" / "bars_a.png").write_bytes(b"picture")
    page = "words\n<!-- result -->\nkept\n<!-- /result -->\n<!-- digits -->\n{}\n<!-- /digits -->\n"
    (tmp_path / "README.md").write_text(page.format("old"))
    of_sweep.publish(tmp_path / "out", tmp_path, "digits", ["bars_a.png:error.png", "bars_a.png"])
    assert (tmp_path / "README.md").read_text() == page.format("| a |\n")
    assert (tmp_path / "error.png").read_bytes() == (tmp_path / "bars_a.png").read_bytes() == b"picture"


def test_each_cell_changes_what_its_technique_names_and_nothing_else(monkeypatch):
    trained = []
    monkeypatch.setattr(ncsn_techniques, "trained", lambda config: trained.append(config) or len(trained))
    monkeypatch.setattr(ncsn_techniques, "sampled_by", lambda config, run: run)
    start = ncsn_techniques.baseline(0, 100)
    changes = ncsn_techniques.techniques(11.2, 14 * 14, start.sde.ve.sigma_min)
    found = dict(ncsn_techniques.cells(start, changes))
    assert [cell.run for cell in found.values()] == [1, 2, 3, 4, 4, 4, 4]
    settings = [dict(leaves(cell.config.to_dict())) for cell in found.values()]
    for before, after, changed in zip(settings[:-1], settings[1:], list(changes.values())[1:], strict=True):
        assert {key for key in after if after[key] != before[key]} == set(changed)
    for values in settings:
        assert values["sampler.steps"] * values["sampler.annealed_langevin.n_steps"] == ncsn_techniques.CALLS
    # Rule 2 in 196 dimensions: γ = 1.1786, so 1 + ln(1120)/ln γ = 43.7 levels; γ = 1.1774 with 44, and the h that
    # minimises (1 − h)^10 (γ² − b) + b, b = 1/(1 − h/2), is 0.175: ε = 2 σ_L² h.
    assert settings[2]["sampler.steps"] == settings[2]["times.discrete.n"] == 44
    assert settings[4]["sampler.annealed_langevin.step_size"] == pytest.approx(3.503e-5, rel=1e-3)


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def test_a_completion_keeps_what_is_given(tmp_path):
    config = ncsn_techniques.baseline(0, 100)
    config.data.update(name="digits", size=0)
    config.network.name, config.parameterization.name = "mlp", "eps"
    config.network.mlp.hidden = (4,)
    config.sampler.steps, config.sampler.denoise = 3, True
    images = data.digits(split="test").batch(np.arange(5))["x"] / np.float32(16)
    mask = np.arange(8)[None, :, None] < 4
    experiment = build.experiment(config)
    cell = ncsn_techniques.Cell(config, run.of_state(experiment, run.first_state(experiment), tmp_path))
    filled = np.asarray(ncsn_techniques.completed(jax.random.key(0), cell, images, mask))
    assert (filled[:, :, :4] == images[:, :, :4]).all()
    assert (abs(filled - images)[:, :, 4:] > 0.01).mean() > 0.5


def test_the_table_tells_data_from_noise():
    digits = {split: data.digits(split=split) for split in ("train", "test")}
    train = ncsn_techniques.pool(digits["train"], np.arange(1000))
    held_out = ncsn_techniques.pool(digits["test"], np.arange(200))
    fresh = ncsn_techniques.pool(digits["test"], np.arange(200, 296))["x"]  # groups of one size: one program
    judge = metrics.train_classifier(train["x"], train["label"])
    noise = np.random.default_rng(0).uniform(size=fresh.shape).astype(np.float32)
    real, fake = (ncsn_techniques.row("", x, train, held_out, judge) for x in (fresh, noise))
    for of in ("pixels", "features"):
        # Unbiased, so 0 for fresh data within 4 s.e. of both halves; noise is 18 s.e. away and more.
        assert abs(real[f"energy distance, {of}"]) < 4 * 2**0.5 * real[f"± (s.e.), {of}"]
        assert fake[f"energy distance, {of}"] > 10 * fake[f"± (s.e.), {of}"]
    assert abs(real["neighbour ratio"] - 1) < 0.15 and fake["neighbour ratio"] > 1.5
    assert real["confidence"] > 0.9 > fake["confidence"]


def test_the_jackknife_is_the_standard_error_of_a_mean():
    x = np.random.default_rng(0).normal(size=64)
    error = ncsn_techniques.jackknife(np.mean, x, groups=64)  # of single rows: σ/√n, exactly
    assert error == pytest.approx(x.std(ddof=1) / 8, rel=1e-9)


def test_the_identities_of_ddpm_hold_at_every_step_of_its_table():
    found = identities.errors(identities.DATA["three Gaussians in the plane"], 1, 1, x64=True)
    assert len(found) == 5
    for name, errors in found.items():
        # In float64; 1e-9 leaves 1/√ᾱ = 157 and 1/(1 − ᾱ) = 1e4 their rounding.
        assert errors.shape == (1000,) and errors.max() < 1e-9, name


@pytest.mark.slow
def test_l_simple_and_weighted_denoising_train_the_same_parameters():
    found = objectives.compared(1, 20, 8, x64=True)
    assert abs(found["loss"] - 32) < 1e-12 and found["gradient"] < 1e-12
    for optimizer in ("SGD", "Adam"):
        assert found[optimizer]["taken out"][0] < 1e-10  # 20 steps of rounding
    # With the factor left in, SGD's steps are D/2 = 32 times as long; the first of them at least.
    assert found["SGD"]["left in"][0] > 5


@pytest.mark.slow
def test_ddpm_and_smld_are_discretised_reverse_sdes():
    with jax.enable_x64(True):
        beta, differences = discretisation.step_differences(jax.random.key(1), n=50)
        paths = discretisation.same_paths(jax.random.key(1))
    orders = {name: np.polyfit(np.log(beta), np.log(values), 1)[0] for name, values in differences.items()}
    # The next term is a factor √β or β smaller, with β from 2e-5 to 8e-3: a few hundredths of the slope.
    assert abs(orders.pop("ancestral, transition variance") - 2) < 0.03
    assert len(orders) == 2 and all(abs(order - 1.5) < 0.03 for order in orders.values())
    # 1,000 steps of rounding, on x up to 200 for SMLD.
    assert paths.keys() == {"ancestral", "flow", "smld", "ladder"} and max(paths.values()) < 1e-10


def test_a_change_of_variables_maps_the_flow_and_the_chains_of_one_process_onto_another():
    with jax.enable_x64(True):
        vp, ve = (coordinates.of(name, jax.random.key(1), 10, 5) for name in coordinates.SDES if name[0] == "V")
    truth = coordinates.exact_trajectories()
    for found in (vp, ve):
        assert np.abs(found["mapped"] - truth).max() < 1e-7  # 24 stretches at a tolerance of 1e-9, x up to 100
    assert np.abs(vp["chain"] - ve["chain"]).max() < 1e-10
    assert np.abs(vp["x"] - ve["x"]).max() > 10  # before the change of variables they are far apart


def test_the_order_of_a_sampler_is_the_exponent_of_its_error():
    calls = np.array([10, 20, 40, 80])
    assert abs(oracle.order(calls, 3.0 / calls**2, 0.0) - 2) < 1e-12
    assert abs(oracle.order(calls, np.hypot(5.0 / calls, 0.01), 0.01) - 1) < 1e-9
    assert np.isnan(oracle.order(calls, np.full(4, 0.01), 0.01))


@pytest.mark.slow
def test_samplers_converge_with_their_orders():
    result = samplers.measure(1, points=50, n=20_000, calls=(20, 40, 80), noisy_calls=(10, 20, 40))
    for row in result.rows:
        if row["calls a step"] != 6:
            # Not yet asymptotic at 20 to 80 calls; the stochastic ones are seen behind the noise of 20,000 draws.
            assert abs(row["order measured"] - float(row["expected"])) < 0.6, row
    adaptive = next(row for row in result.rows if row["calls a step"] == 6)
    assert adaptive["80 calls"] < 1e-4


@pytest.mark.slow
def test_networks_trained_as_smld_and_as_ddpm_are_interchangeable():
    size = networks.size(full=False)._replace(steps=300, samples=50, likelihood=32)
    rows = networks.measure(1, chosen=size).rows
    assert [(row["trained as"], row["sampled as"]) for row in rows] == [
        (a, b) for a in ("SMLD", "DDPM") for b in ("SMLD", "DDPM")
    ]
    smld_as_smld, smld_as_ddpm, *ddpm = (float(row["bits/dim, common range"].split()[0]) for row in rows)
    # One flow in two sets of coordinates, integrated to a tolerance of 1e-4 a step.
    assert abs(smld_as_smld - smld_as_ddpm) < 0.02 and abs(ddpm[0] - ddpm[1]) < 0.02
    # Uniform images have log₂ 17 = 4.09; the difference is that of two trainings, seen on 32 images.
    assert smld_as_smld < 3.7 and abs(smld_as_smld - ddpm[0]) < 0.4
    assert min(row["accuracy given the label"] for row in rows) > 0.4  # chance is 0.1


def test_a_part_is_written_between_its_own_marks(tmp_path):
    (tmp_path / "README.md").write_text(
        "<!-- result a -->\nold\n<!-- /result a -->\n<!-- result b -->\n<!-- /result b -->\n"
    )
    equivalence.publish("result b", lambda seed: study.Result([{"|x|": seed}], {}, "seed 3."), 3, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "old" in page.split("<!-- result b -->")[0] and "| \\|x\\| |\n| --- |\n| 3 |" in page
    assert "core-minutes" in page


@pytest.mark.slow
def test_objectives_cost_the_multiplications_that_their_steps_are_cut_by():
    """XLA's count for the gradient of a batch, over denoising's: to 2 % of the study's 1, 2 and 11/3."""

    def counted(settings):
        config = ablation_objectives.get_config()
        config.update_from_flattened_dict(settings)
        made = build.experiment(config)
        keys, x = arrays.example_keys(jax.random.key(0), 256), jnp.zeros((256, 2))

        def loss(params):
            score_fn = made.model.replace(variables={"params": params}).conditioned()
            return made.objective(keys, score_fn, x, made.times).mean()

        return jax.jit(jax.grad(loss)).lower(made.model.variables["params"]).compile().cost_analysis()["flops"]

    one = counted({})
    for name, (settings, cost) in ablation_objectives.OBJECTIVES.items():
        assert abs(counted(settings) / one / cost - 1) < 0.02, name


def test_the_fast_config_is_one_of_those_that_its_study_compares():
    fast = fashion_mnist.get_config("fast")
    parts = ("data", "sde", "parameterization", "weighting", "times", "objective", "network", "optimizer", "sampler")

    def of(config):
        return {part: {**config[part].to_dict(), "batch_size": None} for part in parts}  # as many at once as one likes

    def of_cell(cell):
        config = fast_config.get_config()
        config.update_from_flattened_dict(cell)
        return of(config)

    (chosen,) = (cell for cell in fast_config.get_sweep() if of_cell(cell) == of(fast))
    assert chosen["weighting.learned"] and chosen["times.lognormal.mean"] == -0.6  # the lowest distance of its table

"""The commands as a user meets them: what they write, go on from, and say when something is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits, toy
from score_jax import arrays, data, likelihood, noise_levels, sampling, training
from score_jax import sde as sdes
from score_jax.devices import device_mesh
from score_jax.lab import build, evaluation, measures, published, records, run, samples, settings, show
from score_jax.lab import command as command_line
from score_jax.lab.build import sampling as of_sampling
from score_jax.lab.experiment import Examples, Trained
from score_jax.lab.measures.bound import bound_of_run
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.lab.measures.likelihood import likelihood_of_run
from score_jax.lab.measures.measured import keys
from score_jax.losses import variational
from score_jax.sampling import draw
from score_jax.types import InputError
from tests.helpers import cut_off

ROOT = Path(__file__).parents[2]


def tiny_digits():
    config = digits.get_config("mlp")
    config.network.mlp.hidden = (32,)
    config.training.steps = 40
    config.training.steps_per_dispatch = config.training.log_every = 20
    config.training.checkpoint_every = 20
    config.training.batch_size = 16
    config.optimizer.warmup_steps = 5
    config.sampler.steps, config.sampler.n, config.sampler.batch_size = 4, 8, 16
    config.evaluation.n = 20
    return config


def untrained(config, workdir):
    """The run of a config before its first step."""
    experiment = build.experiment(config)
    return run.of_state(experiment, run.first_state(experiment), workdir)


def by(trained, config):
    """The same trained parameters, in the experiment of another config."""
    experiment = build.experiment(config, before=run.before(trained.workdir))
    return run.of_state(experiment, trained.state, trained.workdir)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A tiny class-conditional digits run, trained to its end."""
    return run.train(build.experiment(tiny_digits()), tmp_path_factory.mktemp("runs") / "digits")


def test_a_run_folder_holds_what_the_readme_says(digits_run):
    written = show.show_run(digits_run)
    numbers = evaluation.evaluate(digits_run)
    expected = {"grid.png", "annealing.png", "annealing.gif", "neighbours.png", "classes.png"}
    expected |= {"loss.png", "loss_by_sigma.png"}
    assert {path.name for path in written} == expected
    for path in written:
        Image.open(path).verify()
    config = json.loads((digits_run.workdir / "config.json").read_text())
    assert config["network"]["mlp"]["hidden"] == [32]
    assert {"devices", "seed"} <= set(json.loads((digits_run.workdir / "environment.json").read_text()))
    records = [json.loads(line) for line in (digits_run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40]
    assert json.loads((digits_run.workdir / "evaluation.json").read_text()) == numbers
    folder = evaluation.evaluation_folder(digits_run, 0)
    assert {path.name for path in folder.iterdir()} == {"evaluation.json", "class_shares.png", "grid.png"}
    assert set(numbers["left_out"]) == {"score_error", "distances", "mode_weights"} and numbers["not_finite"] == 0
    assert numbers["held_out_accuracy"] > 0.95 and numbers["n"] == 20 and numbers["conditional_n"] == 20
    assert sum(numbers["class_shares"]) == pytest.approx(1, abs=1e-3)
    assert numbers["smallest_value"] < -0.1 and numbers["largest_value"] > 1.1  # as drawn after 40 steps, not clipped
    assert 0 < numbers["outside_range"] <= 1
    assert numbers["sampler_steps"] == 4
    assert numbers["nfe"] == 4 * 4 + 1  # four Langevin steps a level, and the last denoising
    assert "bits_per_dim" not in numbers  # off unless asked for


@pytest.mark.slow
def test_bits_per_dim_of_held_out_images_are_evaluated_on_request(digits_run, tmp_path):
    """Of 17 grey levels in [0, 1]: log₂ 17 = 4.09 bits if p(x) = 1; against log_likelihood called by hand.

    Given the label, by a model that always had one, and from the first knot of a table, if it knew no others.
    """
    config = tiny_digits()
    config.training.label_dropout, config.sde.name, config.times.name = 0.0, "tabulated", "knots"
    config.evaluation.likelihood_n, config.evaluation.likelihood_probes = 3, 2
    config.evaluation.likelihood_tolerance, config.sampler.batch_size = 1e-3, 2
    tabled = run.of_state(build.experiment(config), digits_run.state, tmp_path)
    numbers = likelihood_of_run(tabled, 0)
    assert numbers["bits_per_dim_n"] == 3 and numbers["bits_per_dim_not_integrated"] == 0
    for words in ("17 grey levels, uniformly dequantized", "p(x|y)", "from t = 0.001 (σ/α = 0.01)"):
        assert words in numbers["bits_per_dim_convention"]
    key_noise, key_probes = keys(0, 4)[2:]
    held_out = tabled.experiment.data.held_out
    x = data.images.prepare(
        key_noise, held_out.batch(data.random_rows(held_out, 3))["x"], grey_levels=17, value_range=(0.0, 1.0)
    )
    assert len(np.unique(x)) > 150  # dequantized
    labels = held_out.batch(data.random_rows(held_out, 3))["label"]
    score_fn = lambda x, t: tabled.model(x, t, label=labels)
    options = {"key": key_probes, "n_probes": 2, "t_min": 1e-3, "rtol": 1e-3, "atol": 1e-3}
    found = jax.jit(lambda x: likelihood.log_likelihood(tabled.model.sde, score_fn, x, **options))(x)
    expected = -np.asarray(found.log_prob) / (64 * np.log(2)) + np.log2(17)
    np.testing.assert_allclose(numbers["bits_per_dim"], expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(numbers["bits_per_dim_standard_error"], expected.std(ddof=1) / 3**0.5, rtol=1e-3)
    # Between other times than the process's ends.
    between = likelihood_of_run(tabled, 0, t_min=0.1, t_max=0.5)
    options |= {"t_min": 0.1, "t_max": 0.5}
    found = jax.jit(lambda x: likelihood.log_likelihood(tabled.model.sde, score_fn, x, **options))(x)
    expected = -np.asarray(found.log_prob) / (64 * np.log(2)) + np.log2(17)
    np.testing.assert_allclose(between["bits_per_dim"], expected.mean(), rtol=1e-4)
    # √((1 − ᾱ)/ᾱ) of DDPM's steps 100 and 500.
    assert "from t = 0.1 (σ/α = 0.339) to the prior at t = 0.5 (σ/α = 3.42)" in between["bits_per_dim_convention"]


@pytest.mark.parametrize("dequantize", [True, False])
def test_the_variational_bound_of_held_out_images_is_evaluated_on_request(digits_run, dequantize):
    """Of densities log₂(17/2) bits are a grey level's width in [−1, 1]; against variational_bound called by hand."""
    config = tiny_digits()
    config.data.value_range, config.data.dequantize = (-1.0, 1.0), dequantize
    config.sampler.name, config.sampler.grid, config.sampler.steps, config.sampler.batch_size = (
        "ancestral",
        "levels",
        5,
        2,
    )
    config.sampler.ancestral.variance = variance = "posterior" if dequantize else "transition"
    config.sampler.threshold = "none" if dequantize else "static"
    config.evaluation.bound_n = 3
    ancestral = by(digits_run, config)
    numbers = bound_of_run(ancestral, 0)
    words = "17 grey levels, uniformly dequantized" if dequantize else "17 grey levels, as stored"
    assert words in numbers["bound_convention"] and numbers["bound_bits_per_dim_n"] == 3
    key_noise, key_steps = keys(0, 6)[4:]
    held_out = ancestral.experiment.data.held_out
    stored = held_out.batch(data.random_rows(held_out, 3))["x"]
    x = data.images.prepare(key_noise, stored, grey_levels=17, dequantize=dequantize)
    ts = ancestral.sampling.ts[1:]  # "levels" has its first twice
    decoder = variational.gaussian_decoder if dequantize else variational.grey_level_decoder(17)
    score_fn = ancestral.model.conditioned(label=jnp.full(3, -1))
    if not dequantize:
        score_fn = sampling.clipped(ancestral.model.sde, score_fn, low=-1.0, high=1.0)
    options = {"variance": variance, "decoder": decoder}
    found = likelihood.variational_bound(key_steps, ancestral.model.sde, score_fn, x, ts=ts, **options)
    bits = np.asarray(found.total, np.float64) / (64 * np.log(2)) + (np.log2(17 / 2) if dequantize else 0)
    np.testing.assert_allclose(numbers["bound_bits_per_dim"], bits.mean(), rtol=1e-5)
    np.testing.assert_allclose(numbers["bound_bits_per_dim_standard_error"], bits.std(ddof=1) / 3**0.5, rtol=1e-4)
    np.testing.assert_allclose(numbers["bound_prior"], found.prior.mean() / (64 * np.log(2)), rtol=1e-5)
    parts = sum(numbers[f"bound_{part}"] for part in ("prior", "steps", "decoder"))
    np.testing.assert_allclose(parts, numbers["bound_bits_per_dim"], rtol=1e-6)


def test_a_bound_that_is_not_of_the_sampler_is_refused():
    config = tiny_digits()
    config.evaluation.bound_n = 3
    with pytest.raises(InputError, match="of ancestral steps, not of annealed_langevin: set"):
        build.experiment(config)
    config.sampler.name, config.sampler.corrector = "ancestral", True
    with pytest.raises(InputError, match="not of ancestral corrected"):
        build.experiment(config)
    config.data.dequantize, config.sampler.corrector = False, False
    with pytest.raises(InputError, match=r"on \(-1.0, 1.0\), got data.value_range \(0.0, 1.0\): set --config"):
        build.experiment(config)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_held_out_loss_is_given_the_labels_of_a_model_that_knows_no_other(monkeypatch, dropout):
    given = {}
    monkeypatch.setattr(training, "put_batches", lambda batches, mesh: given.update(batches))
    config = tiny_digits()
    config.training.label_dropout = dropout
    experiment = build.experiment(config)
    loss_of_state(experiment)
    held_out = experiment.data.held_out
    rows = given["x"].shape[1]
    stored = held_out.batch(np.resize(data.random_rows(held_out, rows), rows))
    np.testing.assert_array_equal(given["x"][0], stored["x"])
    np.testing.assert_array_equal(given["label"][0], -1 if dropout else stored["label"])


def test_bits_per_dim_are_from_t_min_and_without_labels_where_they_can_be(digits_run, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        sys.modules[likelihood_of_run.__module__],
        "bits",
        lambda *args, **options: asked.update(labels=args[3], flow=args[4]),
    )
    config = tiny_digits()
    config.evaluation.likelihood_n = 3
    likelihood_of_run(by(digits_run, config), 0)
    assert asked["flow"].t_min == 1e-5 and (asked["labels"] == -1).all()


def test_a_run_is_loaded_with_the_parameters_it_ended_with(digits_run):
    again = run.restore(digits_run.experiment, digits_run.workdir)
    chex.assert_trees_all_equal(again.model.variables, digits_run.model.variables)
    earlier = run.restore(digits_run.experiment, digits_run.workdir, step=20)
    assert int(earlier.state.step) == 20


def test_samples_depend_on_the_seed_and_their_index_alone(digits_run, capfd):
    labels = np.arange(6, dtype=np.int32)
    whole = samples.draw_samples(digits_run, n=6, seed=3, labels=labels).x
    np.testing.assert_allclose(
        samples.draw_samples(digits_run, n=2, seed=3, labels=labels[:2]).x, whole[:2], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(samples.draw_samples(digits_run, n=2, seed=4, labels=labels[:2]).x, whole[:2])
    assert "sampling" not in capfd.readouterr().err  # the bar is for terminals


def test_paths_are_of_few_steps_whatever_the_grid_and_of_fewer_samples_the_larger_they_are(digits_run):
    """A thousand steps of eight images of 1024 pixels would be 94 GiB."""
    config = tiny_digits()
    config.sampler.update(name="ddim", grid="log_snr", steps=100, batch_size=4)
    sde = sdes.VP()
    model = digits_run.model.replace(sde=sde)
    unconditional = Examples("floats", (8, 8, 1), 0, (0.0, 1.0))
    plan = of_sampling.plan(config, sde, model, mesh=device_mesh())
    drawn = samples.draw_samples(Trained(unconditional, model, plan, {}), n=9, seed=3)
    assert drawn.path.shape == (60, 4, 8, 8, 1) and drawn.nfe == 101
    ts, kept = plan.ts, np.linspace(0, 99, 60).round().astype(int)
    np.testing.assert_array_equal(drawn.times, ts[1:][kept])
    # All states over α at their times, of the same draws.
    keys = arrays.example_keys(jax.random.fold_in(jax.random.key(3), samples._STREAM), 4)
    key_prior, key_steps = arrays.split(keys)
    sampler, x = sampling.ddim(sde, model.conditioned()), sde.prior_sample(key_prior, (4, 8, 8, 1))
    _, states = jax.jit(lambda k, x: sampling.sample(k, sampler, x, ts, trace=lambda state: state.x))(key_steps, x)
    whole = states / sde.alpha(ts[1:])[:, None, None, None, None]
    # Two programs of 100 steps, x/α up to 600.
    np.testing.assert_allclose(drawn.path, whole[kept], rtol=1e-3, atol=1e-3)
    untrained = digits_run.model.replace(apply=still, variables={})
    for side, rows in [(8, 8), (256, 5), (1024, 1)]:
        large = lambda shape: draw.draw_batch(jax.random.key(0), untrained, sampling.ddim, ts, shape)
        path = jax.eval_shape(lambda: large((8, side, side, 3))).path  # noqa: B023
        assert path.shape == (60, rows, side, side, 3)


def still(variables, x, cond, label, key):
    """A network of output 0."""
    return jnp.zeros_like(x)


def test_a_run_cut_off_by_an_error_goes_on_bit_for_bit(digits_run, tmp_path, monkeypatch):
    """With the real loader and the cosine, whose steps count from the start."""
    cut_off(monkeypatch, lambda: run.train(build.experiment(tiny_digits()), tmp_path / "run"), 20)
    again = run.train(build.experiment(tiny_digits()), tmp_path / "run")
    for name in ("params", "ema", "opt_state"):
        chex.assert_trees_all_equal(getattr(again.state, name), getattr(digits_run.state, name))


def test_pictures_of_a_conditional_model_show_every_class_in_turn(digits_run, monkeypatch, tmp_path):
    asked = []

    def spy(trained, **options):
        asked.append(options["labels"])
        return drawn(trained, **options)

    drawn = samples.draw_samples
    monkeypatch.setattr(samples, "draw_samples", spy)
    show.show_run(replace(digits_run, workdir=tmp_path))
    np.testing.assert_array_equal(asked[0], np.arange(8))


def test_a_model_that_never_went_without_labels_is_not_asked_to(digits_run, tmp_path):
    config = tiny_digits()
    config.training.label_dropout = 0.0
    labelled = replace(by(digits_run, config), workdir=tmp_path)
    with pytest.raises(InputError, match="give every label"):
        samples.draw_samples(labelled, n=2)
    numbers = evaluation.evaluate(labelled)
    assert sum(numbers["class_shares"]) == pytest.approx(1, abs=1e-3)  # of the samples drawn with labels


def test_samples_that_diverged_are_said_so_and_not_measured(digits_run, tmp_path):
    variables = jax.tree.map(lambda v: v * jnp.nan, digits_run.model.variables)
    broken = replace(digits_run, model=digits_run.model.replace(variables=variables), workdir=tmp_path)
    numbers = evaluation.evaluate(broken)
    assert numbers["not_finite"] == 20
    left_out = numbers["left_out"]
    for name in ("nearest_neighbours", "copies", "class_shares", "conditional_accuracy"):
        assert left_out[name].startswith("20 of 20 samples are not finite: the sampler annealed_langevin diverged")
    assert np.isfinite(list(numbers["loss_by_sigma"].values())).all()  # of the state's parameters, which are whole
    assert "NaN" not in (broken.workdir / "evaluation.json").read_text()
    assert (broken.workdir / "samples" / "grid.png") in show.show_run(broken)


def test_another_evaluation_replaces_none(digits_run, tmp_path, monkeypatch):
    """Another sampler, seed, checkpoint or average has a folder of its own; evaluation.json is by its own."""
    monkeypatch.setattr(measures, "measure", lambda measured, chosen, **options: {})
    nothing = draw.Samples(np.zeros((20, 8, 8, 1), np.float32), np.empty(0), np.empty(0), 1)
    monkeypatch.setattr(samples, "draw_in_parts", lambda *given, **options: nothing)
    own = replace(digits_run, workdir=tmp_path)
    first = evaluation.evaluate(own)
    other_sampler, more_steps, raw, other_step_size, same = (tiny_digits() for _ in range(5))
    other_sampler.sampler.update(name="ddim", grid="log_snr")
    more_steps.sampler.steps = 5
    raw.sampler.ema = False
    other_step_size.sampler.annealed_langevin.step_size = 1e-5  # another than the levels' own
    others = [replace(by(digits_run, c), workdir=tmp_path) for c in (other_sampler, more_steps, raw, other_step_size)]
    others.append(run.of_state(own.experiment, replace(own.state, step=own.state.step - 20), tmp_path))
    found = [evaluation.evaluate(other) for other in others] + [evaluation.evaluate(own, seed=1)]
    same.sampler.update(batch_size=7, ddim={"eta": 1.0})  # of no effect on annealed Langevin
    assert evaluation.evaluate(replace(by(digits_run, same), workdir=tmp_path)) == first
    assert json.loads((tmp_path / "evaluation.json").read_text()) == first
    written = sorted(tmp_path.glob("evaluations/*/evaluation.json"))
    assert len(written) == 7
    assert all(json.loads(path.read_text()) in [first, *found] for path in written)
    assert json.loads((evaluation.evaluation_folder(own, 1) / "evaluation.json").read_text()) == found[-1]
    assert {path.parent.name[:-6] for path in written} == {
        "annealed_langevin-4-step40-seed0-",
        "annealed_langevin-4-step40-seed1-",
        "annealed_langevin-4-step20-seed0-",
        "annealed_langevin-4-step40-seed0-raw-",
        "annealed_langevin-5-step40-seed0-",
        "ddim-4-step40-seed0-",
    }
    later = run.of_state(own.experiment, replace(own.state, step=own.state.step + 20), tmp_path)
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())
        != evaluation.evaluate(later)
        == json.loads((tmp_path / "evaluation.json").read_text())
    )
    (tmp_path / "evaluation.json").write_text('{"st')  # cut off: no reason to lose the next
    assert evaluation.evaluate(own) == first == json.loads((tmp_path / "evaluation.json").read_text())
    evaluation.evaluate(own, folder=tmp_path / "elsewhere")
    assert json.loads((tmp_path / "elsewhere" / "evaluation.json").read_text()) == first


def test_the_batch_sets_samples_apart_where_they_depend_on_it():
    sampler = settings.get_config().sampler.to_dict()
    for corrector, norm, expected in [(False, "batch", False), (True, "example", False), (True, "batch", True)]:
        sampler["corrector"], sampler["langevin_corrector"]["norm"] = corrector, norm
        assert ("batch_size" in records.heeded(sampler)) == expected


def test_samples_that_cannot_be_written_leave_those_that_were(tmp_path, monkeypatch):
    told = {"seed": 0, "units": "the data's own"}
    records.write_samples(tmp_path, np.ones((2, 2)), told)

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"samples.npz cannot be written \(No space left on device\)"):
        records.write_samples(tmp_path, np.zeros((2, 2)), told)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]
    assert (np.load(tmp_path / "samples.npz")["x"] == 1).all()


def test_other_samples_have_another_folder(digits_run):
    labels, config = np.arange(4), tiny_digits()
    config.sampler.steps = 3
    faster = by(digits_run, config)
    name = lambda trained, n, seed, labels: records.name_of(samples.conditions(trained, n=n, seed=seed, labels=labels))
    asked = [(digits_run, 4, 0, labels), (digits_run, 4, 0, np.full(4, 3)), (digits_run, 4, 1, labels)]
    asked += [(digits_run, 3, 0, labels[:3]), (faster, 4, 0, labels), (digits_run, 4, 0, None)]
    names = [name(*arguments) for arguments in asked]
    assert name(digits_run, 4, 0, labels[::-1]) not in names
    assert len(set(names)) == 6
    assert names[1].startswith("annealed_langevin-4-step40-n4-label3-seed0-")
    assert name(digits_run, 4, 0, labels.copy()) == names[0]


def test_samples_npz_holds_what_the_help_says(digits_run, tmp_path):
    x = np.array([-0.5, 0.25, 1.5], np.float32).reshape(3, 1, 1, 1)
    drawn = draw.Samples(x, np.empty(0), np.empty(0), 1)
    path = samples.save_samples(digits_run, drawn, tmp_path / "new" / "folder", seed=7, labels=np.array([0, 1, 2]))
    saved = np.load(path)
    np.testing.assert_array_equal(saved["x"].ravel(), [0, 0.25, 1])
    assert saved["units"] == "images, clipped to [0, 1]" and saved["seed"] == 7
    np.testing.assert_array_equal(saved["label"], [0, 1, 2])
    assert saved["names"].tolist() == [str(digit) for digit in range(10)]
    told = json.loads(str(saved["conditions"]))
    assert (told["step"], told["sampler"], told["sampler_steps"], told["n"]) == (40, "annealed_langevin", 4, 3)
    assert told["sampler_settings"]["annealed_langevin"]["n_steps"] == 4
    points = untrained(toy.get_config(), tmp_path / "points")
    saved = np.load(samples.save_samples(points, drawn._replace(x=5 * x.reshape(3, 1)), tmp_path / "points", seed=0))
    np.testing.assert_array_equal(saved["x"], 5 * x.reshape(3, 1))
    assert saved["units"] == "the data's own" and not {"label", "names"} & set(saved)


def test_a_folder_that_cannot_be_written_is_found_before_sampling(tmp_path):
    assert command_line.require_writable(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(InputError, match=r"file.* cannot be written \(.*\): give another folder, --out=FOLDER$"):
            command_line.require_writable(folder)


def test_a_sampler_named_alone_gets_a_grid_and_steps_that_suit_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--sampler=heun", "--steps", "7"])
    config = tiny_digits()
    settings.with_sampler(config, **command_line.given_sampler())
    assert (config.sampler.name, config.sampler.steps, config.sampler.grid) == ("heun", 7, "log_snr")
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    assert command_line.given_sampler() == {"sampler": None, "steps": None}


def test_images_of_four_channels_and_any_range_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.normal(3.0, 2.0, (60, 6, 5, 4)).astype(np.float32))
    config = tiny_digits()
    config.data.name, config.data.root, config.data.labels = "array", str(tmp_path / "images.npy"), False
    new = untrained(config, tmp_path / "run")
    paths = show.show_samples(new, samples.draw_samples(new, n=8), tmp_path, data=new.experiment.data)
    assert Image.open(paths[0]).mode == "RGB"
    numbers = evaluation.evaluate(new)
    assert numbers["held_out_nearest_neighbour_distance"] > 10  # not clipped to [0, 1]: about 2·√(2·120) less the best


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("sde", {"name": "tabulated", "tabulated": {"n_steps": 0}}),
        ("network", {"name": "unet", "unet": {"blocks": 0}}),
        ("network", {"name": "unet", "unet": {"channels": 0}}),
        ("network", {"name": "compact_ncsn", "compact_ncsn": {"channels": 0}}),
        ("network.mlp.hidden", (0,)),
        ("network.dropout", 2.0),
        ("sampler.steps", -1),
        ("sampler.n", 0),
        ("evaluation.n", 0),
        ("evaluation.likelihood_n", -1),
        ("evaluation.bound_n", -1),
        ("evaluation.likelihood_tolerance", 0.0),
        ("times.discrete.n", -1),
        ("data.value_range", (0.0, 1.0, 2.0)),
        ("data.value_range", (1.0, 0.0)),
        ("sampler.annealed_langevin.n_steps", 0),
    ],
)
def test_a_number_out_of_range_is_found_before_the_training(tmp_path, key, value):
    config = tiny_digits()
    config.update(**{key: value}) if isinstance(value, dict) else config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as error:
        build.experiment(config)
    assert "\n" not in str(error.value) and str(value)[-3:].strip("{}()' ,") in str(error.value)


def test_a_command_that_a_signal_stopped_says_where_and_ends_as_a_shell_reports_it(capsys, monkeypatch):
    terminated = SystemExit("stopped by SIGTERM at step 20")
    terminated.code = 143
    for ending, code in [(KeyboardInterrupt("stopped by SIGINT at step 20"), 130), (terminated, 143)]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(command_line.signal, "signal", lambda *args: None)
            command_line._end(ending)
        assert ended.value.code == code and capsys.readouterr().out == f"{ending}\n"
    # Nothing is said of a second signal, which ends it at once: threads that write are not waited for.
    codes = []
    monkeypatch.setattr(command_line.os, "_exit", codes.append)
    command_line._end(KeyboardInterrupt())
    assert codes == [130] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["sampler"].pop("name"), "lacks sampler.name (1 setting(s)"),
        (lambda config: config.update(sampler=3), "lacks sampler."),
        (lambda config: config.clear(), "lacks data."),
    ],
)
def test_a_runs_config_that_lacks_settings_names_one(tmp_path, change, message):
    config = records.as_json(tiny_digits().to_dict())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert settings.of_run(tmp_path).network.mlp.hidden == (32,)
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        settings.of_run(tmp_path)
    assert message in str(error.value) and 'restore it, from "config" in checkpoints/' in str(error.value)


@pytest.mark.parametrize("label", [10, -2])
def test_a_label_that_does_not_exist_is_refused(digits_run, label):
    with pytest.raises(InputError, match="labels must be 0 to 9"):
        samples.draw_samples(digits_run, n=2, labels=np.full(2, label, np.int32))


def test_a_changed_setting_of_the_training_is_refused_and_named(digits_run):
    config = tiny_digits()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"optimizer.learning_rate: 0.002 → 0.5"):
        run.restore(build.experiment(config), digits_run.workdir)
    longer = tiny_digits()
    longer.training.steps = 80  # its cosine would have been another
    with pytest.raises(InputError, match=r"training\.steps: 40 → 80"):
        run.restore(build.experiment(longer), digits_run.workdir)


@pytest.mark.parametrize(
    ("key", "value"), [("sampler.name", "ddmi"), ("sampler.grid", "ddpm"), ("sampler.grid", "lin")]
)
def test_a_wrong_sampler_is_found_before_the_training(tmp_path, key, value):
    config = tiny_digits()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError):
        build.experiment(config)
    assert not (tmp_path / "run").exists()


def test_finite_differences_refuse_a_bfloat16_network(tmp_path):
    config = toy.get_config("fd_ssm")
    config.network.dtype = "bfloat16"
    with pytest.raises(InputError, match="bfloat16 rounds away"):
        build.experiment(config)


def command(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.trainin.steps=5"], "config has no setting 'trainin': choose one of data, device, evaluation"),
        pytest.param(["--config=configs/toy.py", "--config.training.steps=many"], "many", marks=pytest.mark.slow),
        pytest.param(
            ["--config=configs/toy.py", "--config.sde.name=vpp", "stray"],
            "flags are written --name=value",
            marks=pytest.mark.slow,
        ),
        (["--config=configs/toy.py", "--config.sde.name=vpp"], "choose one of ve, vp, subvp"),
    ],
)
def test_a_wrong_command_line_is_one_line(tmp_path, arguments, message):
    code, error = command("experiments/train.py", f"--workdir={tmp_path / 'run'}", *arguments)
    assert code == 2 and error.startswith("error: ") and message in error
    assert len(error.splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sampler.nme", r"config.sampler has no setting 'nme': choose one of ancestral, .* name, "),
        ("sed", r"config has no setting 'sed': choose one of data, .* seed, "),
        (
            "sde.ve.sigma_mn",
            r"config.sde.ve has no setting 'sigma_mn': choose one of sigma_max, sigma_min, t_max, t_min",
        ),
        ("training.steps.x", r"config.training.steps is 40, which has no settings"),
    ],
)
def test_a_setting_that_does_not_exist_says_what_does(path, message):
    for arguments in ([f"--config.{path}=1"], ["--seed=1", f"--config.{path}", "1"], [f"--noconfig.{path}"]):
        with pytest.raises(InputError, match=message):
            command_line.check_settings(tiny_digits(), arguments)
    fine = ["--config.seed=1", "--config.network.mlp.hidden[0]=3", "--config=configs/toy.py", "--workdir=--config.x"]
    command_line.check_settings(tiny_digits(), fine)


@pytest.mark.slow
def test_sampling_from_a_folder_that_is_no_run_is_one_line(tmp_path):
    code, error = command("experiments/sample.py", "--config.sampler.name=ddim")
    assert code == 2 and error == "error: settings are a run's: give its folder too, --workdir=FOLDER"
    code, error = command("experiments/sample.py", "--workdir", str(tmp_path))
    assert code == 2 and len(error.splitlines()) == 1 and "not the folder of a run" in error


@pytest.mark.slow
def test_a_published_checkpoint_is_sampled_as_its_authors_did(tmp_path):
    """On the checkpoint's own levels from U[0, 1], with the step its number of levels asks for."""
    file = ROOT / "tests" / "data" / "ncsnv2" / "ncsnv2.pth"
    opened, config = published.open_published(file, source="ncsnv2", size=8), settings.get_config()
    config.update_from_flattened_dict(opened.settings)
    levels, sampler = opened.model.condition.sigmas, config.sampler
    trained = build.of_checkpoint(config, opened)
    ts = trained.sampling.ts
    np.testing.assert_allclose(np.exp(-0.5 * opened.model.sde.log_snr(ts[1:])), levels, rtol=1e-4)
    step = noise_levels.step_size(levels[-1], levels[0] / levels[1], 5)
    assert sampler.annealed_langevin.to_dict() == {"step_size": step, "n_steps": 5} and sampler.denoise
    start = trained.sampling.start(jax.random.key(0), (512, 4, 4, 1))
    assert start.min() >= 0 and start.max() <= 1 and abs(float(start.mean()) - 0.5) < 4 / np.sqrt(12 * start.size)
    sampler.steps, sampler.annealed_langevin.n_steps, sampler.batch_size = 2, 1, 2
    trained = build.of_checkpoint(config, opened)
    drawn = samples.draw_samples(trained, n=3)
    written = [*show.show_samples(trained, drawn, tmp_path), samples.save_samples(trained, drawn, tmp_path, seed=0)]
    assert {path.name for path in written} == {"grid.png", "annealing.png", "annealing.gif", "samples.npz"}
    saved = np.load(tmp_path / "samples.npz")
    assert saved["x"].shape == (3, 8, 8, 3) and saved["x"].min() >= 0 and saved["x"].max() <= 1
    assert saved["units"] == "images, clipped to [0, 1]"
    assert json.loads(str(saved["conditions"]))["checkpoint"] == str(file)
    told = {"n": 3, "seed": 0, "labels": None}
    others = [
        opened._replace(checkpoint="other.pth"),
        opened._replace(averaged=False),
        opened._replace(shape=(4, 4, 3)),
    ]
    models = [build.of_checkpoint(config, other) for other in (opened, *others)]
    names = {records.name_of(samples.conditions(model, **told)) for model in models}
    changes = [{"n": 1}, {"seed": 1}, {"labels": np.full(3, 1)}]
    names |= {records.name_of(samples.conditions(trained, **told | change)) for change in changes}
    assert len(names) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=tests/data/ncsnv2/ncsnv2.pth", "--source=ncsn"], 'give source="ncsnv2"'),
        pytest.param(
            ["--checkpoint=tests/data/ncsnv2/ncsnv2.pth", "--size=big"], "--size is the side", marks=pytest.mark.slow
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_sampled_is_one_line(arguments, message):
    code, error = command("experiments/sample.py", *arguments)
    assert code == 2 and error.startswith("error: ") and message in error and len(error.splitlines()) == 1, error


def test_counts_on_the_command_line_are_whole_numbers_from_one(monkeypatch):
    for text, expected in [(None, None), ("1", 1), ("32", 32)]:
        monkeypatch.setattr(sys, "argv", ["sample.py", *([] if text is None else [f"--size={text}"])])
        assert command_line.given_count("size", "the side") == expected
    for text in ["0", "-1", "²", "big", "1.5", "9" * 5_000]:
        monkeypatch.setattr(sys, "argv", ["sample.py", f"--size={text}"])
        with pytest.raises(InputError, match="--size is the side, from 1, got "):
            command_line.given_count("size", "the side")


def test_commands_start_without_what_they_may_not_need():
    late = ("flax.nnx", "sklearn", "scipy", "matplotlib", "orbax", "tensorflow", "torch")
    code = f"import sys, score_jax.lab.train, score_jax.lab.evaluate; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

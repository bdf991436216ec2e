"""The commands as a user meets them: what they write, go on from, and say when something is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import base, digits, toy
from score_jax import (
    arrays,
    build,
    data,
    evaluation,
    generate,
    likelihood,
    measures,
    metrics,
    noise_levels,
    published,
    records,
    runs,
    sampling,
)
from score_jax import command as command_line
from score_jax import sde as sdes
from score_jax.losses import variational
from score_jax.types import InputError

ROOT = Path(__file__).parent.parent


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny class-conditional digits run, trained to its end."""
    new = runs.new(tiny_digits(), tmp_path_factory.mktemp("runs") / "digits")
    return new.with_state(runs.train(new).state)


def test_a_run_folder_holds_what_the_readme_says(run):
    written = runs.draw_pictures(run) + runs.draw_figures(run)
    numbers = runs.evaluate(run)
    expected = {"grid.png", "annealing.png", "annealing.gif", "neighbours.png", "classes.png"}
    expected |= {"loss.png", "loss_by_sigma.png"}
    assert {path.name for path in written} == expected
    for path in written:
        Image.open(path).verify()
    config = json.loads((run.workdir / "config.json").read_text())
    assert config["network"]["mlp"]["hidden"] == [32]
    assert {"devices", "seed"} <= set(json.loads((run.workdir / "environment.json").read_text()))
    records = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40]
    assert json.loads((run.workdir / "evaluation.json").read_text()) == numbers
    folder = runs.evaluation_folder(run, 0)
    assert {path.name for path in folder.iterdir()} == {"evaluation.json", "class_shares.png"}
    assert numbers["left_out"] == {} and numbers["not_finite"] == 0
    assert numbers["held_out_accuracy"] > 0.95 and numbers["n"] == 20 and numbers["conditional_n"] == 20
    assert sum(numbers["class_shares"]) == pytest.approx(1, abs=1e-3)
    assert numbers["sampler_steps"] == 4
    assert numbers["nfe"] == 4 * 4 + 1  # four Langevin steps a level, and the last denoising
    assert "bits_per_dim" not in numbers  # off unless asked for


def test_bits_per_dim_of_held_out_images_are_evaluated_on_request(run, tmp_path):
    """Of 17 grey levels in [0, 1]: log₂ 17 = 4.09 bits if p(x) = 1; against log_likelihood called by hand.

    Given the label, by a model that always had one, and from the first knot of a table, if it knew no others.
    """
    config = tiny_digits()
    config.training.label_dropout, config.sde.name, config.times.name = 0.0, "tabulated", "knots"
    run = run._replace(config=config, workdir=tmp_path, model=replace(run.model, sde=build.sde(config)))
    config.evaluation.likelihood_n, config.evaluation.likelihood_probes = 3, 2
    config.evaluation.likelihood_tolerance, config.sampler.batch_size = 1e-3, 2
    numbers = measures.likelihood(run)
    assert numbers["bits_per_dim_n"] == 3 and numbers["bits_per_dim_not_integrated"] == 0
    for words in ("17 grey levels, uniformly dequantized", "p(x|y)", "from t = 0.001 (σ/α = 0.01)"):
        assert words in numbers["bits_per_dim_convention"]
    key_noise, key_probes = evaluation.keys(0, 4)[2:]
    x = data.images.prepare(key_noise, run.data.held_out.batch(np.arange(3))["x"], levels=17, value_range=(0.0, 1.0))
    assert len(np.unique(x)) > 150  # dequantized
    labels = run.data.held_out.batch(np.arange(3))["label"]
    score_fn = lambda x, t: run.model(x, t, label=labels)  # noqa: E731
    options = {"key": key_probes, "n_probes": 2, "t_min": 1e-3, "rtol": 1e-3, "atol": 1e-3}
    found = jax.jit(lambda x: likelihood.log_likelihood(run.model.sde, score_fn, x, **options))(x)
    expected = -np.asarray(found.log_prob) / (64 * np.log(2)) + np.log2(17)
    np.testing.assert_allclose(numbers["bits_per_dim"], expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(numbers["bits_per_dim_standard_error"], expected.std(ddof=1) / 3**0.5, rtol=1e-3)
    # Between other times than the process's ends.
    between = measures.likelihood(run, t_min=0.1, t_max=0.5)
    options |= {"t_min": 0.1, "t_max": 0.5}
    found = jax.jit(lambda x: likelihood.log_likelihood(run.model.sde, score_fn, x, **options))(x)
    expected = -np.asarray(found.log_prob) / (64 * np.log(2)) + np.log2(17)
    np.testing.assert_allclose(between["bits_per_dim"], expected.mean(), rtol=1e-4)
    # √((1 − ᾱ)/ᾱ) of DDPM's steps 100 and 500.
    assert "from t = 0.1 (σ/α = 0.339) to the prior at t = 0.5 (σ/α = 3.42)" in between["bits_per_dim_convention"]


@pytest.mark.parametrize("dequantize", [True, False])
def test_the_variational_bound_of_held_out_images_is_evaluated_on_request(run, dequantize):
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
    run = run._replace(config=config)
    numbers = measures.bound(run)
    words = "17 grey levels, uniformly dequantized" if dequantize else "17 grey levels, as stored"
    assert words in numbers["bound_convention"] and numbers["bound_bits_per_dim_n"] == 3
    key_noise, key_steps = evaluation.keys(0, 6)[4:]
    stored = run.data.held_out.batch(np.arange(3))["x"]
    x = data.images.prepare(key_noise, stored, levels=17, dequantize=dequantize)
    ts = build.grid(config, run.model.sde)[1:]  # "levels" has its first twice
    decoder = variational.gaussian_decoder if dequantize else variational.grey_level_decoder(17)
    score_fn = run.model.given(label=jnp.full(3, -1))
    if not dequantize:
        score_fn = sampling.clipped(run.model.sde, score_fn, low=-1.0, high=1.0)
    options = {"variance": variance, "decoder": decoder}
    found = likelihood.variational_bound(key_steps, run.model.sde, score_fn, x, ts, **options)
    bits = np.asarray(found.total, np.float64) / (64 * np.log(2)) + (np.log2(17 / 2) if dequantize else 0)
    np.testing.assert_allclose(numbers["bound_bits_per_dim"], bits.mean(), rtol=1e-5)
    np.testing.assert_allclose(numbers["bound_bits_per_dim_standard_error"], bits.std(ddof=1) / 3**0.5, rtol=1e-4)
    np.testing.assert_allclose(numbers["bound_prior"], found.prior.mean() / (64 * np.log(2)), rtol=1e-5)
    parts = sum(numbers[f"bound_{part}"] for part in ("prior", "steps", "decoder"))
    np.testing.assert_allclose(parts, numbers["bound_bits_per_dim"], rtol=1e-6)


def test_a_bound_that_is_not_of_the_sampler_is_refused(run, tmp_path):
    config = tiny_digits()
    config.evaluation.bound_n = 3
    with pytest.raises(InputError, match="of ancestral steps, not of annealed_langevin: set"):
        runs.new(config, tmp_path)
    config.sampler.name, config.sampler.corrector = "ancestral", True
    with pytest.raises(InputError, match="not of ancestral corrected"):
        runs.new(config, tmp_path)
    config.data.dequantize, config.sampler.corrector = False, False
    with pytest.raises(InputError, match=r"on \(-1.0, 1.0\), got data.value_range \(0.0, 1.0\): set --config"):
        measures.bound(run._replace(config=config))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_held_out_loss_is_given_the_labels_of_a_model_that_knows_no_other(run, monkeypatch, dropout):
    given = {}
    monkeypatch.setattr(evaluation, "held_out_loss", lambda evaluate, state, batches, sigmas: given.update(batches))
    config = tiny_digits()
    config.training.label_dropout = dropout
    measures.held_out_loss(run._replace(config=config))
    held_out = run.data.held_out
    stored = held_out.batch(np.arange(given["x"].shape[1]) % len(held_out))
    np.testing.assert_array_equal(given["x"][0], stored["x"])
    np.testing.assert_array_equal(given["label"][0], -1 if dropout else stored["label"])


def test_bits_per_dim_are_from_t_min_and_without_labels_where_they_can_be(run, monkeypatch):
    asked = {}
    monkeypatch.setattr(evaluation, "bits", lambda *args, **options: asked.update(labels=args[3], flow=args[4]) or {})
    config = tiny_digits()
    config.evaluation.likelihood_n = 3
    measures.likelihood(run._replace(config=config))
    assert asked["flow"].t_min == 1e-5 and (asked["labels"] == -1).all()


def test_a_run_is_loaded_with_the_parameters_it_ended_with(run):
    again = runs.load(run.workdir, tiny_digits())
    jax.tree.map(np.testing.assert_array_equal, again.model.variables, run.model.variables)
    earlier = runs.load(run.workdir, tiny_digits(), step=20)
    assert int(earlier.state.step) == 20


def test_samples_depend_on_the_seed_and_their_index_alone(run, capfd):
    labels = np.arange(6, dtype=np.int32)
    whole = runs.samples(run, n=6, seed=3, labels=labels).x
    np.testing.assert_allclose(runs.samples(run, n=2, seed=3, labels=labels[:2]).x, whole[:2], rtol=1e-4, atol=1e-5)
    assert not np.allclose(runs.samples(run, n=2, seed=4, labels=labels[:2]).x, whole[:2])
    assert "sampling" not in capfd.readouterr().err  # the bar is for terminals


def test_paths_are_of_few_steps_whatever_the_grid_and_of_fewer_samples_the_larger_they_are(run):
    """A thousand steps of eight images of 1024 pixels would be 94 GiB."""
    config = tiny_digits()
    config.sampler.update(name="ddim", grid="log_snr", steps=100, batch_size=4)
    sde = sdes.VP()
    model = replace(run.model, sde=sde)
    drawn = runs.draw(config, model, (8, 8, 1), n=9, seed=3)
    assert drawn.path.shape == (60, 4, 8, 8, 1) and drawn.nfe == 101
    ts, kept = build.grid(config, sde), np.linspace(0, 99, 60).round().astype(int)
    np.testing.assert_array_equal(drawn.times, ts[1:][kept])
    # All states over α at their times, of the same draws.
    keys = arrays.example_keys(jax.random.fold_in(jax.random.key(3), runs._SAMPLING), 4)
    key_prior, key_steps = arrays.split(keys)
    sampler, x = sampling.ddim(sde, model.given()), sde.prior_sample(key_prior, (4, 8, 8, 1))
    _, states = jax.jit(lambda k, x: sampling.sample(k, sampler, x, ts, trace=lambda state: state.x))(key_steps, x)
    whole = states / sde.alpha(ts[1:])[:, None, None, None, None]
    # Two programs of 100 steps, x/α up to 600.
    np.testing.assert_allclose(drawn.path, whole[kept], rtol=1e-3, atol=1e-3)
    untrained = replace(run.model, module=Still(), variables={})
    for side, rows in [(8, 8), (256, 5), (1024, 1)]:
        large = lambda shape: generate.draw(jax.random.key(0), untrained, sampling.ddim, ts, shape)  # noqa: E731
        path = jax.eval_shape(lambda: large((8, side, side, 3))).path  # noqa: B023
        assert path.shape == (60, rows, side, side, 3)


class Still(NamedTuple):
    """A network of output 0."""

    def apply(self, variables, x, cond, label=None, *, train=False):
        return jnp.zeros_like(x)


def test_a_run_cut_off_by_an_error_goes_on_bit_for_bit(run, tmp_path, monkeypatch):
    """With the real loader and the cosine, whose steps count from the start."""
    whole = data.Loader.__next__

    def broken(loader):
        if loader.get_state()["step"] >= 20:
            raise RuntimeError("the power went out")
        return whole(loader)

    monkeypatch.setattr(data.Loader, "__next__", broken)
    with pytest.raises(RuntimeError, match="power"):
        runs.train(runs.new(tiny_digits(), tmp_path / "run"))
    monkeypatch.undo()
    again = runs.train(runs.new(tiny_digits(), tmp_path / "run"))
    for name in ("params", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again.state, name), getattr(run.state, name))


def test_pictures_of_a_conditional_model_show_every_class_in_turn(run, monkeypatch):
    asked = []

    def spy(run, **options):
        asked.append(options["labels"])
        return draw(run, **options)

    draw = runs.samples
    monkeypatch.setattr(runs, "samples", spy)
    runs.draw_pictures(run, folder=run.workdir / "again")
    np.testing.assert_array_equal(asked[0], np.arange(8))


def test_a_model_that_never_went_without_labels_is_not_asked_to(run):
    config = tiny_digits()
    config.training.label_dropout = 0.0
    labelled = run._replace(config=config)
    with pytest.raises(InputError, match="give every label"):
        runs.samples(labelled, n=2)
    numbers = runs.evaluate(labelled._replace(workdir=run.workdir / "labelled"))
    assert sum(numbers["class_shares"]) == pytest.approx(1, abs=1e-3)  # of the samples drawn with labels


def test_samples_that_diverged_are_said_so_and_not_measured(run):
    broken = run._replace(
        model=run.model.replace(variables=jax.tree.map(lambda v: v * jnp.nan, run.model.variables)),
        workdir=run.workdir / "broken",
    )
    numbers = runs.evaluate(broken)
    assert numbers["not_finite"] == 20
    left_out = numbers["left_out"]
    for name in ("nearest_neighbours", "copies", "class_shares", "conditional_accuracy"):
        assert left_out[name].startswith("20 of 20 samples are not finite: the sampler annealed_langevin diverged")
    assert np.isfinite(list(numbers["loss_by_sigma"].values())).all()  # of the state's parameters, which are whole
    assert "NaN" not in (broken.workdir / "evaluation.json").read_text()
    assert (broken.workdir / "samples" / "grid.png") in runs.draw_pictures(broken)


def test_another_evaluation_replaces_none(run, tmp_path, monkeypatch):
    """Another sampler, seed, checkpoint or average has a folder of its own; evaluation.json is by its own."""
    monkeypatch.setattr(measures, "of", lambda subject: {})
    nothing = generate.Samples(np.zeros((20, 8, 8, 1), np.float32), np.empty(0), np.empty(0), 1)
    monkeypatch.setattr(runs, "samples", lambda run, **options: nothing)
    own = run._replace(workdir=tmp_path)
    (tmp_path / "config.json").write_text((run.workdir / "config.json").read_text())
    first = runs.evaluate(own)
    others = [own._replace(config=tiny_digits()) for _ in range(4)]
    others[0].config.sampler.update(name="ddim", grid="log_snr")
    others[1].config.sampler.steps = 5
    others[2].config.sampler.ema = False
    others[3].config.sampler.annealed_langevin.step_size = 1e-5  # another than the levels' own
    others.append(own._replace(state=replace(run.state, step=run.state.step - 20)))
    found = [runs.evaluate(other) for other in others] + [runs.evaluate(own, seed=1)]
    others[0].config.sampler = tiny_digits().sampler
    others[0].config.sampler.update(batch_size=7, ddim={"eta": 1.0})  # of no effect on annealed Langevin
    assert runs.evaluate(others[0]) == first
    assert json.loads((tmp_path / "evaluation.json").read_text()) == first
    written = sorted(tmp_path.glob("evaluations/*/evaluation.json"))
    assert len(written) == 7
    assert all(json.loads(path.read_text()) in [first, *found] for path in written)
    assert json.loads((runs.evaluation_folder(own, 1) / "evaluation.json").read_text()) == found[-1]
    assert {path.parent.name[:-6] for path in written} == {
        "annealed_langevin-4-step40-seed0-",
        "annealed_langevin-4-step40-seed1-",
        "annealed_langevin-4-step20-seed0-",
        "annealed_langevin-4-step40-seed0-raw-",
        "annealed_langevin-5-step40-seed0-",
        "ddim-4-step40-seed0-",
    }
    later = own._replace(state=replace(run.state, step=run.state.step + 20))
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())
        != runs.evaluate(later)
        == json.loads((tmp_path / "evaluation.json").read_text())
    )
    (tmp_path / "evaluation.json").write_text('{"st')  # cut off: no reason to lose the next
    assert runs.evaluate(own) == first == json.loads((tmp_path / "evaluation.json").read_text())
    runs.evaluate(own, folder=tmp_path / "elsewhere")
    assert json.loads((tmp_path / "elsewhere" / "evaluation.json").read_text()) == first


def test_the_batch_sets_samples_apart_where_they_depend_on_it():
    sampler = base.get_config().sampler.to_dict()
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


def test_other_samples_have_another_folder(run):
    labels = np.arange(4)
    faster = run._replace(config=tiny_digits())
    faster.config.sampler.steps = 3
    asked = [(run, 4, 0, labels), (run, 4, 0, np.full(4, 3)), (run, 4, 1, labels), (run, 3, 0, labels[:3])]
    folders = [runs.samples_folder(*arguments) for arguments in [*asked, (faster, 4, 0, labels), (run, 4, 0, None)]]
    assert runs.samples_folder(run, 4, 0, labels[::-1]) not in folders
    assert len(set(folders)) == 6 and {folder.parent for folder in folders} == {run.workdir / "samples"}
    assert folders[1].name.startswith("annealed_langevin-4-step40-n4-label3-seed0-")
    assert runs.samples_folder(run, 4, 0, labels.copy()) == folders[0]


def test_samples_npz_holds_what_the_help_says(run, tmp_path):
    x = np.array([-0.5, 0.25, 1.5], np.float32).reshape(3, 1, 1, 1)
    drawn = generate.Samples(x, np.empty(0), np.empty(0), 1)
    path = runs.save_samples(run, drawn, tmp_path / "new" / "folder", seed=7, labels=np.array([0, 1, 2]))
    saved = np.load(path)
    np.testing.assert_array_equal(saved["x"].ravel(), [0, 0.25, 1])
    assert saved["units"] == "images, clipped to [0, 1]" and saved["seed"] == 7
    np.testing.assert_array_equal(saved["label"], [0, 1, 2])
    assert saved["names"].tolist() == [str(digit) for digit in range(10)]
    told = json.loads(str(saved["conditions"]))
    assert (told["step"], told["sampler"], told["sampler_steps"], told["n"]) == (40, "annealed_langevin", 4, 3)
    assert told["sampler_settings"]["annealed_langevin"]["n_steps"] == 4
    points = runs.new(toy.get_config(), tmp_path / "points")
    saved = np.load(runs.save_samples(points, drawn._replace(x=5 * x.reshape(3, 1)), tmp_path / "points", seed=0))
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
    published.change(config, **command_line.given_sampler())
    assert (config.sampler.name, config.sampler.steps, config.sampler.grid) == ("heun", 7, "log_snr")
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    assert command_line.given_sampler() == {"sampler": None, "steps": None}


def test_images_of_four_channels_and_any_range_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.normal(3.0, 2.0, (60, 6, 5, 4)).astype(np.float32))
    config = tiny_digits()
    config.data.name, config.data.root, config.data.labels = "array", str(tmp_path / "images.npy"), False
    new = runs.new(config, tmp_path / "run")
    paths = runs.draw_pictures(new)
    assert Image.open(paths[0]).mode == "RGB"
    numbers = runs.evaluate(new)
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
        runs.new(config, tmp_path / "run")
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
    config = command_line.as_json(tiny_digits())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert command_line.run_config(tmp_path).network.mlp.hidden == (32,)
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        command_line.run_config(tmp_path)
    assert message in str(error.value) and 'restore it, from "config" in checkpoints/' in str(error.value)


@pytest.mark.parametrize("label", [10, -2])
def test_a_label_that_does_not_exist_is_refused(run, label):
    with pytest.raises(InputError, match="labels must be 0 to 9"):
        runs.samples(run, n=2, labels=np.full(2, label, np.int32))


def test_a_changed_setting_of_the_training_is_refused_and_named(run):
    config = tiny_digits()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"optimizer.learning_rate: 0.002 → 0.5"):
        runs.load(run.workdir, config)
    longer = tiny_digits()
    longer.training.steps = 80  # its cosine would have been another
    with pytest.raises(InputError, match=r"training\.steps: 40 → 80"):
        runs.load(run.workdir, longer)


@pytest.mark.parametrize(
    ("key", "value"), [("sampler.name", "ddmi"), ("sampler.grid", "ddpm"), ("sampler.grid", "lin")]
)
def test_a_wrong_sampler_is_found_before_the_training(tmp_path, key, value):
    config = tiny_digits()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError):
        runs.new(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finite_differences_refuse_a_bfloat16_network(tmp_path):
    config = toy.get_config("fd_ssm")
    config.network.dtype = "bfloat16"
    with pytest.raises(InputError, match="bfloat16 rounds away"):
        runs.train(runs.new(config, tmp_path / "run"))


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


def test_sampling_from_a_folder_that_is_no_run_is_one_line(tmp_path):
    code, error = command("experiments/sample.py", "--config.sampler.name=ddim")
    assert code == 2 and error == "error: settings are a run's: give its folder too, --workdir=FOLDER"
    code, error = command("experiments/sample.py", "--workdir", str(tmp_path))
    assert code == 2 and len(error.splitlines()) == 1 and "not the folder of a run" in error


def test_a_published_checkpoint_is_sampled_as_its_authors_did(tmp_path):
    """On the checkpoint's own levels from U[0, 1], with the step its number of levels asks for."""
    file = ROOT / "tests" / "data" / "ncsnv2" / "ncsnv2.pth"
    opened = published.load(file, base.get_config(), source="ncsnv2", size=8)
    levels, sampler = opened.model.condition.sigmas, opened.config.sampler
    ts = build.grid(opened.config, opened.model.sde)
    np.testing.assert_allclose(np.exp(-0.5 * opened.model.sde.log_snr(ts[1:])), levels, rtol=1e-4)
    step = noise_levels.step_size(levels[-1], levels[0] / levels[1], 5)
    assert sampler.annealed_langevin.to_dict() == {"step_size": step, "n_steps": 5} and sampler.denoise
    start = build.start(opened.config, opened.model.sde)(jax.random.key(0), (512, 4, 4, 1))
    assert start.min() >= 0 and start.max() <= 1 and abs(float(start.mean()) - 0.5) < 4 / np.sqrt(12 * start.size)
    sampler.steps, sampler.annealed_langevin.n_steps, sampler.batch_size = 2, 1, 2
    written = published.draw(opened, tmp_path, n=3, seed=0)
    assert {path.name for path in written} == {"grid.png", "annealing.png", "annealing.gif", "samples.npz"}
    saved = np.load(tmp_path / "samples.npz")
    assert saved["x"].shape == (3, 8, 8, 3) and saved["x"].min() >= 0 and saved["x"].max() <= 1
    assert saved["units"] == "images, clipped to [0, 1]"
    assert json.loads(str(saved["conditions"]))["checkpoint"] == str(file)
    told = {"n": 3, "seed": 0, "label": None}
    others = [
        opened._replace(checkpoint="other.pth"),
        opened._replace(averaged=False),
        opened._replace(shape=(4, 4, 3)),
    ]
    names = {records.name_of(published.conditions(other, **told)) for other in (opened, *others)}
    names |= {records.name_of(published.conditions(opened, **told | {key: 1})) for key in told}
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


@pytest.mark.slow
def test_the_readmes_examples_run_and_find_all_modes(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    modes = data.toy.modes("eight_gaussians")
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    fewer = "config.training.steps = 1000; config.sampler.steps = 15; config.sampler.n = 64"
    shorter = [{"config.training.steps = 6000": fewer}, {"5000": "1000"}]
    for code, replacements in zip(examples, shorter, strict=True):
        for whole, short in replacements.items():
            assert whole in code
            code = code.replace(whole, short)
        names: dict = {}
        exec(code.replace("n=1000", "n=400"), names)
        assert float(metrics.mode_coverage(names["samples"], modes, share=0.3)) == 1

"""Data of one's own in runs: classes by their names, few examples, odd files."""

import contextlib

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image

from configs import emoji
from score_jax import plotting
from score_jax.data import Loader
from score_jax.lab import build, evaluation, pictures, records, run, samples, show
from score_jax.lab.build.data import data as data_of
from score_jax.lab.settings import get_config
from tests.helpers import refused

RNG = np.random.default_rng(0)


def settings(root, **data):
    config = get_config()
    config.data.update(**{"name": "array", "root": str(root), **data})
    config.network.name, config.network.mlp.hidden = "mlp", (4,)
    config.training.update(steps=2, batch_size=8, steps_per_dispatch=1, log_every=1, checkpoint_every=2)
    config.sampler.update(name="ddim", grid="log_snr", steps=2, n=4)
    return config


def labelled(tmp_path, label, **data):
    label = np.asarray(label)
    x = RNG.integers(0, 256, (len(label), 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x, label=label)
    return build.experiment(settings(tmp_path / "x.npz", **{"labels": True, **data}))


def untrained(experiment, folder):
    """The run before its first step."""
    return run.of_state(experiment, run.first_state(experiment), folder)


@pytest.mark.parametrize(
    "label, turn, names",
    [
        ([1, 2, 7] * 20, [0, 1, 2, 0, 1], ("1", "2", "7")),
        ([10**18, 3] * 20, [0, 1, 0, 1, 0], ("3", str(10**18))),  # two embeddings, not 10^18
        (["dog", "cat"] * 20, [0, 1, 0, 1, 0], ("cat", "dog")),
    ],
)
def test_the_classes_that_have_examples_are_drawn_in_turn_and_have_their_names(tmp_path, label, turn, names):
    experiment = labelled(tmp_path, label)
    np.testing.assert_array_equal(samples.classes_in_turn(experiment.examples, 5), turn)
    assert f"{len(names)} classes ({', '.join(names)})" in experiment.summary[0]
    assert [samples.label_named(experiment.examples, name) for name in names] == list(range(len(names)))


def test_the_emoji_are_named_where_they_are_shown_and_lie_where_the_user_says(tmp_path):
    """On a file of the same form, since the data need not be there."""
    config = emoji.get_config()
    config.network.name, config.network.mlp.hidden = "mlp", (4,)
    refused("data 'array' is read from a path of yours: give --config.data.root=PATH", build.experiment, config)
    x, label = RNG.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), np.arange(60, dtype=np.int32) % 10
    np.savez(tmp_path / "emoji32.npz", x=x, label=label)
    config.data.root = str(tmp_path / "emoji32.npz")
    examples = build.experiment(config).examples
    assert examples.shape == (32, 32, 3) and examples.names == tuple("0123456789") and examples.null_label
    assert "Twemoji" in examples.attribution and "CC-BY 4.0" in examples.attribution


def test_a_class_whose_examples_are_all_held_out_is_not_drawn(tmp_path):
    experiment = labelled(tmp_path, [0] * 30 + [1] + [2] * 30, holdout=0.5)
    assert 1 not in experiment.data.train.label  # by the fixed split: the class's one example is held out
    np.testing.assert_array_equal(samples.classes_in_turn(experiment.examples, 4), [0, 2, 0, 2])


def test_a_class_is_asked_for_by_its_name_or_else_its_number(tmp_path):
    experiment = labelled(tmp_path, [1, 2, 7] * 20)
    classes, trained = experiment.examples, untrained(experiment, tmp_path / "run")
    assert [samples.label_named(classes, text) for text in ("7", "1", "0", "-1")] == [2, 0, 0, -1]
    refused(r"there is no class 'cat': this model has the classes 1, 2, 7", samples.label_named, classes, "cat")
    refused("there is no class '9'", samples.label_named, classes, "9")
    refused("there is no class '-2'", samples.label_named, classes, "-2")
    draw = samples.draw_samples
    refused("2 integers, got float64", draw, trained, n=2, labels=np.array([0.5, 1]))
    refused(r"2 integers, got int64 of shape \(3,\)", draw, trained, n=2, labels=np.array([0, 1, 1]))
    refused("labels must be 0 to 2", draw, trained, n=2, labels=np.array([0, 2**32]))  # not wrapped
    unlabelled = labelled(tmp_path, [1, 2, 7] * 20, labels=False).examples
    refused("there is no class '1': this model was trained without labels", samples.label_named, unlabelled, "1")


@pytest.mark.parametrize(
    "labels, names",
    [
        ([0, 1, 2, 0, 1, 2], ["cat", "dog", "eel"]),
        ([1, 1, 1, 1, 1, 1], ["dog"] * 3),
        ([-1] * 6, ["any"] * 3),
        ([0, 1, 2, 2, 1, 0], []),
        (None, []),
    ],
)
def test_pictures_name_the_classes_of_their_columns(labels, names):
    labels = None if labels is None else np.array(labels)
    assert show._names_of_columns(("cat", "dog", "eel"), labels, 3) == names


def test_named_classes_get_a_picture(tmp_path):
    x, path = RNG.random((4, 4, 4, 1), np.float32), RNG.random((2, 2, 4, 4, 1), np.float32)
    written = pictures.write_images(tmp_path, x, path, np.array([1.0, 0.1]), columns=2, names=["cat", "a longer name"])
    assert "classes.png" in {path.name for path in written}
    (ax,) = plotting.image_grid(x, 2, names=["cat", "dog"]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog"]


OF_OTHER_DATA = {  # what is measured of points and of classes alone
    "score_error": "the score error is of a known density, ",
    "distances": "distances between arrays of pixels tell",
    "mode_weights": "the data 'array' have no modes to be we",
    "class_shares": "the data 'array' have no classes that a",
    "conditional_accuracy": "this model was trained on data without ",
}


@pytest.mark.parametrize(
    "n, holdout", [(1, 0.0), *(pytest.param(*v, marks=pytest.mark.slow) for v in ((5, 0.0), (2, 0.1)))]
)
def test_a_run_of_few_images_is_measured_and_drawn(tmp_path, n, holdout):
    """One image is the setting of SinGAN, and overfitting a few the first test of any such code."""
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8))
    experiment = build.experiment(settings(tmp_path / "x.npy", holdout=holdout))
    assert len(experiment.data.train) == n - (holdout > 0)
    trained = run.train(experiment, tmp_path / "run")
    numbers = evaluation.evaluate(trained)
    # Measures of samples beside the training set need no held-out images; the others say what they lack.
    assert numbers["nearest_neighbour_distance"] > 0 and ("nearest_neighbour_ratio" in numbers) == (holdout > 0)
    lacking = {} if holdout else dict.fromkeys(["held_out_loss", "copies"], "nothing was held out to measure against")
    assert {name: reason[:39] for name, reason in numbers["left_out"].items()} == OF_OTHER_DATA | lacking
    (grid,) = (path for path in show.show_run(trained) if path.name == "grid.png")
    assert grid == trained.workdir / "samples" / "grid.png"


def test_one_image_says_how_to_train_on_it(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 4, 1), np.uint8))
    refused(r"--config\.data\.holdout=0", build.experiment, settings(tmp_path / "x.npy"))


# Folders


def write_images(root, sizes):
    root.mkdir()
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(RNG.integers(0, 256, (height, width), dtype=np.uint8)).save(root / f"{i:02}.png")
    return root


def test_an_image_of_another_size_is_found_before_training(tmp_path):
    root = write_images(tmp_path / "data", [(8, 8)] * 20 + [(9, 8)])
    config = settings(root, name="folder", channels=1)
    refused(r"20\.png: is 9x8.*--config\.data\.size=8", build.experiment, config)
    config.data.size = 8
    assert build.experiment(config).examples.shape == build.experiment(config).data.train.shape == (8, 8, 1)


def test_training_goes_on_once_the_file_that_stopped_it_is_removed(tmp_path):
    root = write_images(tmp_path / "data", [(8, 8)] * 20)
    whole = (root / "07.png").read_bytes()
    (root / "07.png").write_bytes(whole[:-40])  # which its header doesn't tell
    config = settings(root, name="folder", channels=1, holdout=0.0)
    with contextlib.closing(Loader(data_of(config).train, batch_size=4, prefetch=1)) as loader:
        refused(r"07\.png: not a readable image .*; mend or remove it", lambda: [next(loader) for _ in range(6)])
        position = loader.get_state()
    (root / "07.png").unlink()
    with contextlib.closing(Loader(data_of(config).train, batch_size=4)) as loader:
        loader.set_state(position)
        assert next(loader)["index"][0, 0] == 4 * position["step"]


@pytest.mark.parametrize(
    "given, size, shape",
    [("8", 8, (8, 8, 1)), ("(8,16)", (8, 16), (8, 16, 1)), ("8,16", (8, 16), (8, 16, 1)), ("0", 0, (10, 20, 1))],
)
@pytest.mark.parametrize("kind", ["folder", "array"])
def test_sizes_on_the_command_line_are_a_side_or_height_and_width(tmp_path, monkeypatch, kind, given, size, shape):
    values, arguments = flags.FlagValues(), ["command", f"--config.data.size={given}", f"--config.data.crop={given}"]
    monkeypatch.setattr("sys.argv", arguments)  # where overrides are looked for
    config_flags.DEFINE_config_dict("config", get_config(), flag_values=values)
    values(arguments)
    root = write_images(tmp_path / "data", [(10, 20)] * 4)
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (4, 10, 20), dtype=np.uint8))
    config = values.config
    assert config.data.size == size and config.data.crop == size
    places = {"folder": root, "array": tmp_path / "x.npy"}
    config.data.update(name=kind, root=str(places[kind]), channels=1, crop=0)
    assert data_of(config).train.shape == shape
    assert records.as_json(config.to_dict())["data"]["size"] == (size if isinstance(size, int) else list(size))

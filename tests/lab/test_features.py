"""Images compared by features, and evaluations that are stopped, watched, or of published checkpoints."""

import importlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from score_jax import metrics
from score_jax.data import ArraySource, content_hash
from score_jax.data.order import permutation
from score_jax.lab import build, evaluate, evaluation, features, measures, records, run, samples
from score_jax.lab.experiment import FeatureComparison
from score_jax.lab.kept import Kept
from score_jax.lab.measures import Measured, frechet
from score_jax.lab.settings import changed
from score_jax.metrics import Features
from score_jax.networks.frozen import FeatureOutputs
from score_jax.types import InputError
from tests.helpers import refused

RNG = np.random.default_rng(0)
OF_FEATURES = (
    "frechet",
    "frechet_of_data",
    "kernel_distance",
    "precision_recall",
    "inception_score",
    "feature_tests",
)


class Corners(nn.Module):
    """The four numbers of a 2×2 image as its features, and as logits."""

    @nn.compact
    def __call__(self, x):
        flat = x.reshape(len(x), -1)[:, :4].astype(jnp.float32) / 255
        return FeatureOutputs(flat, 10 * flat)


def corners(name="corners"):
    return Features(name, 4, Corners(), {}, "none", channels=1, quantize=False, batch_size=32)


def of_corners(tmp_path, *, network=None, n=200, held_out=250, drawn=None, kept=150):
    """What images with Gaussian corners are measured as, of a training set of 400 and samples that are lighter."""
    x = 0.5 + 0.1 * RNG.normal(size=(400 + held_out, 2, 2, 1)).astype(np.float32)
    config = digits.get_config("mlp")
    config.evaluation.n, config.network.mlp.hidden, config.data.labels = n, (4,), False
    sources = ArraySource(x[:400]), ArraySource(x[400:])
    made = build.experiment(config, data=sources[0])
    how = FeatureComparison(lambda data: network or corners(), kept, 50, 20, 5, tmp_path)
    made = replace(
        made,
        data=replace(made.data, train=sources[0], held_out=sources[1]),
        evaluation=replace(made.evaluation, features=how),
    )
    drawn = (0.6 + 0.1 * RNG.normal(size=(n, 2, 2, 1))).astype(np.float32) if drawn is None else drawn
    subject = run.of_state(made, run.first_state(made), tmp_path)
    return Measured(subject, 0, drawn, None, {"x": x[:400]}, {"x": x[400:]}, ()), x


def numbers_of(subject):
    return measures.measure(subject, {name: measures.MEASURES[name] for name in OF_FEATURES})


def test_images_are_compared_by_features_with_the_conditions_of_each_number(tmp_path):
    """The numbers are those of the metrics on the same features: means ½ and 0.6 of N(., 0.01) are 4·0.1² = 0.04 apart.

    The error of that: d² = ‖m‖² + …, m the difference of means, of which the samples' has the variance 0.01/n each, so
    2·0.1·√(4·0.01/200) = 0.0028.
    """
    subject, x = of_corners(tmp_path)
    found = numbers_of(subject)
    assert found.pop("left_out") == {}
    a, b = corners()(subject.drawn), corners()(x[:400])
    told = found["frechet_distance"]
    assert told["value"] == pytest.approx(metrics.frechet(a, b), rel=1e-6)
    assert told["value"] == pytest.approx(0.04, abs=4 * 0.0028)
    assert told["standard_error"] == pytest.approx(0.0028, rel=0.5)
    held_out = corners()(x[400:][permutation(250, 0)[:200]])
    assert found["data_frechet_distance"]["value"] == pytest.approx(metrics.frechet(held_out, b), rel=1e-6)
    assert found["data_frechet_distance"]["value"] < 0.003 < 0.02 < told["value"]
    b = b[permutation(400, 0)]
    prdc = metrics.prdc(b[:150], a[:150], k=5)
    assert [found[name]["value"] for name in prdc._fields] == list(prdc)
    assert found["kernel_distance"]["n"] == found["precision"]["n"] == 150
    unbiased = metrics.kid(metrics_key(), a[:150], b[:150], subset_size=150, n_subsets=1)[0]  # of all rows at once
    assert abs(found["kernel_distance"]["value"] - unbiased) < 4 * found["kernel_distance"]["standard_error"]
    assert found["feature_c2st"]["value"] > 0.7 and found["feature_sliced_wasserstein2"]["value"] > 0.03
    conditions = {"features": "corners", "hash": corners().hash, "preprocessing": "none", "rounding": "float"}
    for number in found.values():
        assert conditions.items() <= number.items() and number["split"] == "train" and number["count"] == 400
    assert told["n"] == 200 and told["biased"] == "n < 10,000"
    assert "inception_score" not in found and "fid" not in found


def metrics_key():
    return jax.random.key(3)


@pytest.mark.slow
def test_only_inceptions_distance_is_called_fid(tmp_path):
    name = metrics.features.inception({}).name
    of_levels = replace(corners(name), quantize=True)
    found = numbers_of(of_corners(tmp_path, network=of_levels, held_out=100)[0])
    assert {"fid", "kid", "inception_score"} < set(found) and "frechet_distance" not in found
    assert found["left_out"] == {
        "frechet_of_data": "data are compared with data at equal n only: 100 are held out, of 200 samples"
    }
    assert of_levels.distance_name == "FID" != corners(name).distance_name  # which takes images of floats
    probabilities = np.asarray(of_levels.with_probabilities(of_corners(tmp_path)[0].drawn)[1])
    assert found["inception_score"]["splits"] == 10
    assert found["inception_score"]["value"] == pytest.approx(metrics.inception_score(probabilities)[0], rel=0.05)


def test_covariances_without_rank_and_too_few_images_are_said(tmp_path):
    sets = [SimpleNamespace(moments=metrics.Moments.of(RNG.normal(size=(n, 5)))) for n in (4, 5, 30)]
    told = {(a, b): frechet._warnings(sets[a], sets[b]).get("biased") for a in (0, 2) for b in (1, 2)}
    lacking = "n < 10,000; n <= 5 features, so that the covariance lacks rank"
    assert told == {
        (0, 1): f"{lacking}; 5 training images <= 5 features, likewise",
        (0, 2): lacking,
        (2, 1): "n < 10,000; 5 training images <= 5 features, likewise",
        (2, 2): "n < 10,000",
    }
    few = of_corners(tmp_path, n=10)[0]
    assert set(numbers_of(few)["left_out"].values()) == {"features are compared of at least 20 images, got 10"}
    assert numbers_of(of_corners(tmp_path, drawn=np.full((200, 2, 2, 1), np.nan, np.float32))[0])["left_out"]["frechet"]


def test_features_of_the_training_set_are_made_once(tmp_path, monkeypatch):
    source = ArraySource(RNG.integers(0, 256, (60, 2, 2, 1)).astype(np.uint8))
    options = {"split": "train", "kept": 30, "cache": tmp_path, "data_hash": content_hash(source)}
    first = features.reference(corners(), source, **options)
    expected = corners()(source.x / np.float32(255))
    np.testing.assert_allclose(first.moments.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(first.rows, expected[permutation(60, 0)[:30]])  # that come in no order
    other = features.reference(corners("other"), source, **options)
    assert other.conditions["features"] == "other" and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(Features, "with_probabilities", lambda *_: pytest.fail("made again"))
    again = features.reference(corners(), source, **options)
    np.testing.assert_array_equal(again.moments.scatter, first.moments.scatter)
    np.testing.assert_array_equal(again.rows, first.rows)
    monkeypatch.undo()
    for path in tmp_path.rglob("moments.npz"):
        path.write_bytes(path.read_bytes()[:100])  # damaged: made anew
    np.testing.assert_array_equal(features.reference(corners(), source, **options).rows, first.rows)
    changed = ArraySource(np.concatenate([source.x[:59], 255 - source.x[59:]]))
    assert content_hash(changed) != options["data_hash"]
    options["data_hash"] = content_hash(changed)
    assert not np.array_equal(features.reference(corners(), changed, **options).moments.mean, first.moments.mean)
    strange = ArraySource(source.x / np.float32(100) - 1)
    refused(r"in \[0, 1\], and the data have values from -1 to 1.5", features.images_of, strange, np.arange(60))


def test_the_classifier_of_grey_images_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("score_jax.metrics.grey_features"), "_LEAST_STEPS", 60)
    label = np.arange(200) % 2
    x = (label[:, None, None, None] * 200 + RNG.integers(0, 50, (200, 8, 8, 1))).astype(np.uint8)
    first = features.grey_network(ArraySource(x, label), cache=tmp_path)
    assert first.accuracy == 1 and list(first.classes) == [0, 1]
    other = features.grey_network(ArraySource(x, label), cache=tmp_path, seed=1)
    assert other.features.hash != first.features.hash
    monkeypatch.setattr(metrics, "train_grey_features", lambda *_: pytest.fail("trained again"))
    again = features.grey_network(ArraySource(x, label), cache=tmp_path)
    assert again.features.hash == first.features.hash and again.accuracy == 1
    np.testing.assert_array_equal(again.features(x[:5]), first.features(x[:5]))
    refused("need data with classes", features.grey_network, ArraySource(x), cache=tmp_path)
    refused(
        r"are of images \(H, W, 1\), got \(2,\)", features.grey_network, ArraySource(x[:, :2, 0, 0]), cache=tmp_path
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "clip"},
            "evaluation.features.name 'clip' does not exist: choose one of grey, efficientnet_lite0",
        ),
        ({"name": "inception"}, "needs its weights, which are not fetched: give --config.evaluation.features.weights"),
        ({"name": "inception", "weights": "nowhere.pth"}, "evaluation.features.weights: there is no file nowhere.pth"),
        ({"name": "grey", "weights": "some.pth"}, "grey is trained on the data: leave evaluation.features.weights"),
        ({"name": "grey", "k": 0}, "evaluation.features.k"),
        ({"name": "json:loads"}, "is no feature network: expected a class of score_jax.metrics.features.Features"),
    ],
)
def test_features_that_cannot_be_had_are_refused_before_anything(changes, message):
    config = digits.get_config("mlp")
    config.evaluation.features.update(changes)
    refused(message, build.experiment, config)


# Evaluations that stop


def tiny_config(n=37):
    config = digits.get_config("mlp")
    config.network.mlp.hidden = (8,)
    config.training.update(steps=40, steps_per_dispatch=20, log_every=20, checkpoint_every=20, batch_size=16)
    config.optimizer.warmup_steps = 5
    config.sampler.update(name="ddim", grid="log_snr", steps=3, n=8, batch_size=4)
    config.evaluation.n, config.evaluation.measures = n, ("nearest_neighbours", "conditional_accuracy")
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run.train(build.experiment(tiny_config()), tmp_path_factory.mktemp("runs") / "digits")


def in_batches_of(size, subject):
    sampling = replace(subject.experiment.sampling, batch_size=size)
    return replace(subject, sampling=sampling, experiment=replace(subject.experiment, sampling=sampling))


def test_samples_in_parts_are_those_drawn_at_once(trained):
    labels = samples.classes_in_turn(trained.examples, 37)
    for options in ({"labels": labels, "seed": 3}, {}):
        whole = samples.draw_samples(trained, n=37, **options)
        parts = samples.draw_in_parts(trained, Kept(None, {}), "samples", n=37, **options)
        np.testing.assert_array_equal(parts.x, whole.x)
        assert parts.nfe == whole.nfe == 4


def test_an_evaluation_that_was_stopped_goes_on_and_has_the_same_numbers(trained, monkeypatch, tmp_path):
    own = in_batches_of(8, replace(trained, workdir=tmp_path))
    whole = evaluation.evaluate(own, folder=tmp_path / "whole")
    drawn, real = [], samples.draw.draw_many

    def counted(*args, **options):
        drawn.append(options["first"])
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(samples.draw, "draw_many", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(own, folder=tmp_path / "again")
    kept = sorted(path.name for path in (tmp_path / "again" / ".unfinished").glob("*.npz"))
    assert kept == ["samples-0-8.npz", "samples-16-24.npz", "samples-8-16.npz"]
    assert not evaluation.is_done(tmp_path / "again")
    (tmp_path / "again" / ".unfinished" / "samples-8-16.npz").write_bytes(b"cut off")
    assert evaluation.evaluate(own, folder=tmp_path / "again") == whole
    assert drawn == [0, 8, 16, 24, 8, 24, 0, 8, 16, 24]  # with labels, and without
    assert not (tmp_path / "again" / ".unfinished").exists() and evaluation.is_done(tmp_path / "again")
    # Memory was short: smaller batches, whose samples are the same.
    monkeypatch.setattr(samples.draw, "draw_many", counted)
    drawn.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(own, folder=tmp_path / "smaller")
    assert evaluation.evaluate(in_batches_of(5, own), folder=tmp_path / "smaller") == whole
    parts = Kept(tmp_path / "parts", {"seed": 0})
    parts.once("a", lambda: {"x": np.ones(2)})
    assert Kept(tmp_path / "parts", {"seed": 0}).has("a") and not Kept(tmp_path / "parts", {"seed": 1}).has("a")


def test_what_cannot_be_kept_costs_nothing_but_time(tmp_path, monkeypatch, caplog):
    """A full disk; a folder that another process has just made, and not told what it is of; one of other conditions."""

    def full(path, content):
        raise InputError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr("score_jax.lab.kept.write_json", full)
    np.testing.assert_array_equal(Kept(tmp_path / "a", {}).once("x", lambda: {"x": np.ones(2)})["x"], 1)
    assert "cannot be kept" in caplog.text and "No space left" in caplog.text
    monkeypatch.undo()
    (tmp_path / "b").mkdir()
    Kept(tmp_path / "b", {"seed": 1})
    assert (tmp_path / "b").is_dir()
    Kept(tmp_path / "b", {"seed": 1}).once("x", lambda: {"x": np.ones(2)})
    assert not Kept(tmp_path / "b", {"seed": 2}).has("x") and list(tmp_path.glob("b*")) == []


def test_features_go_on_where_they_were_stopped_by_the_same_network_alone(tmp_path, monkeypatch):
    subject, _ = of_corners(tmp_path)
    unfinished, calls, real = Kept(tmp_path / "kept", {}), [], Features.with_probabilities
    read = lambda start, stop: subject.drawn[start:stop]
    whole = features.of_images(corners(), read, 200, kept=150, unfinished=Kept(None, {}), name="samples")

    def counted(self, images):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(Features, "with_probabilities", counted)
    monkeypatch.setattr(features, "_KEPT", 8)  # of parts of 20: three pieces each
    with pytest.raises(KeyboardInterrupt):
        features.of_images(corners(), read, 200, kept=150, unfinished=unfinished, name="samples")
    again = features.of_images(corners(), read, 200, kept=150, unfinished=unfinished, name="samples")
    assert calls == [6, 7, 7, 6] + [6, 7, 7] * 9
    np.testing.assert_array_equal(again.rows, whole.rows)
    np.testing.assert_allclose(again.scores, whole.scores, rtol=1e-12)
    np.testing.assert_allclose(again.moments.scatter, whole.moments.scatter, rtol=1e-12)
    assert again.moments.n == 200 and len(again.parts) == 10
    other = replace(corners(), variables={"params": {"weights": np.ones(3)}})  # of other weights, nothing is taken
    features.of_images(other, read, 200, kept=150, unfinished=unfinished, name="samples")
    assert len(calls) == 4 + 27 + 30


def test_the_run_has_its_numbers_before_the_evaluation_counts_as_done(trained, monkeypatch, tmp_path):
    own, written, real = replace(trained, workdir=tmp_path), [], evaluation.write_json

    def once(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        real(path, content)

    monkeypatch.setattr(evaluation, "write_json", once)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(own)
    assert written == [tmp_path / "evaluation.json"]
    assert not evaluation.is_done(evaluation.evaluation_folder(own, own.experiment.seed))


def test_other_data_other_weights_and_other_networks_are_other_evaluations(trained, tmp_path):
    config = digits.get_config("mlp")
    conditions = lambda changes: build.experiment(changed(config, changes)).evaluation.conditions
    base = conditions({})
    for changes in ({"data.holdout": 0.2}, {"evaluation.features.k": 3}):
        assert conditions(changes) != base
    weights = [records.measured_by({"features": {"weights": name, "cache": name}}) for name in ("a", "b")]
    assert weights[0] != weights[1] and "cache" not in weights[0]["features"]


def test_numbers_of_any_form_are_shown():
    assert evaluate._shown({"mode": "a", "of": [0.25, "b"]}) == "mode: a  of: 0.250  b"
    assert evaluate._shown({"value": 1.0, "standard_error": 0.1, "n": 8}) == "1 ± 0.1  (n 8)"


def watching(monkeypatch, **given):
    given = {"out": None, "step": None, "seed": None, "watch": True} | given
    monkeypatch.setattr(evaluate, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**given)))


def test_each_new_checkpoint_of_a_run_that_trains_is_measured(trained, monkeypatch, tmp_path, capsys):
    shutil.copytree(trained.workdir, tmp_path / "run")
    later = tmp_path / "run" / "checkpoints" / "40"
    later.rename(tmp_path / "40")
    watching(monkeypatch)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        (tmp_path / "40").rename(later)  # the run has gone on meanwhile

    monkeypatch.setattr(evaluate, "time", SimpleNamespace(sleep=sleep))
    evaluate._watch(lambda: trained.experiment, tmp_path / "run")
    steps = [json.loads(p.read_text())["step"] for p in (tmp_path / "run" / "evaluations").glob("*/evaluation.json")]
    assert sorted(steps) == [20, 40] and len(looks) == 1
    said = capsys.readouterr().out
    assert "at step 20" in said and "waiting for the next checkpoint" in said and "at step 40" in said
    evaluate._watch(lambda: trained.experiment, tmp_path / "run")  # again: nothing is left to measure
    assert "evaluating" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / "evaluations")
    evaluate._watch(lambda: trained.experiment, tmp_path / "run")  # of a run that has ended: each checkpoint, in order
    said = capsys.readouterr().out
    assert 0 < said.index("at step 20") < said.index("at step 40") and "waiting" not in said
    watching(monkeypatch, step=20)
    refused("leave --out and --step", evaluate._watch, lambda: trained.experiment, tmp_path)


def test_a_run_is_watched_from_before_its_first_checkpoint_and_past_a_damaged_one(
    trained, monkeypatch, tmp_path, capsys
):
    """The settings are the run's once it has some: another sampler's numbers are not the run's own."""
    shutil.copytree(trained.workdir, tmp_path / "run")
    shutil.move(tmp_path / "run" / "checkpoints", tmp_path / "later")
    for path in (tmp_path / "later" / "20").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    watching(monkeypatch)
    sleep = lambda seconds: shutil.move(tmp_path / "later", tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(sleep=sleep))
    config = tiny_config()
    config.sampler.steps = 2
    evaluate._watch(lambda: build.experiment(config, before=run.before(tmp_path / "run")), tmp_path / "run")
    said = capsys.readouterr().out
    assert "left out: " in said and "/checkpoints/20" in said and "at step 40" in said
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert len(list((tmp_path / "run" / "evaluations").glob("*/evaluation.json"))) == 1

"""What is measured of a trained model: the right number where it can be had, and else the reason."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from configs import toy
from score_jax import sde as sdes
from score_jax.data import ArraySource, hold_out, some_examples
from score_jax.data.order import permutation
from score_jax.devices import device_mesh
from score_jax.distributions import GaussianMixture, score_of
from score_jax.lab import build, measures, run
from score_jax.lab.experiment import Data, Examples, Preparation
from score_jax.lab.measures import Measured
from score_jax.lab.measures.bound import bound_of_run
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.lab.measures.likelihood import FlowIntegration, likelihood_of_run, nats
from score_jax.lab.measures.measured import by_sigma, labels_of
from score_jax.lab.measures.score_error import error_of
from score_jax.training.logging import write_json
from score_jax.training.step import level_sigmas
from score_jax.types import InputError
from tests.helpers import refused

RNG = np.random.default_rng(0)
OF_SAMPLES = ("distances", "nearest_neighbours", "copies", "class_shares", "conditional_accuracy")


def test_one_number_that_cannot_be_had_costs_no_other():
    def lacking(subject):
        raise InputError("too few")

    found = measures.measure(
        None,
        {
            "first": lambda subject: {"a": 1.0, "shares": [0.5, 0.5], "words": "of two", "none": None},
            "second": lacking,
            "third": lambda subject: {"b": float("inf"), "by_sigma": {"0.1": 2.0, "1": float("nan")}, "c": 3},
            "fourth": lambda subject: {
                "weights": [1.0, float("nan")],
                "all_by_sigma": {"0.1": float("nan"), "1": float("inf")},
                "with_error": {"value": float("nan"), "standard_error": 0.1, "n": 512},
            },
        },
    )
    left_out = found.pop("left_out")
    assert found == {"a": 1.0, "shares": [0.5, 0.5], "words": "of two", "none": None, "by_sigma": {"0.1": 2.0}, "c": 3}
    assert left_out == {
        "second": "too few",
        "b": "not finite: inf",
        "by_sigma": "not finite at 1",
        "weights": "not finite: [1.0, nan]",
        "all_by_sigma": "not finite at 0.1, 1",
        "with_error": "not finite: nan",
    }
    # Of numpy's types and JAX's, and of none: what is returned is Python's, or a reason.
    found = measures.measure(
        None,
        {
            "arrays": lambda subject: {
                "d": np.float32(1.5),
                "e": np.int64(3),
                "f": jnp.ones(2),
                "g": np.float32("nan"),
            },
            "number": lambda subject: 3.0,
            "object": lambda subject: {"h": object()},
            "again": lambda subject: {"d": 2.0},
            "condition": lambda subject: {"step": 7},
        },
        taken=("step",),
    )
    left_out = found.pop("left_out")
    assert json.loads(json.dumps(found)) == {"d": 1.5, "e": 3, "f": [1.0, 1.0]}
    assert "its 'h' is <object" in left_out.pop("object")
    assert left_out == {
        "g": "not finite: nan",
        "number": "returned float: expected numbers by name, {'name': number}",
        "again": "its number 'd' has the name of another: call it otherwise",
        "condition": "its number 'step' has the name of another: call it otherwise",
    }
    with pytest.raises(ZeroDivisionError):  # a defect is not a reason
        measures.measure(None, {"broken": lambda subject: {"a": 1 / 0}})


def measured(x, label=None, held_out=None, *, holdout=10, drawn=None, asked=None):
    """The measures of samples alone, of samples like the data unless `drawn`."""
    train, rest = hold_out(ArraySource(np.asarray(x, np.float32), label), holdout)
    batches = [source.batch(np.arange(len(source))) for source in (train, rest if held_out is None else held_out)]
    data = Data("array", train, rest, train)
    examples = Examples(
        "array", train.shape, train.grey_levels, (0.0, 1.0), train.names, without_labels="has no classes"
    )
    sampling = SimpleNamespace(name="annealed_langevin", require_score=lambda: None)
    of = SimpleNamespace(examples=examples, experiment=SimpleNamespace(data=data), sampling=sampling)
    drawn = batches[0]["x"][:8] if drawn is None else drawn
    conditional = None if asked is None else (drawn, asked)
    subject = Measured(of, 0, drawn, conditional, *batches, train.names)
    chosen = [name for name in OF_SAMPLES if _offered(name, train, asked)]
    numbers = measures.measure(subject, {name: measures.MEASURES[name] for name in chosen})
    json.dumps(numbers, allow_nan=False)
    return numbers


def _offered(name, train, asked):
    """Whether the data allow a measure: what those that they don't say is in `test_a_measure_that_the_data_don't`."""
    allowed = {
        "distances": len(train.shape) != 3,
        "class_shares": train.num_classes > 0,
        "conditional_accuracy": asked is not None,
    }
    return allowed.get(name, True)


IMAGES = RNG.random((60, 4, 4, 1))


@pytest.mark.parametrize(
    "label, got",
    [
        (np.zeros(60, int), "1 class(es), the rarest (0) with 50"),
        (np.r_[np.zeros(57, int), 1, 1, 1], "2 class(es), the rarest (1) with"),
        (np.arange(60), "50 class(es), the rarest"),
    ],
)
def test_classes_that_no_classifier_can_learn_are_left_out(label, got):
    numbers = measured(IMAGES, label, asked=np.zeros(8, int))
    assert set(numbers["left_out"]) == {"class_shares", "conditional_accuracy"}
    for reason in numbers["left_out"].values():
        assert reason.startswith("a classifier needs two classes with 5 images each, got ") and got in reason
    assert numbers["nearest_neighbour_distance"] == 0  # the samples are training images


def test_a_classifier_reports_what_it_can_of_classes_that_are_not_held_out():
    bright = np.concatenate([0.1 * IMAGES[:30], 1 - 0.1 * IMAGES[:30]])
    held_out = ArraySource(0.1 * IMAGES[30:40].astype(np.float32), np.zeros(10, int), num_classes=2)
    asked = np.r_[np.zeros(6, int), 1, 1]
    numbers = measured(bright, np.repeat([0, 1], 30), held_out, drawn=bright[:8].astype(np.float32), asked=asked)
    assert numbers["left_out"] == {} and numbers["class_names"] == ["0", "1"]
    assert numbers["class_shares"] == numbers["data_class_shares"] == [1, 0]
    assert numbers["held_out_accuracy"] == 1 and numbers["conditional_accuracy"] == 6 / 8
    np.testing.assert_allclose(numbers["conditional_accuracy_standard_error"], (6 / 8 * 2 / 8 / 8) ** 0.5)
    assert numbers["conditional_accuracy_by_class"] == [1, 0]


def test_samples_that_leave_the_range_of_images_are_counted():
    drawn = IMAGES[:8].astype(np.float32)
    drawn[0, 1, 2], drawn[3, 0, 0], drawn[4, 3, 3] = -0.11, 1.09, 1.5
    of = SimpleNamespace(examples=Examples("array", (4, 4, 1), 256, (-1.0, 1.0)))
    of.sampling = SimpleNamespace(name="ddim", require_score=lambda: None)
    numbers = measures.MEASURES["outside_range"](Measured(of, 0, drawn, None, {}, {}, ()))
    assert numbers["outside_range"] == 2 / 8
    np.testing.assert_allclose([numbers["smallest_value"], numbers["largest_value"]], [-0.11, 1.5], rtol=1e-6)


def test_float_images_of_any_range_are_measured_but_for_the_classifier():
    numbers = measured(10 * IMAGES - 5, np.repeat([0, 1], 30))
    assert set(numbers["left_out"]) == {"class_shares"}
    assert "expected training images in [0, 1], got [-" in numbers["left_out"]["class_shares"]


def test_examples_that_come_class_by_class_are_measured_as_in_any_order():
    """Two classes 10 apart, in the order of their names: half of the data are as the other half."""
    x = RNG.normal(size=(400, 2)) + 10 * np.repeat([0, 1], 200)[:, None]
    numbers = measured(x, np.repeat([0, 1], 200), holdout=200)
    assert numbers["data_energy_distance"] < 0.5  # of the halves in their order: about 10
    source = ArraySource(x.astype(np.float32), np.repeat([0, 1], 200))
    drawn = some_examples(source, 100)
    assert 30 < drawn["label"].sum() < 70 and len(some_examples(source, 1000)["x"]) == 400  # 50 ± 4·5
    np.testing.assert_array_equal(some_examples(source, 400)["label"], source.label)
    grey = ArraySource(np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1))
    np.testing.assert_allclose(some_examples(grey, 3)["x"].ravel(), [0, 0.2, 1], rtol=1e-6)


def test_a_model_of_classes_beside_data_without_costs_no_other_number():
    examples = Examples("array", (2,), 0, (0.0, 1.0), ("a", "b"), null_label=False)
    refused("needs a class for each example", labels_of, examples, {"x": np.ones((3, 2))})
    numbers = measured(IMAGES, asked=np.zeros(8, int))
    assert numbers["left_out"]["conditional_accuracy"] == "a classifier needs classes, which the data 'array' have not"


@pytest.mark.parametrize("shape", [(), (1,), (5,), (6, 2), (2, 2, 2, 1)])
def test_examples_of_any_shape_have_distances(shape):
    numbers = measured(RNG.normal(size=(60, *shape)))
    assert numbers["left_out"] == {} and numbers["distances_n"] == 5 and numbers["nearest_neighbour_ratio"] == 0
    assert {"energy_distance", "mmd2", "sliced_wasserstein2", "data_energy_distance"} < set(numbers)


def test_without_held_out_data_distances_are_to_the_training_set_and_say_so():
    x = RNG.normal(size=(20, 3))
    numbers = measured(x, holdout=0, drawn=x[permutation(20, 0)[:10]].astype(np.float32))
    assert numbers["train_sliced_wasserstein2"] == 0 and numbers["train_data_sliced_wasserstein2"] > 0
    assert "energy_distance" not in numbers and set(numbers["left_out"]) == {"copies"}


@pytest.mark.parametrize(
    "x, holdout, reasons",
    [
        (np.ones((1, 3)), 0, {"distances": "distances take 4 training examples.* got 1", "copies": "nothing was held"}),
        (np.arange(12.0).reshape(4, 3), 1, {"distances": "distances take 4 held-out examples.* got 1"}),
        (np.ones((30, 3)), 10, {"copies": "half of the held-out examples are in the training set"}),
        (np.ones((30, 1, 1, 1)), 10, {"copies": "half of the held-out examples are in the training set"}),
    ],
)
def test_few_or_equal_examples_leave_out_what_they_do_not_allow(x, holdout, reasons):
    numbers = measured(x, holdout=holdout)
    assert set(numbers["left_out"]) == set(reasons) and numbers["nearest_neighbour_distance"] == 0
    for name, reason in reasons.items():
        refused(reason, _raise, numbers["left_out"][name])


def _raise(reason):
    raise InputError(reason)


def test_nothing_is_learned_from_what_is_left_of_diverged_samples():
    drawn = IMAGES[:8].astype(np.float32)
    drawn[2, 0, 0] = np.inf
    numbers = measured(IMAGES, drawn=drawn)
    assert set(numbers) == {"left_out"}
    assert numbers["left_out"]["copies"].startswith("1 of 8 samples are not finite: the sampler annealed_langevin")


# Likelihood


@struct.dataclass
class Exact:
    """A model whose score is a density's own."""

    sde: sdes.SDE
    density: GaussianMixture

    def conditioned(self, *, label):
        return score_of(self.density, self.sde)


@pytest.mark.parametrize("sde", [sdes.VP(), sdes.VE(sigma_min=0.1, sigma_max=50.0)], ids=["vp", "ve"])
def test_the_likelihood_of_an_exact_score_is_the_exact_density(sde):
    density = GaussianMixture(jnp.array([0.8, 0.2]), jnp.array([[2.0, 2.0], [-2.0, -2.0]]), jnp.array([1.0, 1.0]))
    x = np.asarray(density.sample(jax.random.key(1), 24))
    flow = FlowIntegration(float(sde.t_min), float(sde.t_max), 1, 1e-5, 10, device_mesh())
    numbers = nats(jax.random.key(0), Exact(sde, density), x, None, flow, oracle=density)
    # By hand: of data noised to t_min, N(±α(2, 2), (α² + σ²) I).
    alpha, variance = float(sde.alpha(sde.t_min)), float(sde.variance(sde.t_min))
    squared = [((x - alpha * centre) ** 2).sum(1) / (2 * (alpha**2 + variance)) for centre in (2, -2)]
    p = (0.8 * np.exp(-squared[0]) + 0.2 * np.exp(-squared[1])) / (2 * np.pi * (alpha**2 + variance))
    np.testing.assert_allclose(numbers["exact_log_likelihood"], np.log(p).mean(), rtol=1e-5)
    # The prior is not quite the law at t_max: on VE by 24/50² nats at most, on VP by e⁻⁵.
    np.testing.assert_allclose(numbers["log_likelihood"], np.log(p).mean(), atol=5e-3)
    assert numbers["log_likelihood_per_dim"] == numbers["log_likelihood"] / 2 and numbers["log_likelihood_n"] == 24
    np.testing.assert_allclose(numbers["log_likelihood_standard_error"], np.log(p).std(ddof=1) / 24**0.5, rtol=3e-2)
    for words in ("nats per example", "not dequantized", "exact divergence", f"(σ/α = {variance**0.5 / alpha:.3g})"):
        assert words in numbers["log_likelihood_convention"]


def test_the_likelihood_of_grey_levels_stored_as_floats_is_refused():
    """Told by the training examples: the few whose likelihood is asked may differ in all of their numbers."""
    grey = ArraySource(RNG.integers(0, 256, (60, 4, 4, 1)).astype(np.float32) / 255)
    train, held_out = hold_out(grey, 10)
    how = SimpleNamespace(likelihood_n=1, t_min=1e-5, likelihood_probes=1, likelihood_tolerance=1e-5)
    prepare = Preparation(0, True, False, (0.0, 1.0))
    examples = Examples("array", grey.shape, 0, (0.0, 1.0))
    data = Data("array", train, held_out, train)
    experiment = SimpleNamespace(data=data, evaluation=how, prepare=prepare, examples=examples)
    of = SimpleNamespace(
        experiment=experiment,
        examples=examples,
        model=SimpleNamespace(sde=sdes.VP()),
        sampling=SimpleNamespace(batch_size=1, require_score=lambda: None, mesh=device_mesh()),
    )
    refused("spread every grey level over its cell", likelihood_of_run, of, 0)


# By noise level


def test_a_noise_level_has_one_name_in_all_numbers_of_a_run(tmp_path):
    """σ/α, ascending, on VP, where σ is another: 0.9999 at t_max, where σ/α is 152."""
    config = toy.get_config()
    config.sde.name, config.network.mlp.hidden, config.data.n = "vp", (8,), 500
    experiment = build.experiment(config)
    state = run.first_state(experiment)
    error = error_of(run.of_state(experiment, state, tmp_path), 0)
    levels = level_sigmas(experiment.model.sde, 12)
    np.testing.assert_allclose(error.sigma, levels, rtol=1e-3)
    loss = loss_of_state(experiment)(state)["loss_by_sigma"]
    assert list(loss) == list(by_sigma(levels, error.relative))
    sigmas = [float(sigma) for sigma in loss]
    assert sigmas == sorted(sigmas) and sigmas[-1] > 50
    evaluation_json = tmp_path / "evaluation.json"
    write_json(evaluation_json, {"loss_by_sigma": loss})
    assert list(json.loads(evaluation_json.read_text())["loss_by_sigma"]) == list(loss)


def test_the_bound_of_data_without_grey_levels_is_left_out_with_the_reason():
    config = toy.get_config()
    config.evaluation.bound_n = 3
    config.sampler.update(name="ancestral", grid="log_snr")
    experiment = build.experiment(config)
    of = run.of_state(experiment, run.first_state(experiment), "nowhere")
    refused(r"of grey levels, which 'eight_gaussians' has not: .*bound_n=0", bound_of_run, of, 0)


def test_a_measure_that_the_data_do_not_allow_says_why(tmp_path):
    """Of every measure the reason is what the data lack, or nothing where it was not asked for."""
    config = toy.get_config()
    config.data.update(name="swiss_roll", n=64)  # no modes, no classes
    experiment = build.experiment(config)
    of = run.of_state(experiment, run.first_state(experiment), tmp_path)
    x = np.zeros((8, 2), np.float32)
    subject = Measured(of, 0, x, None, {"x": x}, {"x": x}, ())
    chosen = ("mode_weights", "class_shares", "conditional_accuracy", "likelihood", "bound")
    numbers = measures.measure(subject, {name: measures.MEASURES[name] for name in chosen})
    assert numbers == {
        "left_out": {
            "mode_weights": "the data 'swiss_roll' have no modes to be weighed",
            "class_shares": "the data 'swiss_roll' have no classes that a classifier could tell apart",
            "conditional_accuracy": "this model was trained without labels: train it in a new workdir with "
            "--config.data.labels=True to choose",
        }
    }

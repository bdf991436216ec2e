"""Guidance by settings: what is drawn, what it costs and is called, what shares a training, what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from score_jax import adapters
from score_jax.data import ArraySource, toy
from score_jax.lab import build, evaluation, records, run, samples, show
from score_jax.lab.build import network as of_network
from score_jax.lab.build import noise as of_noise
from score_jax.lab.build import objective as of_objective
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.lab.measures.measured import Measured
from score_jax.lab.measures.noised_accuracy import accuracy_of, noised_accuracy
from score_jax.lab.measures.score_error import error_of
from score_jax.lab.sweeps.figures import row_name
from score_jax.lab.sweeps.table import Row
from score_jax.training.step import level_sigmas
from tests.helpers import key, refused
from tests.lab import sweeping

ROOT = Path(__file__).parents[2]
LABELS = np.arange(8, dtype=np.int32)


def config_of(**changes):
    config = sweeping.base()
    config.data.labels = True
    config.optimizer.warmup_steps = 2
    config.training.update(checkpoint_every=6, keep_last=2, label_dropout=0.5)
    config.evaluation.measures = ("held_out_loss", "noised_accuracy", "conditional_accuracy")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


CLASSIFIER = {"objective__name": "classification", "evaluation__levels": 5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of three trained runs: with labels, without, and of a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"labelled": {}, "free": {"data__labels": False}, "classifier": CLASSIFIER}
    for name, changed in changes.items():
        run.train(build.experiment(config_of(**changed)), folder / name)
    return folder


def restored(runs, name="labelled", **changes):
    """A run by other settings, those of guidance without their section."""
    guidance = {key: changes.pop(key) for key in ("guide", "scale", "interval", "workdir", "step") if key in changes}
    config = config_of(**changes)
    config.sampler.guidance.update(guidance)
    return run.restore(build.experiment(config, before=run.before(runs / name)), runs / name)


def drawn(trained, labels=LABELS):
    return samples.draw_samples(trained, n=8, labels=labels, quiet=True)


def test_scale_one_costs_nothing_and_changes_no_name(runs):
    plain, one = restored(runs), restored(runs, scale=1.0, interval=(0.1, 2.0))
    assert one.sampling.guidance is None and one.sampling.conditions == plain.sampling.conditions
    assert drawn(plain).nfe == len(plain.sampling.ts)  # ddim's steps, and the denoise
    assert "guidance" not in plain.sampling.conditions["sampler_settings"]


def test_samples_go_from_unconditional_to_conditional_and_beyond(runs):
    """Scale 0 is label −1; a scale that acts at no level is 1; twice the evaluations, and a name of its own."""
    plain, none = restored(runs), restored(runs, scale=0.0)
    np.testing.assert_allclose(drawn(none).x, drawn(plain, np.full(8, -1)).x, rtol=1e-4, atol=1e-4)
    nowhere = drawn(restored(runs, scale=9.0, interval=(1e7, 1e8)))
    np.testing.assert_allclose(nowhere.x, drawn(plain).x, rtol=1e-4, atol=1e-4)
    assert nowhere.nfe == 2 * drawn(plain).nfe
    led = restored(runs, scale=3.0)
    assert abs(drawn(led).x - drawn(plain).x).max() > 1e-3
    np.testing.assert_allclose(drawn(led, np.full(8, -1)).x, drawn(none).x, rtol=1e-4, atol=1e-4)
    names = {records.name_of(one.sampling.conditions | {"seed": 0}) for one in (plain, none, led)}
    assert len(names) == 3 and led.sampling.conditions["sampler_settings"]["guidance"]["scale"] == 3


def test_a_classifiers_run_gives_its_classes_to_a_model_without_labels(runs):
    by_classifier = {"guide": "classifier", "workdir": str(runs / "classifier")}
    plain, led = (restored(runs, "free", data__labels=False, **how) for how in ({}, by_classifier | {"scale": 5.0}))
    assert led.examples.names == tuple(map(str, range(8))) and not led.experiment.examples.names
    assert led.sampling.conditions["guide"] == {"step": 12}
    np.testing.assert_allclose(drawn(led, np.full(8, -1)).x, drawn(plain, None).x, rtol=1e-4, atol=1e-4)
    assert abs(drawn(led).x - drawn(plain, None).x).max() > 1e-3 and drawn(led).nfe == 2 * drawn(plain, None).nfe
    numbers = evaluation.evaluate(led)  # of samples that are led, and the model's own loss
    assert numbers["n"] == 32 and numbers["nfe"] == drawn(led).nfe and numbers["guide"] == {"step": 12}
    assert numbers["loss_by_sigma"] == loss_of_state(plain.experiment)(plain.state)["loss_by_sigma"]
    # At scale 0 it is the model by itself; with labels of its own too, both lead.
    zero = restored(runs, "free", data__labels=False, scale=0.0, **by_classifier)
    np.testing.assert_allclose(drawn(zero).x, drawn(plain, None).x, rtol=1e-4, atol=1e-4)
    both = restored(runs, scale=0.0, **by_classifier)
    np.testing.assert_allclose(drawn(both).x, drawn(restored(runs)).x, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_earlier_checkpoint_of_a_run_guides_it(runs):
    """By itself a model is not led away from: s + w (s − s) = s."""
    itself = {"guide": "autoguidance", "workdir": str(runs / "labelled"), "scale": 4.0}
    plain, same, earlier = restored(runs), restored(runs, **itself), restored(runs, **itself, step=6)
    np.testing.assert_allclose(drawn(same).x, drawn(plain).x, rtol=1e-4, atol=1e-4)
    assert abs(drawn(earlier).x - drawn(plain).x).max() > 1e-3
    assert earlier.sampling.conditions["guide"] == {"step": 6}
    free = restored(runs, **itself | {"workdir": str(runs / "free"), "scale": 0.0})  # a network without labels guides
    unlabelled = restored(runs, "free", data__labels=False)
    np.testing.assert_allclose(drawn(free).x, drawn(unlabelled, None).x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__labels": False}, "leads to labels, and this model was trained without labels: train it .*labels=True"),
        ({"training__label_dropout": 0.0}, "never learned .*training.label_dropout=0.*: train with --config"),
        ({"interval": (2.0, 1.0)}, r"interval is two increasing numbers of σ/α from 0.*, got \(2.0, 1.0\)"),
        ({"interval": (-1.0, 1.0)}, r"interval is two increasing numbers of σ/α from 0.*, got \(-1.0, 1.0\)"),
        ({"interval": (1.0,)}, "interval is two increasing numbers"),
        ({"scale": -2.0}, "sampler.guidance.scale is a number from 0, got -2.0"),
        ({"guide": "clasifier"}, "guide 'clasifier' does not exist: choose one of unconditional, autoguidance, clas"),
        ({"guide": "classifier"}, "guide 'classifier' is a run of its own: give its folder"),
        ({"workdir": "labelled"}, "is of a run that guides, and the guide is 'unconditional'"),
        ({"guide": "classifier", "workdir": "labelled"}, "labelled', is no classifier: train one with"),
        ({"guide": "autoguidance", "workdir": "classifier"}, "classifier', is a classifier: set .*guide=classifier"),
        ({"guide": "autoguidance", "workdir": "nothing"}, "workdir: .*nothing is not the folder of a run"),
        ({"guide": "autoguidance", "workdir": "labelled", "step": 7}, "workdir: .* 7"),
        ({"guide": "autoguidance", "workdir": "labelled", "data__name": "mixture"}, "knows the classes 0, 1, 2, .*"),
        ({"guide": "autoguidance", "workdir": "labelled", "data__labels": False}, "classes .*, and this model none"),
        (
            {"guide": "classifier", "workdir": "classifier", "sde__ve__sigma_max": 20.0},
            "was trained with another noising process than this model: give both the same sde",
        ),
        pytest.param(
            {"guide": "classifier", "workdir": "classifier", "data__name": "digits"},
            r"is of examples of shape \(2,\), and this model of \(8, 8, 1\)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_guide_that_does_not_suit_is_refused_before_anything_is_drawn(changes, message, runs):
    options = {"scale": 2.0, **changes}
    guidance = {key: options.pop(key) for key in ("guide", "scale", "interval", "workdir", "step") if key in options}
    if "workdir" in guidance:
        guidance["workdir"] = str(runs / guidance["workdir"])
    config = config_of(**options)
    config.sampler.guidance.update(guidance)
    refused(message, build.experiment, config)


def test_labels_of_guided_samples_are_the_guides(runs):
    led = restored(runs, "free", data__labels=False, guide="classifier", workdir=str(runs / "classifier"))
    refused("labels must be 0 to 7, or -1 for any, got 8 to 8", drawn, led, np.full(8, 8))
    refused("there is no class '8': this model has the classes 0, 1,", samples.label_named, led.examples, "8")


def test_cells_that_differ_in_guidance_share_a_training(tmp_path):
    engine = sweeping.Engine(config_of())
    scales = sweeping.sweeps.axis("sampler.guidance.scale", [0.0, 1.0, 3.0])
    intervals = sweeping.sweeps.axis("sampler.guidance.interval", [(0.0, 1e9), (0.1, 2.0)])
    made = engine.plan(tmp_path, sweeping.sweeps.product(scales, intervals))
    assert [len(group.cells) for group in made.groups] == [6]
    # At scale 1 there is no guidance, whatever its interval.
    assert len({cell.evaluation for cell in made.cells}) == 5
    # Any sampler heeds guidance, where options of another's are left out of a row's name.
    row = Row({"sampler.name": "ddim", "sampler.guidance.scale": 3.0, "sampler.heun.churn": 0.1}, [], [])
    assert row_name(row) == "ddim, scale 3"


@pytest.mark.slow
def test_a_classifier_that_was_stopped_goes_on_bit_by_bit(runs, tmp_path):
    run.train(build.experiment(config_of(**CLASSIFIER, training__steps=6)), tmp_path / "half")
    continued = run.train(build.experiment(config_of(**CLASSIFIER)), tmp_path / "half")
    whole = restored(runs, "classifier", **CLASSIFIER)
    for found, expected in zip(jax.tree.leaves(continued.state.ema), jax.tree.leaves(whole.state.ema), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_the_commands_lead_samples_and_refuse_in_a_line(runs, tmp_path):
    guidance = "--config.sampler.guidance"
    call = ["experiments/sample.py", f"--workdir={runs / 'free'}", "--n=8", f"--out={tmp_path}", f"{guidance}.scale=5"]
    by = [f"{guidance}.guide=classifier", f"{guidance}.workdir={runs / 'classifier'}", f"{guidance}.interval=0.1,5"]
    done = subprocess.run([sys.executable, *call, *by], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    how = {"guide": "classifier", "workdir": str(runs / "classifier"), "scale": 5.0, "interval": (0.1, 5.0)}
    with np.load(tmp_path / "samples.npz") as written:
        np.testing.assert_array_equal(written["label"], LABELS)
        np.testing.assert_allclose(written["x"], drawn(restored(runs, "free", data__labels=False, **how)).x, rtol=1e-3)
    done = subprocess.run([sys.executable, *call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "classifier-free guidance leads to labels, and this model was trained without labels" in done.stderr


def test_a_classifier_is_measured_by_noise_level_and_draws_nothing(runs):
    whole = restored(runs, "classifier", **CLASSIFIER)
    written = show.show_run(whole)
    assert {path.name for path in written} == {"loss.png", "loss_by_sigma.png", "accuracy.png"}
    numbers = evaluation.evaluate(whole)
    folder = evaluation.evaluation_folder(whole, 0)
    assert {path.name for path in folder.iterdir()} == {"evaluation.json", "accuracy.png"}
    Image.open(folder / "accuracy.png").verify()
    assert json.loads((whole.workdir / "evaluation.json").read_text()) == numbers and folder.name.startswith("none-0-")
    assert len(numbers["accuracy_by_sigma"]) == 5 and numbers["noised_accuracy_n"] == 200
    # The loss by noise level is the cross-entropy per dimension, of other noise: 4 s.e. and the spread of 256 examples.
    lost = np.array(list(numbers["cross_entropy_by_sigma"].values()))
    held_out = np.array(list(numbers["loss_by_sigma"].values()))
    np.testing.assert_allclose(2 * held_out, lost, atol=0.3)
    assert numbers["left_out"]["conditional_accuracy"].startswith("a classifier of noised data has no score and draws")
    refused("has no score and draws no samples: let it guide those of another run", drawn, whole)
    refused("has no score and draws no samples", error_of, whole, 0)
    assert noised_accuracy(Measured(restored(runs), 0, np.zeros((0, 2)), None, {}, {}, ())) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__labels": False}, "learns the labels of data with two classes or more: set --config.data.labels=True"),
        ({"network__name": "unet"}, "objective 'classification', 'unet' does not exist: choose one of mlp, encoder"),
        ({"network__conservative": True}, "is of a plain network: set --config.network.conservative=False"),
        ({"objective__name": "dsm", "network__name": "encoder"}, "network 'encoder' is a classifier's: set"),
        ({"network__name": "encoder"}, "Encoder takes sequences"),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(changes, message):
    refused(message, build.experiment, config_of(**CLASSIFIER | changes))


def test_a_network_of_ones_own_must_have_a_number_a_class():
    of_x = adapters.plain(lambda params, x, cond, label, key: x * params, lambda *_: jnp.ones(()))
    refused(r"a number for each of 8 classes, \(1, 8\) of one", build.experiment, config_of(**CLASSIFIER), network=of_x)


def exact_logits(params, x, cond, label, key):
    """log w_k p_k(x) of the toy's components, which are its classes, noised by σ, of x/√(1 + σ²) and log σ."""
    weights, means, variances = (jnp.asarray(v, jnp.float32) for v in toy.components("eight_gaussians"))
    variance = variances[None] + jnp.exp(2 * cond)[:, None]
    offset = (x * jnp.sqrt(1 + jnp.exp(2 * cond))[:, None])[:, None] - means[None]
    return jnp.log(weights)[None] - jnp.log(variance) - (offset**2).sum(-1) / (2 * variance) + params


@jax.jit
def by_quadrature(sigma):
    """E max_k p(k | x) and H(k | x) of the toy noised by σ, on a grid of 250² cells."""
    edge = 5 + 5 * sigma
    axis = jnp.linspace(-edge, edge, 250)
    x = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    joint = exact_logits(0.0, x / jnp.sqrt(1 + sigma**2), jnp.full(len(x), jnp.log(sigma)), None, None)
    log_probs, density = jax.nn.log_softmax(joint), jnp.exp(joint).sum(1) / (2 * jnp.pi) * (2 * edge / 249) ** 2
    mean = lambda values: (density * values).sum()
    return mean(jnp.exp(log_probs.max(1))), -mean((jnp.exp(log_probs) * log_probs).sum(1))


def test_the_accuracy_of_an_exact_classifier_is_bayes_at_every_noise_level():
    """∫ max_k w_k p_k by quadrature, and the conditional entropy; 4 s.e. of 1,000 examples, and 1e-3 of the grid."""
    network = adapters.plain(exact_logits, lambda *_: jnp.zeros(()))
    made = build.experiment(config_of(**CLASSIFIER, data__n=1000), network=network)
    found = accuracy_of(run.of_state(made, run.first_state(made), "nowhere"), 0)
    for i, sigma in enumerate(level_sigmas(made.model.sde, 5)):
        bayes, entropy = by_quadrature(sigma)
        assert abs(found.accuracy[i] - bayes) < 4 * max(found.standard_error[i], 1e-3) + 1e-3
        assert abs(found.cross_entropy[i] - entropy) < 0.15
    assert found.least == np.bincount(made.data.held_out.batch(np.arange(1000))["label"]).max() / 1000
    assert found.n == 1000


def test_the_config_of_the_digits_classifier_is_built_and_shape_checked():
    config = digits.get_config("classifier")
    source = ArraySource(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4, dtype=np.int32), 10, grey_levels=17)

    def shapes(x, label):
        sde = of_noise.sde(config)
        model = of_network.model(config, sde, source)
        objective, drawn = of_objective.objective(config, sde, None), of_noise.draw_times(config, sde)
        losses = objective(key(), model.conditioned(label=label), x, drawn)
        gradient = jax.grad(lambda x: model.conditioned(label=label)(x, jnp.full(4, 0.5)).sum())(x)
        return losses, gradient, model(x, jnp.full(4, 0.5))

    found = jax.eval_shape(shapes, jnp.zeros((4, 8, 8, 1)), jnp.arange(4))
    assert [one.shape for one in found] == [(4,), (4, 8, 8, 1), (4, 10)]


@pytest.mark.slow
def test_a_learned_variance_is_sampled_with_under_guidance():
    """By shapes: a step calls for it at twice the rows; at label −1 for all, it is the sampler's without guidance."""
    config = digits.get_config("improved_ddpm")
    config.network.ddpm.update(channels=8, multipliers=(1,), attention=())
    config.sampler.update(steps=3, threshold="static")
    plain = build.experiment(config)
    config.sampler.guidance.scale = 2.0
    led = build.experiment(config)
    labels = np.full(4, -1)
    found, expected = (
        samples.draw_samples(run.of_state(one, run.first_state(one), "nowhere"), n=4, labels=labels, quiet=True)
        for one in (led, plain)
    )
    np.testing.assert_allclose(found.x, expected.x, atol=1e-4)
    assert found.nfe == 2 * expected.nfe

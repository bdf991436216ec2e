"""Recipes of training by name: optimizers, schedules, averages of widths that are chosen afterwards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits, fashion_mnist, toy
from score_jax import networks, noise_levels, training
from score_jax.lab import build, run
from score_jax.lab.build.training import OPTIMIZERS
from score_jax.training.logging import read_jsonl
from score_jax.training.optimizers import SCHEDULES
from score_jax.types import InputError


def _config(**settings):
    config = toy.get_config()
    config.data.n, config.network.mlp.hidden = 512, (16, 16)
    config.training.update(steps=40, steps_per_dispatch=10, log_every=10, checkpoint_every=40, batch_size=64)
    config.update_from_flattened_dict(settings)
    return config


@pytest.mark.parametrize(
    "settings",
    [{"optimizer.name": name} for name in OPTIMIZERS] + [{"optimizer.schedule": name} for name in SCHEDULES],
    ids=lambda settings: next(iter(settings.values())),
)
def test_every_optimizer_and_schedule_is_a_one_word_swap_that_learns(tmp_path, settings):
    rate = {"prodigy": 1.0, "lion": 2e-3}.get(settings.get("optimizer.name"), 1e-2)
    length = {"training.steps": 200, "training.log_every": 50, "parameterization.name": "eps"}
    experiment = build.experiment(_config(**settings, **length, **{"optimizer.learning_rate": rate}))
    run.train(experiment, tmp_path)
    losses = [record["loss"] for record in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]
    run.restore(experiment, tmp_path)  # and what it keeps is read back


def test_a_learned_weighting_finds_the_loss_of_every_noise_level(tmp_path):
    """e^u is twice the loss a dimension: Karras et al. 2024; the reported loss stays the objective's own."""
    settings = {"weighting.learned": True, "training.steps": 400, "training.log_every": 200}
    trained = run.train(build.experiment(_config(**settings, **{"optimizer.learning_rate": 1e-2})), tmp_path)
    by_sigma = read_jsonl(tmp_path / "metrics.jsonl")[-1]["loss_by_sigma"]
    times = trained.model.sde.time(-2 * np.log(np.array([*map(float, by_sigma)], np.float32)))
    learned = trained.model.replace(variables=trained.state.variables(ema=False)).uncertainty(times)
    found = np.log(2 * np.array([*by_sigma.values()]))
    # 1,280 examples of a level in 200 steps, and a network that goes on learning meanwhile
    assert np.abs(found - learned).max() < 0.35 and np.ptp(found) > 1.0
    run.restore(trained.experiment, tmp_path)


def test_a_network_is_told_of_the_augmentation_that_the_settings_name():
    config = digits.get_config()
    config.data.augment = 0.12
    made = build.experiment(config)
    assert made.augment.keywords == {"probability": 0.12} and made.model.apply.module.augmentation == 9
    assert training.Recipe(**run._recipe(made)).augment is made.augment  # and the step makes it
    assert build.experiment(digits.get_config()).augment is None


def test_samples_are_drawn_with_the_average_that_schedule_free_keeps(tmp_path):
    free = {"optimizer.name": "schedule_free", "optimizer.schedule": "constant", "optimizer.learning_rate": 3e-2}
    state = run.train(build.experiment(_config(**free)), tmp_path).state
    x = training.schedule_free_x(state.params, state.opt_state)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state.ema, x)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, x))) > 1e-2


def test_patches_are_trained_by_muon_and_published_networks_by_adam():
    variants = ("ncsn", "ncsnv2", "ddpm", "edm", "fast", "ddpmpp", "ncsnpp")
    chosen = {v: fashion_mnist.get_config(v).optimizer for v in variants}
    rates = {"muon": 5e-3, "adam": 1e-3}
    assert {v for v, o in chosen.items() if o.name == "adam"} == {"ddpmpp", "ncsnpp"}
    assert all(o.learning_rate == rates[o.name] for o in chosen.values())


def test_a_network_that_is_told_the_noise_is_not_led_by_annealed_langevin_whose_noise_is_another():
    chosen = (fashion_mnist.get_config(variant) for variant in ("ncsn", "ncsnv2"))
    led = [(config.network.condition, config.sampler.name) for config in chosen]
    assert led == [("c_noise", "consistent_annealed"), ("none", "annealed_langevin")]
    # As many levels in training as down the chain; NCSNv2's rule has one more.
    config = fashion_mnist.get_config("ncsnv2")
    levels = noise_levels.recommend(config.sde.ve.sigma_max, dims=28 * 28, n_steps=5).n_levels
    assert config.times.discrete.n == config.sampler.steps == levels - 1 == 98


@pytest.mark.parametrize("network", [networks.UNet(8, (1, 2), num_classes=10), networks.MLP(num_classes=10)])
def test_a_network_of_ones_own_has_to_take_what_it_is_told(network):
    config = digits.get_config()
    config.data.augment = 0.12
    with pytest.raises(InputError, match="one of your own whose `augmentation` is 9"):
        build.experiment(config, network=network)
    taken = networks.UNet(8, (1, 2), num_classes=10, augmentation=9)
    assert build.experiment(config, network=taken).augment is not None


@pytest.mark.parametrize("variant", ["ssm", "fd_ssm", "classifier"])
def test_weights_are_learned_of_squared_errors_alone(variant):
    config = digits.get_config(variant)
    config.weighting.learned = True
    with pytest.raises(InputError, match=r"divides by squared errors, and objective '\w+' is (below 0|a classifier's)"):
        build.experiment(config)


def test_averages_of_other_widths_are_made_of_those_that_were_kept(tmp_path):
    settings = {"training.ema_std": 0.1, "training.keep_every": 5, "training.checkpoint_every": 5}
    config = _config(**settings)
    run.train(build.experiment(config), tmp_path)
    config.sampler.ema_std = 0.1
    own, again = (run.restore(build.experiment(c), tmp_path).state for c in (_config(**settings), config))
    for one, other in zip(jax.tree.leaves(own.ema), jax.tree.leaves(again.ema), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # the last that was kept is itself
    # A wider one of a run that was trained with it: every fifth of 40 steps is coarse, but five times as near
    # as the average that was kept.
    config.sampler.ema_std = 0.15
    made, again = (of(build.experiment(config), tmp_path).state for of in (run.restore, run.train))
    jax.tree.map(np.testing.assert_array_equal, made.ema, again.ema)  # of a run that has come to its end
    config.sampler.ema_std = 0.1
    early, itself = (run.restore(build.experiment(c), tmp_path, step=20).state for c in (_config(**settings), config))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), early.ema, itself.ema)
    wider = _config(**settings | {"training.ema_std": 0.15})
    truth = run.train(build.experiment(wider), tmp_path / "wider").state
    distance = lambda a, b: float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)))
    assert distance(made.ema, truth.ema) < 0.2 * distance(own.ema, truth.ema)


def test_no_average_is_made_where_none_were_kept(tmp_path):
    run.train(build.experiment(_config()), tmp_path)
    with pytest.raises(InputError, match=r"this run has none: set --config.sampler.ema_std=0"):
        run.restore(build.experiment(_config(**{"sampler.ema_std": 0.1})), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.schedule": "trapezoidal", "optimizer.decay_from": 40}, "leaves nothing of training.steps 40"),
        ({"optimizer.name": "prodigy", "optimizer.weight_decay": 0.1}, "without weight decay"),
        ({"optimizer.schedule": "linear"}, "one of constant, cosine, trapezoidal, inverse_sqrt, got 'linear'"),
        ({"optimizer.name": "adamax"}, "choose one of adam, lion, muon, schedule_free, prodigy"),
        ({"optimizer.name": "schedule_free", "training.ema_std": 0.1}, "an average of its own: set"),
        ({"data.augment": 0.1}, "network 'mlp' can't be told of data.augment"),
        ({"data.augment": 1.1}, "data.augment"),
        ({"training.ema_std": 0.4}, r"training.ema_std"),
        ({"sampler.ema_std": 0.1, "sampler.ema": False}, "sampler.ema takes none"),
    ],
)
def test_recipes_that_cannot_work_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build.experiment(_config(**settings))


def test_a_root_goes_on_for_longer_from_where_it_fell(tmp_path):
    settings = {"optimizer.schedule": "inverse_sqrt"}
    run.train(build.experiment(_config(**settings)), tmp_path)
    longer = build.experiment(_config(**settings, **{"training.steps": 80}), before=run.before(tmp_path))
    assert int(run.train(longer, tmp_path).state.step) == 80
    rates = [record["learning_rate"] for record in read_jsonl(tmp_path / "metrics.jsonl")]
    # From n = 4, a tenth of the first length, behind a warm-up of 8
    np.testing.assert_allclose(rates[-1], longer.settings["optimizer"]["learning_rate"] * (4 / 79) ** 0.5, rtol=1e-5)


def test_where_the_rate_falls_follows_from_the_length_unless_it_is_told():
    derived = lambda **settings: build.experiment(_config(**settings)).settings["optimizer"]["decay_from"]
    assert derived(**{"optimizer.schedule": "trapezoidal"}) == 32
    assert derived(**{"optimizer.schedule": "inverse_sqrt"}) == 4
    assert derived(**{"optimizer.schedule": "inverse_sqrt", "optimizer.decay_from": 7}) == 7
    assert derived() == derived(**{"training.steps": 80}) == 0  # so that a constant rate goes on for any length

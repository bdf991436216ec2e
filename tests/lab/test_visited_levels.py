"""The samplers of the configs that train here ask a network for levels that it has been trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits, emoji, fashion_mnist
from score_jax.lab.build import network, noise, sampling

DRAWS = 100_000  # of a config's law of times
ENOUGH = 50  # training examples within a factor of two of a level

CONFIGS = {
    **{f"fashion_mnist:{v}": (fashion_mnist, v) for v in ("ncsn", "ncsnv2", "ddpm", "edm", "fast", "ddpmpp", "ncsnpp")},
    **{f"digits:{v}": (digits, v) for v in ("dsm", "ddpm", "edm", "ddpmpp", "ncsnpp")},
    "emoji": (emoji,),
}


def unseen(config):
    """The levels that a sampler asks for, hardly any example was trained on, and the network's error grows at.

    Where an error of its output changes the estimate of x_0 by at most as much, it does not.
    """
    config.sde.ve.sigma_max = config.sde.ve.sigma_max or 10.0  # derived from the data where it is 0
    process = noise.sde(config)
    drawn, _ = noise.draw_times(config, process)(jax.random.key(0), process, DRAWS)
    visited = jnp.unique(sampling.grid(config, process))
    log_sigma = lambda t: -np.asarray(process.log_snr(t)) / 2
    levels, of_training = log_sigma(visited), np.sort(log_sigma(drawn))
    near = np.searchsorted(of_training, levels + np.log(2)) - np.searchsorted(of_training, levels - np.log(2))
    examples = near / DRAWS * config.training.steps * config.training.batch_size
    x = jnp.zeros((len(visited), 1))
    score = lambda value: network.output(config, process).to_score(process, x, visited, jnp.full_like(x, value))
    estimate = lambda value: process.denoise(x, visited, score(value))
    amplified = np.abs(estimate(1.0) - estimate(0.0))[:, 0]
    return np.exp(levels)[(examples < ENOUGH) & (amplified > 1)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sampler_visits_levels_that_training_draws(name):
    module, *variant = CONFIGS[name]
    assert unseen(module.get_config(*variant)).size == 0


def test_unseen_levels_are_found():
    config = digits.get_config("edm")  # whose largest levels are rarely drawn, which its parameterization forgives
    config.parameterization.name = "eps"
    np.testing.assert_array_less(10, unseen(config))
    assert unseen(config).max() == pytest.approx(80)

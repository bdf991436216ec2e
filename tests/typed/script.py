"""A user's script, which type checkers accept: `tests/test_packaging.py`."""

import jax
import jax.numpy as jnp
import optax

import score_jax
from score_jax import adapters, data, losses, networks, sampling, score
from score_jax.types import Array, Key, PyTree

vp, network, adam = score_jax.sde.VP(beta_max=10.0), networks.MLP(hidden=(64, 64)), optax.adam(3e-3)
x0 = jnp.asarray(data.toy.toy("eight_gaussians").x)


def model(variables: PyTree) -> score.ScoreModel:
    return score.ScoreModel(variables, vp, adapters.linen(network), score_jax.parameterization.Eps())


def loss(variables: PyTree, key: Key) -> Array:
    return losses.diffusion_loss(key, vp, model(variables), x0, times=losses.times.uniform(antithetic=True)).mean()


@jax.jit
def step(variables: PyTree, state: optax.OptState, key: Key) -> tuple[PyTree, optax.OptState]:
    updates, state = adam.update(jax.grad(loss)(variables, key), state)
    return optax.apply_updates(variables, updates), state


variables = network.init(jax.random.key(0), x0[:1], jnp.zeros(1))
state = adam.init(variables)
for key in jax.random.split(jax.random.key(1), 10):
    variables, state = step(variables, state, key)

start, ts = vp.prior_sample(jax.random.key(2), (100, 2)), sampling.grids.log_snr(vp, 10)
drawn: Array = sampling.sample(jax.random.key(3), sampling.ddim(vp, model(variables), eta=0.5), start, ts)
exact = score_jax.distributions.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), 1.0).perturbed(vp, 0.5).log_prob(drawn)

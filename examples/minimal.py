"""From points to a score to samples by pure functions: `python examples/minimal.py [FOLDER]`, 10 core-seconds.

Writes minimal.png, of noise, samples and data, and prints the samples' energy distance to data, beside other data's.
"""

import sys

import jax
import jax.numpy as jnp
import optax

from score_jax import adapters, data, losses, metrics, networks, parameterization, plotting, sampling, score, sde

process = sde.VP()  # x_t = α(t) x_0 + σ(t) ε, data at t = 0, noise at t = 1; or VE, EDM, Flow, one of yours
network = networks.MLP()  # F(x, c), where c tells how noisy x is; or one of yours


def score_function(variables):
    """The score (x, t) -> ∇ log p_t(x) that the parameters stand for; F is v = α ε − σ x_0, or Eps, X0, EDM …"""
    return score.ScoreModel(variables, process, adapters.linen(network), parameterization.V())


def loss(variables, key, x0):
    """Denoising score matching at all noise levels: ½ E‖σ(t) s(x_t, t) + ε‖², the mean over dimensions."""
    return losses.diffusion_loss(key, process, score_function(variables), x0).mean() / x0.shape[-1]


def train(variables, x0, keys):
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, len(keys)))

    def step(carry, key):
        (variables, state), (key_rows, key_loss) = carry, jax.random.split(key)
        gradient = jax.grad(loss)(variables, key_loss, jax.random.choice(key_rows, x0, (256,)))
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(variables, updates), state), None

    return jax.lax.scan(step, (variables, adam.init(variables)), keys)[0][0]  # a compiled loop, a step a key


def draw(variables, key, noise):
    sampler = sampling.ddim(process, score_function(variables))  # or ancestral, heun, predictor_corrector …
    return sampling.sample(key, sampler, noise, sampling.grids.log_snr(process, 51))  # t from 1 to 0 in 50 steps


def main(folder=".", *, steps=5000):
    x0, held_out, other = jnp.split(data.toy.toy("eight_gaussians", n=14_000).x, [10_000, 12_000])
    keys = jax.random.split(jax.random.key(0), 3 + steps)
    variables = jax.jit(network.init)(keys[0], x0[:1], jnp.zeros(1))
    variables = jax.jit(train)(variables, x0, keys[3:])
    noise = process.prior_sample(keys[1], held_out.shape)
    samples = jax.jit(draw)(variables, keys[2], noise)
    figure = plotting.clouds({"noise": noise, "samples": samples, "data": held_out})
    plotting.save_figure(figure, f"{folder}/minimal.png")
    distances = [float(metrics.energy_distance(x, held_out)) for x in (samples, other)]
    print("energy distance to data: samples {:.4f}, other data {:.4f}".format(*distances))
    return distances


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Denoising score matching as σ → 0: the variance of the loss and of its gradient, with and without a control variate.

    python -m experiments.studies.small_noise

A score model of the digits is trained once, over σ from 0.001 to 5; then the loss ½‖s + z/σ‖² of one example, and its
gradient in the parameters, are drawn again and again at each noise level.
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits
from experiments.studies import study
from score_jax import arrays, kernels, losses, plotting
from score_jax.lab import build
from score_jax.lab import run as runs
from score_jax.lab.experiment import Run
from score_jax.losses import weighting
from score_jax.score import ScoreModel
from score_jax.types import Array, Key

SIGMAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SCALE = 0.05  # of the detail in the digits, dequantized: their grey levels are 1/17 apart
DRAWS, STEPS = 512, 3000


def trained(seed: int, steps: int) -> Run:
    """Trains a perceptron on the digits."""
    config = digits.get_config("mlp")
    config.seed, config.data.labels = seed, False
    config.sde.ve.sigma_min = 0.001
    config.network.mlp.hidden = (256, 256)
    config.training.steps = config.training.checkpoint_every = steps
    with tempfile.TemporaryDirectory() as folder:
        return runs.train(build.experiment(config), folder)


def spread(key: Key, model: ScoreModel, x: Array, t: Array, coefficient: Array) -> tuple[Array, Array]:
    """Returns the variance of the loss, and the trace of the covariance of its gradient, over draws of the noise.

    Of each row of `x` there are two draws, so that what remains is the noise's part alone: half the mean squared
    difference of the two.
    """
    sigma = model.sde.sigma(t)

    def loss(params, key: Key, x: Array) -> Array:
        network = model.replace(variables={**model.variables, "params": params})
        score_fn = lambda x: network(x, t)
        kernel = kernels.Gaussian(sigma)
        return losses.denoising_score_matching(key[None], score_fn, x[None], kernel, control=coefficient)[0]

    def difference(row):
        key, x = row
        first, second = (jax.value_and_grad(loss)(model.variables["params"], k, x) for k in arrays.split(key))
        value, gradient = jax.tree.map(jnp.subtract, first, second)
        return 0.5 * value**2, 0.5 * sum((g**2).sum() for g in jax.tree.leaves(gradient))

    loss_variance, gradient_variance = jax.lax.map(difference, (arrays.example_keys(key, len(x)), x), batch_size=64)
    return loss_variance.mean(), gradient_variance.mean()


def run(seed: int, steps: int = STEPS) -> study.Result:
    """Measures at every level: without, with the coefficient 1, and with `weighting.small_noise`."""
    run = trained(seed, steps)
    source = run.experiment.data.train
    stored = source.batch(np.arange(DRAWS))["x"]
    key = jax.random.key(seed + 1)
    x = run.experiment.prepare(key, stored)
    coefficients = {
        "none": lambda sde, t: 0 * t,
        "c = 1": lambda sde, t: 0 * t + 1,
        "c(σ)": weighting.small_noise(SCALE),
    }

    @jax.jit
    def measure(key, model, x, t, coefficient):
        return spread(key, model, x, t, coefficient)

    ts = run.model.sde.time(-2 * jnp.log(jnp.array(SIGMAS)))
    measured = {
        name: np.array([[float(v) for v in measure(key, run.model, x, t, c(run.model.sde, t))] for t in ts])
        for name, c in coefficients.items()
    }
    rows = [
        {
            "σ": sigma,
            "variance of the loss": float(measured["none"][i, 0]),
            "… with c = 1": float(measured["c = 1"][i, 0]),
            "… with c(σ)": float(measured["c(σ)"][i, 0]),
            "variance of the gradient": float(measured["none"][i, 1]),
            ".. with c = 1": float(measured["c = 1"][i, 1]),
            ".. with c(σ)": float(measured["c(σ)"][i, 1]),
        }
        for i, sigma in enumerate(SIGMAS)
    ]
    figures = {
        name: plotting.by_noise_level(
            np.array(SIGMAS), np.stack([m[:, i] for m in measured.values()]), labels=list(measured), ylabel=label
        )
        for i, (name, label) in enumerate(
            [("loss.png", "variance of the loss"), ("gradient.png", "variance of its gradient")]
        )
    }
    small = np.log(SIGMAS[1] / SIGMAS[0])
    exponents = {k: np.log(m[1] / m[0]) / small for k, m in measured.items()}
    text = "; ".join(f"{name}: loss {e[0]:.2f}, gradient {e[1]:.2f}" for name, e in exponents.items())
    conditions = (
        f"{DRAWS} digits, two draws of the noise each, seed {seed}; trained {steps:,} steps; c(σ) = v/(v + σ²), "
        f"v = {SCALE}². Exponents of σ between 0.001 and 0.002: {text}."
    )
    return study.Result(rows, figures, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)

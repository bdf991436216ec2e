"""(b) DDPM's L_simple, written out, and denoising score matching with weight σ²: gradients, and 200 optimizer steps.

L_simple = mean over examples and dimensions of (ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t))²       (Ho et al. 2020, eq. 14)
J        = mean over examples of σ_t²·½‖s_θ(x_t, t) − ∇ log q(x_t|x_0)‖²,  s_θ = −ε_θ/σ_t = (D/2)·L_simple
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

from experiments.claims.exact import AtNodes
from experiments.studies import study
from experiments.studies.ddpm_equivalence import figures
from score_jax import kernels, losses, networks, parameterization, sde
from score_jax.adapters import linen
from score_jax.score import ScoreModel
from score_jax.types import Array, PyTree

TABLE = sde.ddpm_schedule()
NETWORK = networks.MLP(hidden=(64, 64))
OPTIMIZERS = {"SGD": optax.sgd(0.2), "Adam": optax.adam(1e-3)}
# What J is multiplied by: 2/D takes the ½ and the 1/D out.
SCALES = {"taken out": lambda dims: 2 / dims, "left in": lambda dims: 1.0}


def draws(x: np.ndarray, seed: int, steps: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples and noise `(steps, batch, D)` of every step, and rows of the table `(steps, batch)`."""
    rng = np.random.default_rng(seed)
    examples = x[rng.integers(len(x), size=(steps, batch))]
    return examples, rng.integers(len(TABLE.betas), size=(steps, batch)), rng.normal(size=examples.shape)


@jax.jit  # traced once for all the trainings
def simple(variables: PyTree, x0: Array, row: Array, eps: Array) -> Array:
    """L_simple from the paper: nothing of the package but the network, which is told ½ log((1 − ᾱ)/ᾱ) for t."""
    bar = jnp.asarray(TABLE.alphas_bar, x0.dtype)[row][:, None]
    x = jnp.sqrt(bar) * x0 + jnp.sqrt(1 - bar) * eps
    told = 0.5 * jnp.log((1 - bar) / bar)[:, 0]
    return jnp.mean((eps - NETWORK.apply(variables, x, told)) ** 2)


@jax.jit
def denoising(variables: PyTree, x0: Array, row: Array, eps: Array) -> Array:
    """J by the package's functions, at the given draws."""
    process = sde.Tabulated(TABLE.alphas_bar)
    model = ScoreModel(variables, process, linen(NETWORK), parameterization.Eps())
    t = process.knots().astype(x0.dtype)[row]
    noise = AtNodes(kernels.Gaussian(1.0), eps)
    return losses.diffusion_loss(
        jax.random.key(0), process, model, x0, times=lambda key, sde, n: (t, jnp.ones_like(t)), noise=noise
    ).mean()


def trained(objective: Callable, optimizer: optax.GradientTransformation, variables: PyTree, data) -> tuple:
    """Takes one optimizer step for each of the draws; returns the parameters and the losses before each step."""

    def step(carry, drawn):
        variables, state = carry
        value, gradient = jax.value_and_grad(objective)(variables, *drawn)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(variables, updates), state), value

    (variables, _), values = jax.lax.scan(step, (variables, optimizer.init(variables)), data)
    return variables, values


def distance(a: PyTree, b: PyTree) -> Array:
    return jnp.linalg.norm(ravel_pytree(a)[0] - ravel_pytree(b)[0])


def compared(seed: int, steps: int, batch: int, *, x64: bool) -> dict:
    """Losses, gradients and trained parameters of both objectives, in double or single precision."""
    x = load_digits().data / 8 - 1
    dims = x.shape[1]
    with jax.enable_x64(x64):
        data = jax.tree.map(jnp.asarray, draws(x, seed, steps, batch))

        def measure(key, data):
            first = jax.tree.map(lambda v: v[0], data)
            variables = NETWORK.init(key, first[0], jnp.zeros(batch, first[0].dtype))
            variables = jax.tree.map(lambda v: v.astype(first[0].dtype), variables)
            (a, da), (b, db) = (jax.value_and_grad(f)(variables, *first) for f in (simple, denoising))
            scaled = jax.tree.map(lambda g: 2 / dims * g, db)
            found = {"loss": b / a, "gradient": distance(da, scaled) / distance(da, jax.tree.map(jnp.zeros_like, da))}
            for name, optimizer in OPTIMIZERS.items():
                by_hand, values = trained(simple, optimizer, variables, data)
                found[name] = {"values": values, "moved": distance(by_hand, variables)}
                for how, scale in SCALES.items():
                    ours, curve = trained(lambda *args, c=scale(dims): c * denoising(*args), optimizer, variables, data)
                    found[name][how] = distance(ours, by_hand) / distance(by_hand, variables), curve / scale(dims)
            return found

        return jax.device_get(jax.jit(measure)(jax.random.key(seed), data))


def measure(seed: int, steps: int = 200, batch: int = 64) -> study.Result:
    """Compares in double and in single precision."""
    found = {"double": compared(seed, steps, batch, x64=True), "single": compared(seed, steps, batch, x64=False)}
    dims = load_digits().data.shape[1]
    rows = [
        {"what": "J over L_simple, first batch", "expected": f"D/2 = {dims // 2}"}
        | {f"{name} precision": float(f["loss"]) for name, f in found.items()},
        {"what": "‖∇L_simple − (2/D)·∇J‖/‖∇L_simple‖", "expected": "0"}
        | {f"{name} precision": float(f["gradient"]) for name, f in found.items()},
    ]
    rows += [
        {
            "what": f"{optimizer}, {steps} steps, ½ and 1/D {how}: distance of the parameters over the way they went",
            "expected": "0" if how != "left in" else "not 0",
        }
        | {f"{name} precision": float(f[optimizer][how][0]) for name, f in found.items()}
        for optimizer in OPTIMIZERS
        for how in SCALES
    ]
    step = np.arange(steps)
    panels = {
        optimizer: {
            "DDPM's L_simple, by hand": (step, found["double"][optimizer]["values"]),
            **{
                f"score matching, ½ and 1/D {how}": (step, 2 / dims * found["double"][optimizer][how][1])
                for how in SCALES
            },
        }
        for optimizer in OPTIMIZERS
    }
    figure = figures.lines(panels, xlabel="optimizer step", ylabel="L_simple of the batch", log_y=False)
    conditions = (
        f"Digits, D = {dims}, MLP with two hidden layers of 64, batch {batch}, the same examples, t and ε for both; "
        f"seed {seed}."
    )
    return study.Result(rows, {"objectives.png": figure}, conditions)

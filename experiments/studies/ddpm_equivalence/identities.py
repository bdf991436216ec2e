"""(a) Tweedie's formula, three forms of DDPM's posterior mean, ε = −σ·score: at every t of the table of 1,000 steps.

Exact on mixtures. The other side is numpy: each component's linear regression of x_0, or of x_{t−1}, on x_t.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from experiments.claims import diffusion, exact
from experiments.studies import study
from experiments.studies.ddpm_equivalence import figures
from score_jax import distributions
from score_jax.types import PyTree

TABLE = diffusion.TABLE


def ten_digits() -> exact.Mixture:
    """A Gaussian around the mean of each class of scikit-learn's digits, in [−1, 1]: 64 dimensions."""
    data = load_digits()
    x = data.data / 8 - 1
    return exact.mixture(np.full(10, 0.1), [x[data.target == c].mean(0) for c in range(10)], np.full(10, 0.1))


DATA = {"three Gaussians in the plane": exact.PLANE, "ten digits, 64 dimensions": ten_digits()}


def truths(p: exact.Mixture, at: diffusion.Steps) -> dict[str, np.ndarray]:
    """E[x_0|x_t], E[x_{t−1}|x_t] and E[ε|x_t], `(N, D)`, without a score."""
    before = np.empty_like(at.x)
    for row, (alpha, beta, bar) in enumerate(zip(TABLE.alphas, TABLE.betas, diffusion.BEFORE)):
        here, earlier = at.row == row, p.perturbed(np.sqrt(bar), np.sqrt(1 - bar))
        before[here] = earlier.posterior_mean(at.x[here] / np.sqrt(alpha), np.sqrt(beta / alpha))
    x0, bar = diffusion.denoised(p, at), at.of(TABLE.alphas_bar)
    return {"x0": x0, "mean": before, "eps": (at.x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)}


# Each formula and what it is a formula for.
FORMULAS = {
    "Tweedie: E[x₀|x_t] = (x_t + (1 − ᾱ_t)·score)/√ᾱ_t": "x0",
    "E[ε|x_t] = −σ_t·score": "eps",
    "posterior mean from x̂₀: c₀(t)·x̂₀ + c₁(t)·x_t": "mean",
    "… from the score: (x_t + β_t·score)/√α_t": "mean",
    "… from ε: (x_t − β_t/√(1 − ᾱ_t)·ε)/√α_t": "mean",
}


def formulas(p: distributions.GaussianMixture, x, t, s, data, noised, beta, bar) -> PyTree:
    """What `FORMULAS` give from the score alone, `(N, D)` each."""
    sde = diffusion.published()
    score_fn = distributions.score_of(p, sde)
    score = score_fn(x, t)
    x0, eps = sde.denoise(x, t, score), -jnp.sqrt(1 - bar) * score
    from_score = diffusion.reverse_mean(sde, score_fn, x, t, s)
    from_eps = (x - beta / jnp.sqrt(1 - bar) * eps) / jnp.sqrt(1 - beta)
    return dict(zip(FORMULAS, (x0, eps, data * x0 + noised * x, from_score, from_eps), strict=True))


def errors(p: exact.Mixture, seed: int, each: int, *, x64: bool) -> dict[str, np.ndarray]:
    """The largest error of each formula at each t, `{formula: (1000,)}`."""
    at = diffusion.steps(p, each, seed)
    beta, bar, before = at.of(TABLE.betas), at.of(TABLE.alphas_bar), at.of(diffusion.BEFORE)
    data, noised = np.sqrt(before) * beta / (1 - bar), np.sqrt(1 - beta) * (1 - before) / (1 - bar)
    with jax.enable_x64(x64):
        arguments = [jnp.asarray(v) for v in (at.x, at.t, at.s, data, noised, beta, bar)]
        # What single precision makes of x_t is the x_t that the truth is of.
        at = at._replace(x=np.asarray(arguments[0], np.float64))
        found = jax.device_get(jax.jit(formulas)(p.api(), *arguments))
    truth = truths(p, at)
    return {name: np.abs(found[name] - truth[kind]).max(1).reshape(-1, each).max(1) for name, kind in FORMULAS.items()}


def measure(seed: int, each: int = 4) -> study.Result:
    """Measures in double and in single precision, `each` points at every t."""
    found = {(name, x64): errors(p, seed, each, x64=x64) for name, p in DATA.items() for x64 in (True, False)}
    rows = [
        {"identity": identity}
        | {
            f"{name}, {'double' if x64 else 'single'} precision": float(values[identity].max())
            for (name, x64), values in found.items()
        }
        for identity in next(iter(found.values()))
    ]
    t = np.arange(1, len(TABLE.betas) + 1)
    lines = {
        f"{'double' if x64 else 'single'} precision": (t, np.max(list(values.values()), axis=0))
        for (name, x64), values in found.items()
        if name == "ten digits, 64 dimensions"
    }
    figure = figures.lines(
        {"": lines}, xlabel="step t of DDPM's table", ylabel="largest error of the five formulas", limit=("1e-5", 1e-5)
    )
    conditions = (
        f"Largest error over all {len(t):,} steps t, {each} points x_t at each, seed {seed}, in every coordinate; "
        "the truth is each component's linear regression on x_t."
    )
    return study.Result(rows, {"identities.png": figure}, conditions)

"""(d) One process in several coordinates: x/α at the same noise ratio ς = σ/α is the same on VE, VP, EDM and others.

Each probability flow is integrated in its own time, dx/dt = f(t) x − ½ g(t)² score, and x/α compared at the same noise
ratios; so are the reverse SDEs, path by path with the same noise, and in law.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import exact
from experiments.studies import study
from experiments.studies.ddpm_equivalence import oracle
from score_jax import arrays, integrate, plotting, sampling
from score_jax import sde as sdes
from score_jax.types import Array, Key

SDES: dict[str, sdes.SDE] = {
    "EDM: α = 1, time σ": sdes.EDM(0.005, 80.0),
    "VE (SMLD): α = 1, time log σ": sdes.VE(0.005, 80.0),
    "VP (DDPM)": sdes.VP(),
    "sub-VP": sdes.SubVP(t_min=1e-5),
    "cosine": sdes.Cosine(),
    "flow: (1 − t)x₀ + tε": sdes.Flow(),
}
REFERENCE = "EDM: α = 1, time σ"
RATIOS = np.geomspace(50.0, 0.02, 25)  # where trajectories are compared
TRAJECTORIES = 15
STEPS = 200  # of the reverse SDEs


def times(sde: sdes.SDE, ratios: Array) -> Array:
    """The times of the noise ratios σ/α."""
    return sde.time(-2 * jnp.log(jnp.asarray(ratios)))


def flow(sde: sdes.SDE, y: Array, ratios: Array) -> tuple[Array, Array]:
    """Trajectories from x = αy at ratios[0], in the SDE's own time: x `(T, n, 1)`, and calls of the score."""
    score_fn, ts = oracle.score_of(sde), times(sde, ratios)

    def field(t: Array, x: Array) -> Array:
        drift, diffusion = (arrays.expand_right(v, x) for v in (sde.drift(t), sde.diffusion(t)))
        return drift * x - 0.5 * diffusion**2 * score_fn(x, t)

    def move(x, ends):
        solution = integrate.solve(field, x, *ends, rtol=1e-9, atol=1e-9)
        return solution.y, (solution.y, solution.n_calls)

    start = sde.alpha(ts[0]) * y
    _, (x, calls) = jax.lax.scan(move, start, (ts[:-1], ts[1:]))
    return jnp.concatenate([start[None], x]), calls.sum()


def paths(key: Key, sde: sdes.SDE, make: Callable, y: Array, steps: int) -> Array:
    """Chains of a sampler from x = αy at the first ratio: x/α after every step."""
    ratios = jnp.geomspace(RATIOS[0], RATIOS[-1], steps + 1)
    ts = times(sde, ratios)
    run = sampling.sample(key, make(sde, oracle.score_of(sde)), sde.alpha(ts[0]) * y, ts, trace=lambda state: state.x)[
        1
    ]
    return run / sde.alpha(ts[1:])[:, None, None]


def of(name: str, key: Key, n: int, steps: int) -> dict:
    """Everything measured of one SDE."""
    sde = SDES[name]
    y = jnp.asarray(exact.quantile(oracle.DATA.perturbed(1.0, RATIOS[0]), oracle.shares(TRAJECTORIES))[:, None])
    crowd = jnp.asarray(exact.quantile(oracle.DATA.perturbed(1.0, RATIOS[0]), oracle.shares(n))[:, None])

    def measure(key, y, crowd):
        x, calls = flow(sde, y, RATIOS)
        chain = paths(key, sde, sampling.ancestral, y, steps)
        mapped = x / sde.alpha(times(sde, RATIOS))[:, None, None]
        return x, mapped, calls, chain, paths(key, sde, sampling.euler_maruyama, crowd, steps)[-1]

    x, mapped, calls, chain, end = jax.device_get(jax.jit(measure)(key, y, crowd))
    target = exact.quantile(oracle.DATA.perturbed(1.0, RATIOS[-1]), oracle.shares(n))
    return {
        "x": x,
        "mapped": mapped,
        "calls": int(calls),
        "chain": chain,
        "law": float(np.sqrt(((np.sort(end[:, 0]) - target) ** 2).mean())),
    }


def exact_trajectories() -> np.ndarray:
    """x/α by the quantile map, `(T, n, 1)`."""
    shares = oracle.shares(TRAJECTORIES)
    return np.stack([exact.quantile(oracle.DATA.perturbed(1.0, r), shares)[:, None] for r in RATIOS])


def measure(seed: int, n: int = 20_000, steps: int = STEPS, names: tuple[str, ...] = tuple(SDES)) -> study.Result:
    """Measures in double precision."""
    with jax.enable_x64(True):
        found = {name: of(name, jax.random.key(seed), n, steps) for name in names}
        least = oracle.floor(SDES[REFERENCE], RATIOS[-1], n, seed)
    truth, reference = exact_trajectories(), found[REFERENCE]
    rows = [
        {
            "process": name,
            "probability flow: largest error of x/α": float(np.abs(f["mapped"] - truth).max()),
            "its calls of the score": f["calls"],
            "ancestral, same noise: largest difference of x/α from EDM's": float(
                np.abs(f["chain"] - reference["chain"]).max()
            ),
            "Euler–Maruyama: W₂ of x/α from the data": f["law"],
            "W₂ of as many exact draws": least,
        }
        for name, f in found.items()
    ]
    conditions = (
        f"Double precision, exact score of a mixture on the line, σ/α from {RATIOS[0]:g} to {RATIOS[-1]:g}, "
        f"seed {seed}. Flow: {TRAJECTORIES} trajectories, each process in its own time at a tolerance of 1e-9, "
        f"against the quantile map at {len(RATIOS)} ratios. Reverse SDEs: {steps} steps, {n:,} chains in law."
    )
    return study.Result(rows, {"coordinates.png": picture(found)}, conditions)


def picture(found: dict) -> Figure:
    """DDPM's trajectories, SMLD's, and DDPM's divided by α on top of SMLD's."""
    vp, ve = found["VP (DDPM)"], found["VE (SMLD): α = 1, time log σ"]
    panels = {
        "DDPM (VP): x": [vp["x"]],
        "SMLD (VE): x": [ve["x"]],
        "both, DDPM's x divided by α": [ve["x"], vp["mapped"]],
    }
    styles = [{"linewidth": 2.5, "alpha": 0.4}, {"linewidth": 1, "linestyle": "--"}]
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(12, 3.8), layout="constrained")
        axes = fig.subplots(1, 3)
        for ax, (title, sets), first in zip(axes, panels.items(), (1, 0, 0), strict=True):
            for k, x in enumerate(sets):
                color, style = plotting.COLORS[(first + k) % 2], styles[k] if len(sets) > 1 else {"linewidth": 1.2}
                ax.plot(RATIOS, x[:, :, 0], color=color, **style)
                ax.plot([], [], color=color, label=("SMLD", "DDPM")[(first + k) % 2], **style)
            ax.set(title=title, xscale="log", xlabel="noise ratio σ/α (data on the right)")
            ax.invert_xaxis()
            ax.legend(fontsize=8)
        for ax in axes[1:]:
            ax.set_yscale("asinh", linear_width=2)
        axes[0].set_ylabel("x along the probability flow")
    return fig

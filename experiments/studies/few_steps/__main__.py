"""What multistep samplers do in few steps, form by form and limit by limit: `python -m experiments.studies.few_steps`.

The error of the estimate of x_0 at the end of the probability flow, with the exact score of mixtures on the line, where
the flow is known: it keeps quantiles.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import exact
from experiments.studies import study
from score_jax import distributions, plotting, sampling
from score_jax import sde as sdes
from score_jax.sampling import Sampler, grids
from score_jax.sde import SDE
from score_jax.types import Array

MIXTURES = {
    "two modes far apart": exact.mixture([0.7, 0.3], [2.0, -1.0], [0.05, 0.05]),
    "two wide modes": exact.SKEWED,
    "three modes": exact.mixture([0.5, 0.3, 0.2], [1.5, -1.0, 0.3], [0.2, 0.4, 0.1]),
}
PROCESSES = {"VP": sdes.VP(), "EDM": sdes.EDM(), "flow": sdes.Flow()}
ENDS = {"VP": (1e-3, 1e-2), "EDM": (0.002, 0.02), "flow": (1e-3, 1e-2)}
SPACINGS: dict[str, Callable[..., Array]] = {
    "uniform": grids.uniform,
    "karras": grids.karras,
    "log_snr": grids.log_snr,
}
FEW, MORE = (5, 6, 8), (10, 15, 20)  # steps
POINTS = 200
METHODS: dict[str, Callable[..., Sampler]] = {
    "2M": sampling.dpm_solver_pp,
    "2M, heun": partial(sampling.dpm_solver_pp, solver_type="heun"),
    "3M": partial(sampling.dpm_solver_pp, order=3),
    "3M, halved (released)": partial(sampling.dpm_solver_pp, order=3, quadratic="halved"),
    "UniPC-2": sampling.unipc,
    "UniPC-2, bh1": partial(sampling.unipc, variant="bh1"),
    "UniPC-3": partial(sampling.unipc, order=3),
    "DEIS-2": partial(sampling.deis, order=2),
    "DEIS-3": sampling.deis,
}
LIMITS = ("never", "last", "long")
# As released: "last" in runs of fewer than 15 steps, "never" in longer ones.
RELEASED = "last below 15 steps"


class Setting(NamedTuple):
    """A run: where it ends, and how it gets there."""

    process: str
    end: float
    spacing: str
    steps: int


def settings() -> list[Setting]:
    """All runs; a uniform grid is of processes whose time is not the noise level."""
    return [
        Setting(process, end, spacing, steps)
        for process in PROCESSES
        for end in ENDS[process]
        for spacing in SPACINGS
        for steps in FEW + MORE
        if (process, spacing) != ("EDM", "uniform")
    ]


def times(setting: Setting) -> Array:
    """The grid of a setting, as times of VP: its steps know σ/α alone, and so do the estimates of x_0."""
    process = PROCESSES[setting.process]
    ts = SPACINGS[setting.spacing](process, setting.steps + 1, t_end=setting.end)
    return PROCESSES["VP"].time(process.log_snr(ts))


def quantiles(data: exact.Mixture, sde: SDE, t: Array) -> np.ndarray:
    """The quantiles (i + ½)/POINTS of the marginal at t, `(POINTS, 1)`."""
    law = data.perturbed(float(sde.alpha(t)), float(sde.sigma(t)))
    return exact.quantile(law, (np.arange(POINTS) + 0.5) / POINTS)[:, None]


def program(make: Callable[..., Sampler]) -> Callable[..., Array]:
    """Returns `(mixture, start, truth, ts) -> error`, relative to the standard deviation of the truth, compiled."""

    def error(data: distributions.GaussianMixture, start: Array, truth: Array, ts: Array) -> Array:
        sde = PROCESSES["VP"]
        score_fn = distributions.score_of(data, sde)
        x = sampling.sample(jax.random.key(0), make(sde, score_fn), start, ts)
        found, exact_end = (sde.denoise(v, ts[-1], score_fn(v, ts[-1])) for v in (x, truth))
        return jnp.sqrt(((found - exact_end) ** 2).mean()) / exact_end.std()

    return jax.jit(error)


def errors(
    methods: dict[str, Callable[..., Sampler]] | None = None,
) -> dict[tuple[str, str], dict[Setting, list[float]]]:
    """`{(method, limit): {setting: errors, one a mixture}}`, in double precision."""
    methods, longest = METHODS if methods is None else methods, max(FEW + MORE) + 1
    found: dict[tuple[str, str], dict[Setting, list[float]]] = {}
    with jax.enable_x64(True):
        runs = {
            setting: [
                (data.api(), *(quantiles(data, PROCESSES["VP"], t) for t in (ts[0], ts[-1])))
                for data in MIXTURES.values()
            ]
            for setting in settings()
            for ts in [times(setting)]
        }
        for name, make in methods.items():
            for limit in LIMITS:
                run = program(partial(make, lower_order=limit))
                found[name, limit] = {
                    setting: [float(run(*of, jnp.pad(ts, (0, longest - len(ts)), mode="edge"))) for of in rows]
                    for setting, rows in runs.items()
                    for ts in [times(setting)]
                }
            few, long = found[name, "last"], found[name, "never"]
            found[name, RELEASED] = {s: few[s] if s.steps < 15 else long[s] for s in few}
    return found


def mean(found: dict[Setting, list[float]], spacing: str, steps: tuple[int, ...]) -> float:
    """Geometric mean over processes, ends and mixtures."""
    chosen = [v for s, values in found.items() if s.spacing == spacing and s.steps in steps for v in values]
    return float(np.exp(np.log(chosen).mean()))


def run(seed: int) -> study.Result:
    """Measures every method under every limit."""
    del seed  # nothing is drawn
    found = errors()
    rows = [
        {
            "method": name,
            "lower orders": limit,
            **{
                f"{spacing}, {label} steps": f"{mean(found[name, limit], spacing, steps):.3g}"
                for label, steps in (("5 to 8", FEW), ("10 to 20", MORE))
                for spacing in SPACINGS
            },
            "karras, 15 steps": f"{mean(found[name, limit], 'karras', (15,)):.3g}",
        }
        for name in METHODS
        for limit in ("never", RELEASED, "last", "long")
    ]
    shown = [
        ("2M", "long"),
        ("3M", "long"),
        ("3M, halved (released)", RELEASED),
        ("UniPC-3", "long"),
        ("DEIS-3", "long"),
    ]
    figure = plotting.by_noise_level(
        np.array(FEW + MORE),
        np.array([[mean(found[key], "karras", (n,)) for n in FEW + MORE] for key in shown]),
        labels=[f"{name}, {limit}" for name, limit in shown],
        ylabel="relative error of the estimate of x0",
        xlabel="steps on Karras's grid",
    )
    conditions = (
        f"Geometric means over {len(MIXTURES)} mixtures, VP, EDM (not on uniform) and flow, two ends each; "
        f"{POINTS} trajectories, relative root mean square errors; no draws, whatever the seed."
    )
    return study.Result(rows, {"errors.png": figure}, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)

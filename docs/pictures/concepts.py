"""Makes the picture of docs/concepts.md: a density at three noise levels, its exact score, and samples on their way.

    python docs/pictures/concepts.py

The density is eight Gaussians; the points are 400 samples by ancestral sampling down a variance-exploding process,
each shown at the three levels it passes. Nothing is learned. The arrows are σ·score, in one unit in all panels.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from score_jax import data, distributions, plotting, sampling, sde

SIGMAS = (2.0, 0.7, 0.15)
HALF, ARROWS, POINTS, PIXELS = 5.0, 15, 400, 160
LONGEST = 2.0  # of the arrows, in units of σ·score


def lattice(n: int) -> np.ndarray:
    """The centres of n × n cells `(n², 2)`, y slowest."""
    places = HALF * ((2 * np.arange(n) + 1) / n - 1)
    return np.stack(np.meshgrid(places, places), -1).reshape(-1, 2).astype(np.float32)


def stages(density: distributions.GaussianMixture, ve: sde.VE) -> np.ndarray:
    """The same samples `(3, n, 2)` where they pass the three levels."""
    ts = sampling.grids.log_snr(ve, 200)
    keep = np.array([np.abs(np.log(ve.sigma(ts[1:]) / sigma)).argmin() for sigma in SIGMAS])
    sampler = sampling.ancestral(ve, distributions.score_of(density, ve))
    start = ve.prior_sample(jax.random.key(0), (POINTS, 2))
    return np.asarray(sampling.sample(jax.random.key(1), sampler, start, ts, trace=lambda s: s.x, keep=keep)[1])


def panel(ax: Axes, density: distributions.GaussianMixture, sigma: float, points: np.ndarray) -> None:
    """Density, score and samples at one level."""
    noised, extent = density.smoothed(sigma), (-HALF, HALF, -HALF, HALF)
    values = np.exp(noised.log_prob(jnp.asarray(lattice(PIXELS)))).reshape(PIXELS, PIXELS)
    # Few shades: of a smooth image the file is twice as large.
    levels = np.linspace(0, values.max(), 9)
    ax.contourf(values, levels, origin="lower", extent=extent, cmap=plotting.DENSITY, antialiased=False)
    arrows = sigma * np.asarray(noised.score(jnp.asarray(lattice(ARROWS))))
    # Far from the data at a small level arrows would cover each other: none is longer than a cell.
    arrows /= np.maximum(1, np.linalg.norm(arrows, axis=1, keepdims=True) / LONGEST)
    ax.quiver(
        *lattice(ARROWS).T, *arrows.T, angles="xy", scale_units="xy", scale=LONGEST * ARROWS / (2 * HALF),
        color=plotting.INK, width=0.004, headwidth=4, headlength=5, pivot="mid",
    )  # fmt: skip
    ax.scatter(points[:, 0], points[:, 1], s=4, color=plotting.COLORS[1], alpha=0.8, linewidths=0)
    ax.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", xticks=[], yticks=[], title=f"σ = {sigma:g}")
    ax.spines[:].set_visible(True)


def main() -> None:
    """Writes concepts.png beside this file."""
    density = distributions.GaussianMixture(*data.toy.components("eight_gaussians"))
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(8, 2.9), layout="constrained")
        for ax, sigma, points in zip(fig.subplots(1, 3), SIGMAS, stages(density, sde.VE(0.01, 10.0))):
            panel(ax, density, sigma, points)
    path = plotting.save_figure(fig, Path(__file__).with_suffix(".png"))
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()

"""The benchmark in one figure: every method on every problem, and what more steps buy."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from score_jax import plotting

LARGEST = 30.0  # ratio from which on all are one colour


def distances(
    ratios: Mapping[str, Mapping[str, float]], by_cost: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Shows sliced W2 over that of exact draws: 1 is as good as the posterior itself.

    Args:
      ratios: by method and problem.
      by_cost: by method, what a sample costs in score calls and the ratio, for each number of steps.
    """
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(11, 5.6), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.1))
        _table(left, ratios)
        _lines(right, by_cost)
        fig.suptitle("sliced W2 to the exact posterior, over that of exact draws")
    return fig


def _table(ax: Axes, ratios: Mapping[str, Mapping[str, float]]) -> None:
    problems = list(next(iter(ratios.values())))
    values = np.array([[row.get(problem, np.nan) for problem in problems] for row in ratios.values()])
    shown = np.where(np.isfinite(values), np.clip(values, 1, LARGEST), LARGEST)
    ax.imshow(shown, norm=LogNorm(1, LARGEST), cmap="viridis_r", aspect="auto")
    ax.set_xticks(range(len(problems)), problems, rotation=30, ha="right")
    ax.set_yticks(range(len(ratios)), list(ratios))
    ax.grid(False)
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.1f}" if value < 100 else "≥ 100"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if shown[i, j] > 4 else "black")


def _lines(ax: Axes, by_cost: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    colors = matplotlib.colormaps["tab20"]
    for i, (name, (costs, values)) in enumerate(by_cost.items()):
        kept = np.asarray(values) < 100
        ax.plot(np.asarray(costs)[kept], np.asarray(values)[kept], "osD^v"[i % 5] + "-", color=colors(i), label=name)
    ax.set(xscale="log", yscale="log", xlabel="score calls a sample, a vector–Jacobian product for two")
    ax.set_yticks((1, 1.5, 2, 3, 4), ("1", "1.5", "2", "3", "4"))
    ax.minorticks_off()
    ax.set_title("base problem", fontsize="medium")
    ax.legend(fontsize="x-small", ncols=2)

"""The study's figures: panels of lines on log axes, and sets of images side by side."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from score_jax import plotting
from score_jax.types import ArrayLike

Lines = Mapping[str, tuple[ArrayLike, ArrayLike]]  # name -> (x, y)
MARKERS = ("o", "s", "^", "D", "v", "P")


def lines(
    panels: Mapping[str, Lines],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = True,
    markers: bool = False,
    limit: tuple[str, float] | None = None,
    slopes: Sequence[float] = (),
    ticks: Sequence[float] = (),
) -> Figure:
    """Shows named lines, a panel for each entry of `panels`; the first line is wide and pale, to be seen under others.

    Args:
      panels: `{title: {name: (x, y)}}`.
      xlabel: of every panel.
      ylabel: of the first.
      log_x: x on a log axis.
      log_y: y on a log axis.
      markers: a marker at every point, for measurements at a few x.
      limit: name and y of a dashed line.
      slopes: powers of x drawn as dotted guides, each beside the line nearest to it in slope.
      ticks: labelled x, in place of powers of ten.
    """
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(5.4 * len(panels), 3.8), layout="constrained")
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        for ax, (title, named) in zip(axes, panels.items(), strict=True):
            for i, (name, (x, y)) in enumerate(named.items()):
                style = {"linewidth": 5, "alpha": 0.35} if i == 0 and not markers else {"linewidth": 1.3}
                style["linestyle"] = ("-", "--")[i // 6]
                marker = MARKERS[i % len(MARKERS)] if markers else None
                ax.plot(x, y, color=plotting.COLORS[i % 6], marker=marker, markersize=4, label=name, **style)
            for power in slopes:
                _guide(ax, named, power)
            if limit is not None:
                ax.axhline(limit[1], color=plotting.INK, linestyle="--", linewidth=0.8, label=limit[0])
            ax.set(title=title, xlabel=xlabel, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
            ax.grid(axis="y")
            if ticks:
                shown = [tick for tick in ticks if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
                ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
                ax.minorticks_off()
            ax.legend(fontsize=8)
        axes[0].set_ylabel(ylabel)
    return fig


def _guide(ax, named: Lines, power: float) -> None:
    """A dotted line of the given slope, a little below the line that is nearest to it in slope."""
    curves = [(np.asarray(x, float), np.asarray(y, float)) for x, y in named.values()]
    steep = [abs(np.polyfit(np.log(x), np.log(np.maximum(y, 1e-300)), 1)[0] - power) for x, y in curves]
    x, y = curves[int(np.argmin(steep))]
    middle = len(x) // 2
    ax.plot(x, 0.5 * y[middle] * (x / x[middle]) ** power, color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.annotate(f"slope {power:g}", (x[-1], 0.5 * y[middle] * (x[-1] / x[middle]) ** power), fontsize=7, color="0.4")


def image_panels(named: Mapping[str, ArrayLike], *, columns: int) -> Figure:
    """Shows sets of images `(N, H, W, C)` in [0, 1] side by side, `columns` images in a row."""
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(2.6 * len(named), 2.8), layout=ConstrainedLayoutEngine(wspace=0.1))
        for ax, (title, images) in zip(fig.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
            ax.imshow(plotting.grid_image(images, columns).squeeze(-1), cmap="gray", vmin=0, vmax=255)
            ax.set_title(title, fontsize=9)
            ax.set_axis_off()
    return fig

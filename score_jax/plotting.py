"""Pictures: arrays in, figure out.

Every function makes a `matplotlib.figure.Figure` of its own, without pyplot and its global state: nothing to close,
no display needed, `save_figure(fig, path)` writes it. In a notebook, the figure as a cell's last value shows itself
after `%matplotlib inline`.

Images are `(N, H, W, C)` in [0, 1] (values outside are clipped) or uint8, with one channel or three; 2-D points are
`(N, 2)`; an extent is `(x_min, x_max, y_min, y_max)`. `grid_image`, `save_png` and `save_gif` keep pixels exact.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import Image

from score_jax.types import Array, ArrayLike, InputError, StaticScoreFn

_P = ParamSpec("_P")
_R = TypeVar("_R")

Extent: TypeAlias = tuple[float, float, float, float]
LogProbFn: TypeAlias = Callable[[Array], Array]  # x (N, 2) -> log density (N,)

DPI = 150
# Okabe and Ito's colours, told apart by colour-blind readers: blue, vermillion, green, purple, orange, sky.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DENSITY = LinearSegmentedColormap.from_list("density", ["#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08306b"])
INK, FAINT = "#222222", "#cccccc"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.interpolation": "nearest",
}
_PANEL = 3.6  # inches, side of a square panel
_TILE = 0.62  # inches, side of one image in a figure


def _styled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


def save_figure(fig: Figure, path: str | Path, *, note: str = "") -> Path:
    """Writes a figure (PNG, PDF or SVG by suffix) at the project's resolution, making its folder.

    Args:
      fig: the figure.
      path: file to write.
      note: small print below it, as whose pictures it shows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if note:
        fig.text(0.5, 0, note, ha="center", va="top", fontsize=5, color=INK)
    fig.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    return path


def grid_image(
    images: ArrayLike, columns: int | None = None, *, padding: int = 1, scale: int = 1, background: float = 1.0
) -> np.ndarray:
    """Tiles images row by row into one uint8 picture (rows·(H+p)−p, columns·(W+p)−p, C), then enlarges it.

    Args:
      images: `(N, H, W, C)`.
      columns: images in a row; None takes ⌈√N⌉.
      padding: p, pixels between images.
      scale: side in pixels of the square each pixel becomes.
      background: grey level of what no image covers, 0 black to 1 white.
    """
    images = _bytes(images)
    n, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(n))) if columns is None else columns
    rows = -(-n // columns)
    shape = (rows, columns, height + padding, width + padding, channels)
    cells = np.full(shape, round(255 * background), np.uint8)
    cells.reshape(rows * columns, *shape[2:])[:n, :height, :width] = images
    picture = cells.swapaxes(1, 2).reshape(rows * shape[2], columns * shape[3], channels)
    return picture[: rows * shape[2] - padding, : columns * shape[3] - padding].repeat(scale, 0).repeat(scale, 1)


def save_png(path: str | Path, image: ArrayLike) -> Path:
    """Writes one image (H, W, C), uint8 or float in [0, 1], pixel by pixel."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(_bytes(np.asarray(image)[None])[0]).save(path)
    return path


def save_gif(path: str | Path, frames: ArrayLike, *, seconds: float = 4.0, hold: float = 2.0) -> Path:
    """Writes frames (T, H, W, C), uint8 or float in [0, 1], as an endless GIF; grey is exact, colours become 256.

    Args:
      path: file to write.
      frames: at least one; a frame equal to the one before only lengthens it.
      seconds: time of all frames together; a frame takes at least 20 ms, what viewers can show.
      hold: how much longer the last frame stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [_picture(frame) for frame in _bytes(frames)]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * len(pictures)
    durations[-1] += round(1000 * hold)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False)
    return path


@_styled
def image_grid(
    images: ArrayLike, columns: int | None = None, *, title: str | None = None, names: Sequence[str] = ()
) -> Figure:
    """Shows images (N, H, W, C) in rows, below the names of the columns where given."""
    fig, ax = _image_figure(images, columns)
    if title:
        ax.set_title(title)
    if names:
        _label_columns(ax, (np.arange(len(names)) + 0.5) * (np.shape(images)[2] + 1) - 1, names)
    return fig


@_styled
def strip(trajectory: ArrayLike, *, sigmas: ArrayLike | None = None) -> Figure:
    """Shows how samples form: a row for each sample, a column for each noise level.

    Args:
      trajectory: `(T, n, H, W, C)`, T up to about 12 stages.
      sigmas: noise level σ/α of each stage, (T,), printed above it.
    """
    trajectory = _stack(trajectory, "trajectory (T, n, H, W, C)")
    stages = len(trajectory)
    fig, ax = _image_figure(trajectory.swapaxes(0, 1).reshape(-1, *trajectory.shape[2:]), stages)
    if sigmas is not None:
        centres = (np.arange(stages) + 0.5) * (trajectory.shape[3] + 1) - 1
        _label_columns(ax, centres, [f"{float(s):.2g}" for s in np.asarray(sigmas)])
        ax.set_xlabel("noise level σ/α")
        ax.xaxis.set_label_position("top")
    return fig


@_styled
def neighbours(samples: ArrayLike, nearest: ArrayLike) -> Figure:
    """Shows each sample beside its nearest neighbours in the data, nearest first.

    Args:
      samples: `(n, H, W, C)`.
      nearest: `(n, k, H, W, C)`.
    """
    samples, nearest = _bytes(samples), _stack(nearest, "neighbours (n, k, H, W, C)")
    width, channels = samples.shape[2:]
    gap = max(2, width // 3)
    left = grid_image(samples, 1)
    right = grid_image(nearest.reshape(-1, *nearest.shape[2:]), nearest.shape[1])
    white = np.full((left.shape[0], gap, channels), 255, np.uint8)
    fig, ax = _picture_figure(np.concatenate([left, white, right], axis=1), width)
    first = width + gap + (width - 1) / 2
    ranks = np.arange(nearest.shape[1])
    _label_columns(ax, [(width - 1) / 2, *(first + ranks * (width + 1))], ["sample", *(str(i + 1) for i in ranks)])
    return fig


def extent_of(points: ArrayLike, *, margin: float = 0.15) -> Extent:
    """Returns a square extent around points (N, 2), wider than their spread by `margin` on each side."""
    points = _points(points)
    low, high = points.min(0), points.max(0)
    centre, half = (low + high) / 2, max(float((high - low).max()), 1e-3) * (0.5 + margin)
    return centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half


@_styled
def density(log_prob_fn: LogProbFn, extent: Extent, *, resolution: int = 200, title: str | None = None) -> Figure:
    """Shows the density exp(log_prob_fn) over an extent."""
    fig, (ax,) = _planes(1, extent)
    image = _draw_density(ax, log_prob_fn, extent, resolution)
    fig.set_figwidth(fig.get_figwidth() + 1)
    fig.colorbar(image, ax=ax, label="density p(x)", shrink=0.85)
    if title:
        ax.set_title(title)
    return fig


@_styled
def score_field(
    score_fn: StaticScoreFn,
    oracle: StaticScoreFn | None = None,
    *,
    extent: Extent,
    log_prob_fn: LogProbFn | None = None,
    arrows: int = 20,
    title: str | None = None,
) -> Figure:
    """Shows a score as arrows, beside the true one where it is known, both at one scale over the density.

    Args:
      score_fn: `x (N, 2) -> score (N, 2)`.
      oracle: the true score, or None.
      extent: where.
      log_prob_fn: the density shaded below the arrows, or None.
      arrows: arrows along each axis.
      title: of both.
    """
    fields = {"learned score": score_fn} if oracle is None else {"learned score": score_fn, "true score": oracle}
    fig, axes = _planes(len(fields), extent)
    points = _lattice(extent, arrows, inset=True)
    scores = [_evaluate(fn, points) for fn in fields.values()]
    # Nine in ten arrows fit their cell; the longer ones lie far outside the data.
    length = max(np.nanquantile(np.linalg.norm(scores[-1], axis=1), 0.9), 1e-12)
    cell = (extent[1] - extent[0]) / arrows
    for ax, name, score in zip(axes, fields, scores):
        if log_prob_fn is not None:
            _draw_density(ax, log_prob_fn, extent, 200)
        ax.quiver(
            *points.T, *score.T, angles="xy", scale_units="xy", scale=length / cell, color=INK,
            width=0.004, headwidth=4, headlength=5, pivot="mid",
        )  # fmt: skip
        ax.set_title(name)
    if title:
        fig.suptitle(title)
    return fig


@_styled
def landscape(value_fn: LogProbFn, extent: Extent, *, label: str, resolution: int = 120) -> Figure:
    """Shows a positive function `x (N, 2) -> (N,)` over an extent, colours on a log scale."""
    fig, (ax,) = _planes(1, extent)
    values = _evaluate(value_fn, _lattice(extent, resolution, inset=True)).reshape(resolution, resolution)
    image = ax.imshow(values, origin="lower", extent=extent, cmap="viridis", norm=LogNorm(), interpolation="bilinear")
    fig.set_figwidth(fig.get_figwidth() + 1)
    fig.colorbar(image, ax=ax, label=label, shrink=0.85)
    return fig


def scatter(samples: ArrayLike, reference: ArrayLike | None = None, *, extent: Extent | None = None) -> Figure:
    """Shows samples (N, 2), beside reference data on the same axes where given."""
    return clouds({"samples": samples} if reference is None else {"data": reference, "samples": samples}, extent=extent)


@_styled
def clouds(named: Mapping[str, ArrayLike], *, extent: Extent | None = None) -> Figure:
    """Shows sets of points (N, 2) side by side, on one pair of scales: by default that of the first."""
    sets = {title: _points(points) for title, points in named.items()}
    extent = extent or extent_of(next(iter(sets.values())))
    fig, axes = _planes(len(sets), extent)
    for ax, (title, points), color in zip(axes, sets.items(), itertools.cycle(COLORS)):
        # Fewer points are drawn larger and darker.
        crowd = np.clip(1000 / len(points), 0.1, 4)
        ax.scatter(
            points[:, 0],
            points[:, 1],
            s=5 * crowd**0.5,
            alpha=float(np.clip(0.6 * crowd**0.5, 0.15, 0.9)),
            color=color,
            linewidths=0,
        )
        ax.set_title(f"{title} (n = {len(points):,})")
    return fig


@_styled
def trajectories(paths: ArrayLike, *, extent: Extent | None = None, log_prob_fn: LogProbFn | None = None) -> Figure:
    """Shows the ways of particles (T, n, 2) from start to end, over a density where given."""
    paths = np.asarray(paths)
    if paths.ndim != 3 or paths.shape[-1] != 2:
        raise InputError(f"expected paths (T, n, 2), got {paths.shape}")
    extent = extent or extent_of(paths.reshape(-1, 2), margin=0.05)
    fig, (ax,) = _planes(1, extent)
    if log_prob_fn is not None:
        _draw_density(ax, log_prob_fn, extent, 200)
    alpha = float(np.clip(20 / paths.shape[1], 0.2, 0.8))
    for path in paths.swapaxes(0, 1):
        ax.plot(*path.T, color=INK, linewidth=0.7, alpha=alpha)
    for name, ends, color in (("start", paths[0], COLORS[2]), ("end", paths[-1], COLORS[1])):
        ax.scatter(ends[:, 0], ends[:, 1], s=12, color=color, label=name, zorder=3, linewidths=0)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


@_styled
def curve(
    steps: ArrayLike,
    loss: ArrayLike,
    smoothed: ArrayLike | None = None,
    *,
    ylabel: str = "loss",
    title: str | None = None,
) -> Figure:
    """Shows the loss against steps; on a log axis where it is positive and falls by more than a factor of five."""
    steps, loss = np.asarray(steps), np.asarray(loss)
    fig, ax = _axes()
    if smoothed is None:
        ax.plot(steps, loss, color=COLORS[0])
    else:
        ax.plot(steps, loss, color=COLORS[0], alpha=0.3, linewidth=0.8, label="as logged")
        ax.plot(steps, np.asarray(smoothed), color=COLORS[0], label="smoothed")
        ax.legend()
    _log_if_wide(ax, loss if smoothed is None else np.asarray(smoothed), loss)
    ax.set(xlabel="training steps", ylabel=ylabel, title=title or "")
    return fig


@_styled
def curves(named: Mapping[str, tuple[ArrayLike, ArrayLike]], *, xlabel: str, ylabel: str) -> Figure:
    """Shows several lines `{name: (x, y)}`, y on a symmetric log axis where it spans more than a factor of 100."""
    fig, ax = _axes()
    for (name, (x, y)), color in zip(named.items(), itertools.cycle(COLORS)):
        ax.plot(np.asarray(x), np.asarray(y), color=color, linewidth=1.2, label=name)
    sizes = np.abs(np.concatenate([np.asarray(y, np.float64) for _, y in named.values()]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if len(sizes) and sizes.max() > 100 * np.median(sizes):
        ax.set_yscale("symlog", linthresh=float(np.median(sizes)))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


@_styled
def by_noise_level(
    sigma: ArrayLike,
    values: ArrayLike,
    errors: ArrayLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    ylabel: str = "loss",
    xlabel: str = "noise level σ/α",
) -> Figure:
    """Shows one or several quantities against the noise level, on log axes.

    Args:
      sigma: `(L,)`, positive.
      values: `(L,)`, or `(C, L)` for C curves.
      errors: standard errors, of the shape of `values`.
      labels: names of the C curves.
      ylabel: what is shown, with its unit.
      xlabel: what the levels are.
    """
    sigma, values = np.asarray(sigma), np.atleast_2d(np.asarray(values))
    bars = [None] * len(values) if errors is None else np.asarray(errors).reshape(values.shape)
    fig, ax = _axes()
    for i, (line, error) in enumerate(zip(values, bars)):
        name, color = None if labels is None else labels[i], COLORS[i % len(COLORS)]
        ax.errorbar(sigma, line, error, marker="o", markersize=4, capsize=2, color=color, label=name)
    ax.set_xscale("log")
    _log_if_wide(ax, values, values)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if labels is not None:
        ax.legend()
    return fig


@_styled
def accuracy_by_noise_level(
    sigma: ArrayLike, accuracy: ArrayLike, errors: ArrayLike | None = None, *, least: float
) -> Figure:
    """Shows how often a classifier is right against the noise level, beside one that always says the same class.

    Args:
      sigma: `(L,)`, positive.
      accuracy: shares `(L,)`.
      errors: standard errors `(L,)`.
      least: the share of the most frequent class.
    """
    fig, ax = _axes()
    ax.errorbar(np.asarray(sigma), np.asarray(accuracy), errors, marker="o", markersize=4, capsize=2, color=COLORS[0])
    ax.axhline(least, color="0.5", linestyle="--", label=f"the most frequent class: {least:.2g}")
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="noise level σ/α", ylabel="accuracy")
    ax.legend()
    return fig


@_styled
def bars(
    values: Sequence[float], errors: Sequence[float | None], *, labels: Sequence[str], xlabel: str, title: str = ""
) -> Figure:
    """Shows numbers as bars below each other, with their standard errors; on a log axis where they span a factor of 20.

    Not where an error reaches below 0.

    Args:
      values: one a bar.
      errors: None where there is none.
      labels: of the bars.
      xlabel: what is shown.
      title: above.
    """
    heights, places = np.asarray(values, np.float64), np.arange(len(values))
    beside = 0.09 * max(map(len, labels), default=0)  # inches of the longest label
    fig = Figure(figsize=(max(6.4, 4 + beside), 1.2 + 0.3 * len(heights)), layout="constrained")
    ax = fig.add_subplot()
    ax.grid(axis="x")
    lengths = np.array([np.nan if error is None else error for error in errors])  # NaN is drawn without a cap
    wide = (heights - np.nan_to_num(lengths)).min() > 0 and heights.max() > 20 * heights.min()
    if wide:  # a bar has no length there: points
        ax.errorbar(heights, places, xerr=lengths, fmt="o", color=COLORS[0], capsize=3, markersize=5)
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter("")  # labels of whole decades alone: others would lie on each other
    else:
        ax.barh(places, heights, 0.7, xerr=lengths, capsize=3, color=COLORS[0], ecolor=INK)
    ax.set_yticks(places, list(labels))
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, title=title)
    return fig


def _apart(places: Sequence[float]) -> list[float]:
    """Of ascending places those whose labels on a log axis don't lie on each other's."""
    kept: list[float] = []
    for place in places:
        if not kept or place > 1.2 * kept[-1]:
            kept.append(place)
    return kept


@_styled
def lines_with_errors(
    named: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float] | None]], *, xlabel: str, ylabel: str
) -> Figure:
    """Shows lines `{name: (x, y, standard errors or None)}` with a point for each number; x on a log axis."""
    fig, ax = _axes()
    for i, (name, (x, y, errors)) in enumerate(named.items()):
        marker, color = "osD^v"[i // len(COLORS) % 5], COLORS[i % len(COLORS)]
        ax.errorbar(x, y, errors, marker=marker, markersize=4, capsize=2, color=color, label=name)
    ax.set_xscale("log")
    places = _apart(sorted({float(v) for x, _, _ in named.values() for v in x}))
    if len(places) <= 8:
        ax.set_xticks(places, [f"{place:.3g}" for place in places])
        ax.minorticks_off()
    drawn = np.concatenate([np.asarray(y, np.float64) for _, y, _ in named.values()])
    _log_if_wide(ax, drawn, drawn)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    fig.legend(loc="outside lower center", ncols=min(3, len(named)))
    return fig


@_styled
def histogram_classes(
    shares: ArrayLike, reference: ArrayLike | None = None, *, classes: Sequence[Any] | None = None
) -> Figure:
    """Shows the share of each class in samples, beside that in the data where given.

    Args:
      shares: `(K,)`, summing to 1.
      reference: `(K,)` of the data.
      classes: names; None numbers them from 0.
    """
    bars = {"samples": np.asarray(shares)}
    if reference is not None:
        bars = {"held-out data": np.asarray(reference), **bars}
    colors = (COLORS[0], COLORS[1]) if len(bars) == 2 else (COLORS[1],)
    positions, width = np.arange(len(bars["samples"])), 0.8 / len(bars)
    fig, ax = _axes()
    for i, (name, heights) in enumerate(bars.items()):
        ax.bar(positions + (i - (len(bars) - 1) / 2) * width, 100 * heights, width, color=colors[i], label=name)
    ax.set_xticks(positions, [str(c) for c in (positions if classes is None else classes)])
    ax.set(xlabel="class, as predicted", ylabel="share of images (%)")
    if len(bars) == 2:
        fig.legend(loc="outside upper center", ncols=2)
    return fig


def _bytes(images: ArrayLike) -> np.ndarray:
    """Images as uint8: round(255 x), clipped."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or len(images) == 0:
        raise InputError(f"expected images (N, H, W, C) with 1 or 3 channels, got shape {images.shape}")
    if images.dtype == np.uint8:
        return images
    # A diverged pixel is black, not an error: the picture is what shows the divergence.
    return np.round(255 * np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1)).astype(np.uint8)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _stack(images: ArrayLike, expected: str) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 5:
        raise InputError(f"expected {expected}, got shape {images.shape}")
    return _bytes(images.reshape(-1, *images.shape[2:])).reshape(images.shape)


def _points(points: ArrayLike) -> np.ndarray:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise InputError(f"expected points (N, 2), got shape {points.shape}: only data in the plane can be drawn")
    return points


def _image_figure(images: ArrayLike, columns: int | None) -> tuple[Figure, Axes]:
    return _picture_figure(grid_image(images, columns), np.shape(images)[2])


def _picture_figure(picture: np.ndarray, tile_width: int) -> tuple[Figure, Axes]:
    """One picture filling the figure, each tile at least `_TILE` wide."""
    inches = _TILE / tile_width
    height, width = picture.shape[:2]
    fig = Figure(figsize=(max(2.0, width * inches), max(1.0, height * inches)), layout="constrained")
    ax = fig.add_subplot()
    ax.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return fig, ax


def _label_columns(ax: Axes, centres: ArrayLike | Sequence[float], names: Sequence[str]) -> None:
    slanted = max(map(len, names)) > 8
    ax.set_xticks(centres, names, rotation=45 if slanted else 0, ha="left" if slanted else "center")
    ax.tick_params(axis="x", top=False, bottom=False, labeltop=True, labelbottom=False, labelsize=8)


def _planes(n: int, extent: Extent) -> tuple[Figure, list[Axes]]:
    """A row of n panels of one extent, with equal units on both axes."""
    aspect = (extent[3] - extent[2]) / (extent[1] - extent[0])
    fig = Figure(figsize=(_PANEL * n, _PANEL * aspect + 0.4), layout="constrained")
    axes = list(fig.subplots(1, n, squeeze=False, sharex=True, sharey=True)[0])
    for ax in axes:
        ax.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", xlabel="x₁")
        ax.spines[:].set_visible(True)
    axes[0].set_ylabel("x₂")
    return fig, axes


def _lattice(extent: Extent, n: int, *, inset: bool = False) -> np.ndarray:
    """Points (n², 2) of a regular lattice, y slowest; centres of n × n cells with `inset`."""
    share = (np.arange(n) + 0.5) / n if inset else np.linspace(0, 1, n)
    x, y = extent[0] + share * (extent[1] - extent[0]), extent[2] + share * (extent[3] - extent[2])
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _draw_density(ax: Axes, log_prob_fn: LogProbFn, extent: Extent, resolution: int):
    points = _lattice(extent, resolution, inset=True)
    values = np.exp(_evaluate(log_prob_fn, points)).reshape(resolution, resolution)
    return ax.imshow(values, origin="lower", extent=extent, cmap=DENSITY, vmin=0, interpolation="bilinear")


def _evaluate(fn: Callable[[Array], Array], points: np.ndarray) -> np.ndarray:
    # In parts: a mixture of ten thousand points would take gigabytes for all of the lattice at once.
    return np.concatenate([np.asarray(fn(jnp.asarray(part))) for part in np.array_split(points, 10)])


def _axes() -> tuple[Figure, Axes]:
    fig = Figure(figsize=(5.4, 3.4), layout="constrained")
    ax = fig.add_subplot()
    ax.grid(axis="y")
    return fig, ax


def _log_if_wide(ax: Axes, trend: np.ndarray, drawn: np.ndarray) -> None:
    """Log scale where all that is drawn is positive and its trend spans more than a factor of five."""
    finite = drawn[np.isfinite(drawn)]
    if finite.size and finite.min() > 0 and np.nanmax(trend) > 5 * np.nanmin(trend):
        ax.set_yscale("log")

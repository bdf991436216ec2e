"""The pictures of a run folder: what was drawn, and how well, as files.

Each function writes a few PNG or GIF files and returns their paths. Points in the plane get a scatter and particle
paths, images a grid, the annealing as a strip and as a GIF, and their nearest training neighbours.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_jax import plotting
from score_jax.distributions import GaussianMixture
from score_jax.metrics import nearest_neighbours
from score_jax.sampling import grids
from score_jax.types import ArrayLike, StaticScoreFn

_STAGES = 10  # columns of the strip


def write_images(
    folder: Path,
    images: np.ndarray,
    path: np.ndarray,
    sigmas: np.ndarray,
    train: np.ndarray | None = None,
    *,
    columns: int = 8,
    names: Sequence[str] = (),
    note: str = "",
) -> list[Path]:
    """Writes grid.png, annealing.png, annealing.gif, neighbours.png given training images, classes.png given names.

    Of images with neither 1 nor 3 channels the first three are shown, or the first.

    Args:
      folder: where.
      images: samples in [0, 1], `(n, H, W, C)`.
      path: states of a few of them, in the same units, `(T, m, H, W, C)`; clipped to be shown: the frames of the GIF.
      sigmas: noise levels σ/α of these states, `(T,)`.
      train: training images in [0, 1], or None.
      columns: of the grid.
      names: of the columns, where each is of a class.
      note: below the figures, as whose pictures they show.
    """
    shown_channels = _shown_channels(images)
    images, path = images[..., :shown_channels], path[..., :shown_channels]
    stages = grids.evenly(len(path), _STAGES)
    save = partial(plotting.save_figure, note=note)
    tiles = np.stack([plotting.grid_image(state.clip(0, 1), 4, scale=_scale(images)) for state in path])
    written = [
        write_grid(folder, images, columns),
        save(plotting.strip(path[stages].clip(0, 1), sigmas=sigmas[stages]), folder / "annealing.png"),
        plotting.save_gif(folder / "annealing.gif", tiles),
    ]
    finite = images[np.isfinite(images).all((1, 2, 3))][:8]  # a diverged sample is black above, and near to nothing
    if train is not None and len(finite):
        train = train[..., :shown_channels]
        nearest = train[nearest_neighbours(finite, train, k=min(5, len(train)))[0]]
        written.append(save(plotting.neighbours(finite, nearest), folder / "neighbours.png"))
    if names:
        classes = plotting.image_grid(_first_rows(images, columns), columns, names=names)
        written.append(save(classes, folder / "classes.png"))
    return [*written, *write_attribution(folder, note)]


def write_attribution(folder: Path, note: str) -> list[Path]:
    """Writes attribution.txt, whose pictures lie in a folder: beside those that are pixels alone, without a caption."""
    if not note:
        return []
    path = folder / "attribution.txt"
    path.write_text(f"{note}\n")
    return [path]


def write_grid(folder: Path, images: np.ndarray, columns: int) -> Path:
    """Writes grid.png, the first of images in [0, 1], `(n, H, W, C)`, at least eight rows of them if there are."""
    shown = _first_rows(images, columns)[..., : _shown_channels(images)]
    return plotting.save_png(folder / "grid.png", plotting.grid_image(shown, columns, scale=_scale(images)))


def _shown_channels(images: np.ndarray) -> int:
    return 3 if images.shape[-1] >= 3 else 1


def _scale(images: np.ndarray) -> int:
    """Pixels a side of what shows a pixel: tiles of about 64."""
    return max(1, 512 // (8 * images.shape[1]))


def _first_rows(images: np.ndarray, columns: int) -> np.ndarray:
    return images[: columns * max(columns, 8)]


def write_scatter(folder: Path, points: np.ndarray, data: np.ndarray) -> Path:
    """Writes scatter.png: samples `(n, 2)` over as many points of the data, as far as these reach."""
    figure = plotting.scatter(points, data[: len(points)], extent=plotting.extent_of(data))
    return plotting.save_figure(figure, folder / "scatter.png")


def write_points(
    folder: Path, points: np.ndarray, path: np.ndarray, data: np.ndarray, oracle: GaussianMixture
) -> list[Path]:
    """Writes scatter.png and trajectories.png.

    Args:
      folder: where.
      points: samples, `(n, 2)`.
      path: ways of a few of them, `(T, m, 2)`.
      data: points of the data for comparison.
      oracle: the data's density.
    """
    extent = plotting.extent_of(data)
    log_prob = jax.jit(oracle.log_prob)
    return [
        write_scatter(folder, points, data),
        plotting.save_figure(
            plotting.trajectories(path, extent=extent, log_prob_fn=log_prob), folder / "trajectories.png"
        ),
    ]


def write_field(
    folder: Path, score_fn: StaticScoreFn, truth: GaussianMixture, data: np.ndarray, *, sigma: float
) -> list[Path]:
    """Writes density.png and score_field.png, of one noise level: the learned score beside the true one.

    Args:
      folder: where.
      score_fn: the learned score at that level.
      truth: the density noised to that level.
      data: points that say how far the picture reaches.
      sigma: that level, σ/α.
    """
    title = f"data noised to σ/α = {sigma:.2g}"
    extent, log_prob = plotting.extent_of(data), jax.jit(truth.log_prob)
    field = plotting.score_field(score_fn, jax.jit(truth.score), extent=extent, log_prob_fn=log_prob, title=title)
    return [
        plotting.save_figure(plotting.density(log_prob, extent, title=title), folder / "density.png"),
        plotting.save_figure(field, folder / "score_field.png"),
    ]


def write_losses(folder: Path, records: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes loss.png, loss against steps, and loss_by_sigma.png, its last record by noise level.

    Args:
      folder: where.
      records: of metrics.jsonl.
    """
    records = [record for record in records if "loss" in record]
    if not records:
        return []
    steps, loss = zip(*((record["step"], record["loss"]) for record in records), strict=True)
    by_sigma = records[-1]["loss_by_sigma"]
    level = plotting.by_noise_level(
        np.array([float(sigma) for sigma in by_sigma]), np.array(list(by_sigma.values())), ylabel="loss per dimension"
    )
    return [
        plotting.save_figure(
            plotting.curve(np.array(steps), np.array(loss), ylabel="loss per dimension"), folder / "loss.png"
        ),
        plotting.save_figure(level, folder / "loss_by_sigma.png"),
    ]


def write_score_error(folder: Path, sigma: ArrayLike, relative: ArrayLike) -> list[Path]:
    """Writes score_error.png: E‖s − s*‖²/E‖s*‖² against the noise level σ/α."""
    figure = plotting.by_noise_level(sigma, relative, ylabel="relative squared score error")
    return [plotting.save_figure(figure, folder / "score_error.png")]


def write_accuracy(
    folder: Path, sigma: ArrayLike, accuracy: ArrayLike, errors: ArrayLike | None = None, *, least: float
) -> list[Path]:
    """Writes accuracy.png: how often a classifier is right against the noise level σ/α."""
    figure = plotting.accuracy_by_noise_level(sigma, accuracy, errors, least=least)
    return [plotting.save_figure(figure, folder / "accuracy.png")]


def write_evaluation(folder: Path, numbers: Mapping[str, Any]) -> list[Path]:
    """Writes score_error.png, accuracy.png and class_shares.png, of what of them `evaluate` could measure."""
    written = []
    if "relative_score_error_by_sigma" in numbers:
        written += write_score_error(folder, *_by_level(numbers, "relative_score_error_by_sigma"))
    if "accuracy_by_sigma" in numbers:
        accuracy, errors = (_by_level(numbers, f"accuracy_{end}") for end in ("by_sigma", "standard_error_by_sigma"))
        written += write_accuracy(folder, *accuracy, errors[1], least=numbers["most_frequent_class"])
    if "class_shares" in numbers:
        shares = np.array(numbers["class_shares"]), np.array(numbers["data_class_shares"])
        figure = plotting.histogram_classes(*shares, classes=numbers["class_names"])
        written.append(plotting.save_figure(figure, folder / "class_shares.png"))
    return written


def _by_level(numbers: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels and values of a number by noise level."""
    found = numbers[name]
    return np.array([float(sigma) for sigma in found]), np.array(list(found.values()))

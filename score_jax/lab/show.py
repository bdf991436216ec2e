"""What a model learned, as pictures: samples, the way there, the score where the true one is known, the losses."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import devices
from score_jax.data import some_examples
from score_jax.lab import pictures, samples
from score_jax.lab.experiment import Data, Examples, Run, Trained
from score_jax.lab.measures.noised_accuracy import accuracy_of
from score_jax.lab.measures.score_error import error_of
from score_jax.sampling import draw, grids, heun
from score_jax.sampling.draw import Samples
from score_jax.training import hosts
from score_jax.training.logging import read_jsonl

_SHOWN = 5000  # points of the data shown beside samples
_TILES = 64  # images of a grid
_NEIGHBOUR_POOL = 20_000  # training images among which nearest neighbours are looked for
_SIGMA = float(np.exp(-1))  # of the field shown: small enough to see the modes, large enough to be learned


def show_run(run: Run) -> list[Path]:
    """Writes what training ends with: samples of every class in turn into samples/, figures/; returns the paths."""
    if run.sampling.without_score:
        return show_figures(run)
    n, data, seed = run.sampling.n, run.experiment.data, run.experiment.seed
    labels = samples.classes_in_turn(run.examples, n)
    drawn = samples.draw_samples(run, n=n, labels=labels)
    shown = show_samples(run, drawn, hosts.own(run.workdir / "samples"), labels=labels, data=data, seed=seed)
    return shown + show_figures(run)


def show_samples(
    trained: Trained,
    drawn: Samples,
    folder: Path,
    *,
    labels: np.ndarray | None = None,
    data: Data | None = None,
    seed: int = 0,
) -> list[Path]:
    """Writes the pictures of samples; returns their paths.

    Args:
      trained: the model.
      drawn: its samples.
      folder: where.
      labels: of `drawn`, so that the classes are named.
      data: for the nearest training images, and the density of points.
      seed: of the particles that show the flow of points.
    """
    if data is not None and data.oracle is not None:
        shown = some_examples(data.held_out, _SHOWN)["x"]
        return pictures.write_points(folder, drawn.x, _flow(trained, seed), shown, data.oracle)
    if trained.examples.picture == "points":
        shown = drawn.x if data is None else some_examples(data.train, _SHOWN)["x"]
        return [pictures.write_scatter(folder, drawn.x, shown)]
    if trained.examples.picture == "none":
        return []
    sigmas = np.exp(-0.5 * np.asarray(trained.model.sde.log_snr(drawn.times)))
    x, path, train = _between_black_and_white(trained.examples, drawn, data)
    columns = columns_of(trained.examples)
    names = _names_of_columns(trained.examples.names, labels, columns)
    note = trained.examples.attribution
    return pictures.write_images(folder, x, path, sigmas, train, columns=columns, names=names, note=note)


def _between_black_and_white(
    examples: Examples, drawn: Samples, data: Data | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Samples, path and training images in [0, 1]: the data's own extremes where they are not grey levels."""
    train = None if data is None else some_examples(data.train, _NEIGHBOUR_POOL)["x"]
    if examples.grey_levels or train is None:
        return drawn.x, drawn.path, train
    low, high = float(train.min()), float(train.max())
    x, path, train = ((v - low) / (high - low or 1.0) for v in (drawn.x, drawn.path, train))
    return x, path, train


def columns_of(examples: Examples) -> int:
    """Returns the columns of a grid of samples: one a class, if these are few."""
    classes = len(examples.occurring)
    return classes if 2 <= classes <= 12 else 8


def _names_of_columns(names: tuple[str, ...], labels: np.ndarray | None, columns: int) -> list[str]:
    """What the classes of samples laid out in columns are called, if each column is of one."""
    if labels is None or not np.array_equal(labels, np.resize(labels[:columns], len(labels))):
        return []
    return ["any" if label < 0 else names[label] for label in labels[:columns]]


def _flow(trained: Trained, seed: int, particles: int = 48, steps: int = 60) -> np.ndarray:
    """Ways of particles along the probability flow from the prior to the data, `(steps, particles, *S)`."""
    model = trained.model
    shape, ts = (particles, *trained.examples.shape), grids.log_snr(model.sde, steps + 1)
    ways = jax.jit(lambda model: draw.draw_batch(jax.random.key(seed), model, heun, ts, shape, traced=particles))
    return devices.gather(ways(devices.everywhere(trained.sampling.drawn_from(model), trained.sampling.mesh)).path)


def show_drawn(examples: Examples, x: np.ndarray, data: np.ndarray, folder: Path) -> list[Path]:
    """Writes samples as they were measured: grid.png of images, scatter.png of points beside as many of the data.

    Args:
      examples: what they are samples of.
      x: the samples, in the data's units; those of another seed begin with other noise.
      data: training examples likewise.
      folder: where.
    """
    finite = np.isfinite(x.reshape(len(x), -1)).all(1)
    if len(examples.shape) == 3:
        low, high = (0.0, 1.0) if examples.grey_levels else (float(data.min()), float(data.max()))
        grid = pictures.write_grid(folder, ((x[:_TILES] - low) / (high - low or 1.0)), 8)
        return [grid, *pictures.write_attribution(folder, examples.attribution)]
    if examples.shape != (2,) or not finite.any():
        return []  # vectors have no picture
    return [pictures.write_scatter(folder, x[finite][:_SHOWN], data)]


def show_figures(run: Run) -> list[Path]:
    """Writes the figures of training, of the score where it is known, and of a classifier, into figures/; the paths."""
    folder, data = hosts.own(run.workdir / "figures"), run.experiment.data
    metrics = run.workdir / "metrics.jsonl"
    written = pictures.write_losses(folder, read_jsonl(metrics)) if metrics.exists() else []
    if run.sampling.without_score:
        return [*written, *_accuracy(run, folder)]
    if data.oracle is None:
        return written
    error = error_of(run, run.experiment.seed)
    return [*written, *show_field(run, data, folder), *pictures.write_score_error(folder, error.sigma, error.relative)]


def _accuracy(run: Run, folder: Path) -> list[Path]:
    """Writes the accuracy of a classifier by noise level, where examples were held out."""
    if not len(run.experiment.data.held_out):
        return []
    found = accuracy_of(run, run.experiment.seed)
    return pictures.write_accuracy(folder, found.sigma, found.accuracy, found.standard_error, least=found.least)


def show_field(trained: Trained, data: Data, folder: Path) -> list[Path]:
    """Writes the learned score of points beside the true one, at a level where the modes are seen."""
    assert data.oracle is not None
    t = trained.model.sde.time(jnp.asarray(-2 * np.log(_SIGMA)))
    truth, shown = data.oracle.perturbed(trained.model.sde, t), some_examples(data.held_out, _SHOWN)["x"]
    return pictures.write_field(
        folder, partial(_FIELD, devices.everywhere(trained.model, trained.sampling.mesh), t), truth, shown, sigma=_SIGMA
    )


_FIELD = jax.jit(lambda model, t, x: model(x, t))  # of any parameters


def show_progress(trained: Trained, drawn: Samples, folder: Path, data: Data) -> dict[str, Path]:
    """Writes a grid of images, or scatter and score field of points, in the midst of a training; the paths by name."""
    if data.oracle is not None:
        shown = some_examples(data.held_out, _SHOWN)["x"]
        scatter = pictures.write_scatter(folder, drawn.x, shown)
        return {"scatter": scatter, "score_field": show_field(trained, data, folder)[-1]}
    if trained.examples.picture == "points":
        return {"scatter": pictures.write_scatter(folder, drawn.x, some_examples(data.train, _SHOWN)["x"])}
    x, _, _ = _between_black_and_white(trained.examples, drawn, data)
    pictures.write_attribution(folder, trained.examples.attribution)
    return {"grid": pictures.write_grid(folder, x, columns_of(trained.examples))}

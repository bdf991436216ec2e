"""Samples of published checkpoints, drawn as their authors drew them, or with any other sampler.

The released NCSN code draws by annealed Langevin dynamics on the network's own levels, from U[0, 1]; how many steps of
what size belongs to the data set, which its number of levels tells apart.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from ml_collections import ConfigDict

from score_jax import build, interop, noise_levels, pictures, runs
from score_jax.generate import Samples
from score_jax.score import ScoreModel
from score_jax.types import require_at_least


class Sampling(NamedTuple):
    """How a network was sampled: side of its images, T and ε at the smallest level (released step_lr = ε/2)."""

    size: int
    n_steps: int
    step_size: float
    denoise: bool


# By source and number of levels. NCSN's is of CIFAR-10 and CelebA, its MNIST network takes 28 pixels.
SAMPLING = {
    ("ncsn", 10): Sampling(32, 100, 4e-5, False),
    ("ncsnv2", 232): Sampling(32, 5, 1.24e-5, True),  # CIFAR-10
    ("ncsnv2", 500): Sampling(64, 5, 6.6e-6, True),  # CelebA
    ("ncsnv2", 788): Sampling(64, 4, 9.8e-6, True),  # LSUN church; 96 pixels in the paper
    ("ncsnv2", 1086): Sampling(128, 3, 3.6e-6, True),  # LSUN bedroom and tower
    ("ncsnv2", 2311): Sampling(256, 3, 1.8e-6, True),  # FFHQ
}


class Published(NamedTuple):
    """A checkpoint ready to be sampled: the score function, the settings, and the shape of an example."""

    model: ScoreModel
    config: ConfigDict
    shape: tuple[int, ...]


def load(
    path: str | os.PathLike,
    base: ConfigDict,
    *,
    source: str,
    source_config: Mapping[str, Any] | str | os.PathLike | None = None,
    use_ema: bool = True,
    size: int | None = None,
) -> Published:
    """Reads a checkpoint and returns it with the settings its authors sampled it with.

    Args:
      path: of the checkpoint.
      base: `configs.base.get_config()`, of which the sampler's settings are changed.
      source: see `interop.load`.
      source_config: the source's own config, where the checkpoint doesn't say.
      use_ema: take the moving average of the parameters.
      size: side of the images; None is that of the data set with as many levels, or 32.
    """
    model = interop.score_model(path, source=source, config=source_config, use_ema=use_ema)
    levels = cast(interop.LevelIndex, model.condition).sigmas
    known = SAMPLING.get((source, len(levels)))
    if known is None:
        step = noise_levels.step_size(levels[-1], levels[0] / levels[1], 5)
        known = Sampling(32, 5, step, True)
    config = base.copy_and_resolve_references()
    config.data.value_range = (0.0, 1.0)
    config.sampler.update(name="annealed_langevin", grid="levels", steps=len(levels), start="uniform")
    config.sampler.annealed_langevin.update(step_size=known.step_size, n_steps=known.n_steps)
    config.sampler.denoise = known.denoise
    side = known.size if size is None else size
    require_at_least("size", 4, size=side)
    return Published(model, config, (side, side, model.module.channels))


def draw(published: Published, folder: Path, *, n: int, seed: int) -> list[Path]:
    """Draws n samples and writes pictures and samples.npz, "x" in [0, 1]; returns the paths."""
    drawn, sde = samples(published, n=n, seed=seed), published.model.sde
    sigmas = np.exp(-0.5 * np.asarray(sde.log_snr(build.grid(published.config, sde)[1:])))
    written = pictures.of_images(folder, drawn.x, drawn.path, sigmas)
    np.savez(folder / "samples.npz", x=drawn.x)
    return [*written, folder / "samples.npz"]


def samples(published: Published, *, n: int, seed: int = 0) -> Samples:
    """Draws n samples by the settings' sampler; sample i depends on the seed and i alone."""
    return runs.draw(published.config, published.model, published.shape, n=n, seed=seed)

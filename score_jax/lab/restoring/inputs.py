"""What is restored: pictures that are observations, or true ones of which observations are made.

Pictures are in [0, 1] here, 0 black and 1 white, `(K, H, W, C)`; the model sees them in its own range.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import data as datasets
from score_jax.conditioning import operators
from score_jax.data import images
from score_jax.lab.experiment import Data, Examples
from score_jax.lab.restoring.methods import Counts, Observation
from score_jax.types import Array, InputError

_STREAM = 0x6F627372  # of the observations' noise, apart from the samples' of the same seed
_DRAWS = 32


class Inputs(NamedTuple):
    """Pictures by name.

    Attributes:
      names: of files, or of rows of the held-out data.
      x: in [0, 1].
    """

    names: tuple[str, ...]
    x: np.ndarray


def read_pictures(paths: Sequence[Path], shape: tuple[int, ...], expected: str) -> Inputs:
    """Reads pictures of one shape (H, W, C).

    Raises:
      InputError: of the first that is missing, damaged, or of another size or kind; `expected` says what they are.
    """
    files = [file for path in paths for file in datasets.picture_files(path)]
    read = [datasets.read_picture(file, channels=shape[2]) for file in files]
    for file, x in zip(files, read, strict=True):
        if x.shape != shape:
            raise InputError(f"{file}: is {_by(x.shape)} pixels, and {expected} {_by(shape)}: bring it to that size")
    scaled = images.scale(jnp.asarray(np.stack(read)))
    return Inputs(tuple(map(str, files)), np.asarray(scaled))


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the mask of images (H, W, C): `(H, W, 1)`, True where white, which is observed.

    Raises:
      InputError: of a mask of another size, or with other values than black and white.
    """
    mask = datasets.read_picture(path, channels=1, convert=True)
    if mask.shape[:2] != shape[:2]:
        raise InputError(
            f"{path}: is {_by(mask.shape)} pixels, and the network's images are {_by(shape)}: bring it to that size"
        )
    grey = np.setdiff1d(mask, (0, 255))
    if grey.size:
        raise InputError(
            f"{path}: has grey levels such as {grey[0]}: a mask is black, 0, where pixels are hidden and white, 255, "
            "where they are observed; save it without smoothing or compression"
        )
    return mask > 0


def held_out(data: Data, n: int) -> Inputs:
    """Returns n held-out examples, always the same ones.

    Raises:
      InputError: where fewer are held out.
    """
    data.require_held_out()
    if n > len(data.held_out):
        raise InputError(f"--held_out={n}: {len(data.held_out)} examples of {data.name} are held out")
    rows = datasets.random_rows(data.held_out, n)
    return Inputs(tuple(f"held out {row}" for row in rows), datasets.some_examples(data.held_out, n)["x"])


def observed_shape(operator: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of what is observed of an example."""
    return jax.eval_shape(operator, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]


def as_given(
    examples: Examples, operator: Any, pictures: np.ndarray, noise_std: float, counts: Counts | None = None
) -> Observation:
    """Returns pictures as the observation, with noise of that size, of which black to white is 1."""
    y = jnp.where(seen_elements(operator, examples.shape), examples.of_picture(pictures), 0)
    return Observation(operator, y, noise_std * examples.contrast, counts)


def of_truth(
    examples: Examples, operator: Any, truth: np.ndarray, noise_std: float, seed: int, counts: Counts | None = None
) -> Observation:
    """Returns an observation that is made of true pictures, with noise of that size, of which black to white is 1."""
    key, std = jax.random.fold_in(jax.random.key(seed), _STREAM), noise_std * examples.contrast
    x = jnp.asarray(examples.of_picture(truth))
    if counts is None:
        y = operators.observe(key, operator, x, std)
    else:
        light = lambda x: counts.intensity(operator(x))
        y = jnp.asarray(examples.of_picture(np.asarray(operators.observe_counts(key, light, x, counts.photons))))
    return Observation(operator, jnp.where(seen_elements(operator, examples.shape), y, 0), std, counts)


def seen_elements(operator: Any, shape: tuple[int, ...]) -> Array:
    """Returns which elements of observations are any, `(1, …)`: not those that a mask hides, 0 whatever x is."""
    return (operator(jax.random.normal(jax.random.key(0), (_DRAWS, *shape))) != 0).any(0, keepdims=True)


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}×{shape[1]}"

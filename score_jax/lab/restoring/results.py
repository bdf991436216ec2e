"""What came of restoring: numbers with their conditions, pictures, arrays.

If y was made of x* by A x + σ_y z, a sample x of p(x | y) and x* are exchangeable given y. So ‖y − A x‖² follows σ_y²
times a χ² law of as many degrees as y has elements, m: about σ_y √m, and what is far from it is not the posterior. Of
counts of light, y Poisson's over n photons, it has the mean Σ A x*/n.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from score_jax import metrics
from score_jax.arrays import sum_dims
from score_jax.lab.experiment import Examples
from score_jax.lab.records import Conditions, write_samples
from score_jax.lab.restoring.inputs import seen_elements
from score_jax.lab.restoring.methods import Observation
from score_jax.lab.restoring.posterior import Posterior
from score_jax.lab.restoring.tasks import NO_PICTURE
from score_jax.training.logging import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from score_jax.types import InputError

_SHOWN, _ROWS = 4, 8  # samples of a picture, and pictures, in the figure
_HIDDEN = 0.5  # grey level of what was not observed
_FILE = "condition.json"


class Restoration(NamedTuple):
    """Pictures in [0, 1], black to white: observations as they are shown, samples `(K, n, H, W, C)`, and the truth."""

    observed: np.ndarray
    x: np.ndarray
    truth: np.ndarray | None

    @property
    def mean(self) -> np.ndarray:
        """Of the samples, `(K, H, W, C)`."""
        return self.x.mean(1)

    @property
    def std(self) -> np.ndarray:
        """Of the samples, `(K, H, W, C)`."""
        return self.x.std(1, ddof=min(1, self.x.shape[1] - 1))


def restored(
    examples: Examples, task: str, seen: Observation, drawn: Posterior, truth: np.ndarray | None
) -> Restoration:
    """Returns what was drawn as pictures."""
    observed = _magnitudes(seen) if task in NO_PICTURE else _pictures(examples, seen)
    return Restoration(observed, examples.to_picture(drawn.x).clip(0, 1), truth)


def _pictures(examples: Examples, seen: Observation) -> np.ndarray:
    """Observations as pictures, what is hidden grey."""
    where = np.asarray(seen_elements(seen.operator, examples.shape))
    return np.where(where, examples.to_picture(np.asarray(seen.y)), _HIDDEN).clip(0, 1)


def _magnitudes(seen: Observation) -> np.ndarray:
    """Observations that are none: the square root of each over the largest, black where it is below 0 by the noise."""
    y = np.asarray(seen.y).clip(0)
    return np.sqrt(y / y.max((1, 2, 3), keepdims=True))


def restoration_numbers(examples: Examples, seen: Observation, drawn: Posterior, found: Restoration) -> dict[str, Any]:
    """Returns residual, cost and, given the truth, PSNR and SSIM, of black to white 1, each with its conditions.

    Of the samples: their mean for each picture, then mean and standard error over pictures. Of their mean likewise.
    """
    finite = np.isfinite(drawn.x).all((2, 3, 4))
    told: dict[str, Any] = {
        "network_calls": drawn.cost.calls,
        "vector_jacobian_products": drawn.cost.products,
        "not_finite": int((~finite).sum()),
        "residual": _residual(examples, seen, drawn),
    }
    if found.truth is not None:
        told |= _closeness(found)
    return told


def _residual(examples: Examples, seen: Observation, drawn: Posterior) -> dict[str, Any]:
    where = seen_elements(seen.operator, examples.shape)
    apart = [
        np.sqrt(sum_dims(jnp.where(where, y - seen.operator(jnp.asarray(x)), 0) ** 2)).mean()
        for x, y in zip(drawn.x, seen.y[:, None], strict=True)
    ]
    scale, observed = 1 / examples.contrast, int(where.sum())
    return {
        **_over_pictures(np.array(apart) * scale),
        "expected": _expected(seen, scale, observed),
        "observed": observed,
    }


def _expected(seen: Observation, scale: float, observed: int) -> float:
    """The root of E‖y − A x‖²: of counts, whose variance is their mean, by their sum."""
    if seen.counts is None:
        return seen.noise_std * scale * math.sqrt(observed)
    light = np.asarray(sum_dims(seen.counts.intensity(seen.y)))
    return float(np.sqrt(light / seen.counts.photons).mean())


def _closeness(found: Restoration) -> dict[str, Any]:
    """PSNR and SSIM of samples and of their mean."""
    k, n, side = *found.x.shape[:2], min(found.x.shape[2:4])
    window = min(11, side - 1 + side % 2)
    truth, mean = jnp.asarray(found.truth), jnp.asarray(found.mean)
    samples = jnp.asarray(found.x.reshape(k * n, *found.x.shape[2:]))
    similarity = lambda x, truth: metrics.ssim(x, truth, window=window)
    told = {}
    for name, measure, more in (("psnr", metrics.psnr, {}), ("ssim", similarity, {"window": window})):
        of_samples = np.asarray(measure(samples, jnp.repeat(truth, n, 0))).reshape(k, n).mean(1)
        told[name] = _over_pictures(of_samples) | {"n": n} | more
        told[f"{name}_of_mean"] = _over_pictures(np.asarray(measure(mean, truth))) | {"n": n} | more
    return told


def _over_pictures(values: np.ndarray) -> dict[str, Any]:
    k = len(values)
    error = float(values.std(ddof=1) / math.sqrt(k)) if k > 1 else None
    return {"value": float(values.mean()), "standard_error": error, "pictures": k, "each": values.tolist()}


def require_free(folder: Path, conditions: Conditions) -> None:
    """Raises InputError where a folder holds anything but results of the same conditions, which would be replaced."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        kept = json.loads((folder / _FILE).read_text())["conditions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kept = None
    if kept != json.loads(json.dumps(conditions)):
        raise InputError(f"{folder} holds other files: give a new folder, --out=FOLDER, or move them away")


def write_results(
    folder: Path,
    found: Restoration,
    conditions: Conditions,
    numbers: Mapping[str, Any],
    names: tuple[str, ...],
    note: str,
) -> list[Path]:
    """Writes restored.png, a folder of pictures for each input, samples.npz and, last, condition.json."""
    from score_jax import plotting  # deferred, here and below: matplotlib is a sixth of the start
    from score_jax.lab import pictures

    written = [plotting.save_figure(figure(found), folder / "restored.png", note=note)]
    for k in range(len(found.x)):
        _write_pictures(folder / str(k), found, k)
    written += pictures.write_attribution(folder, note)
    arrays = {"observed": found.observed, "mean": found.mean, "std": found.std, "truth": found.truth}
    written.append(write_samples(folder, found.x, conditions | {"units": "images, clipped to [0, 1]"}, **arrays))
    told = {"conditions": conditions, "inputs": list(names), **numbers}
    write_text(folder / _FILE, json.dumps(_without_nan(told), indent=2) + "\n")
    return [*written, folder / _FILE]


def _without_nan(told: Any) -> Any:
    """What JSON can hold: null for numbers that are none, and for PSNR of pictures that are equal."""
    if isinstance(told, Mapping):
        return {name: _without_nan(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_without_nan(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def _write_pictures(folder: Path, found: Restoration, k: int) -> None:
    from score_jax import plotting

    plotting.save_png(folder / "observed.png", found.observed[k])
    plotting.save_png(folder / "mean.png", found.mean[k])
    plotting.save_png(folder / "std.png", _brightened(found.std[k]))
    for i, x in enumerate(found.x[k]):
        plotting.save_png(folder / f"sample-{i:02d}.png", x)
    if found.truth is not None:
        plotting.save_png(folder / "truth.png", found.truth[k])


def _brightened(std: np.ndarray) -> np.ndarray:
    """A standard deviation as a grey picture, white where it is largest."""
    grey = np.sqrt((std**2).mean(-1, keepdims=True))
    return grey / max(float(grey.max()), 1e-6)


def figure(found: Restoration) -> "Figure":
    """Shows for each picture, in a row: observation, samples, their mean and standard deviation, and the truth."""
    from score_jax import plotting

    k, n = min(_ROWS, len(found.x)), min(_SHOWN, found.x.shape[1])
    shape = found.x.shape[2:]
    spread = np.stack([_brightened(std) for std in found.std[:k]])
    columns = {"observed": found.observed[:k], **{f"sample {i + 1}": found.x[:k, i] for i in range(n)}}
    columns |= {"mean": found.mean[:k], "std": spread}
    columns |= {} if found.truth is None else {"truth": found.truth[:k]}
    tiles = np.stack([_tile(column, shape) for column in columns.values()], 1)
    return plotting.image_grid(tiles.reshape(-1, *shape), len(columns), names=list(columns))


def _tile(pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures of any size and channels as `(K, *shape)`, each pixel the nearest of theirs."""
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(shape[:2], pictures.shape[1:3]))
    return np.broadcast_to(pictures[:, rows][:, :, columns], (len(pictures), *shape))

"""Samples of a trained model: drawn by its sampling, in the data's units, and saved with what sets them apart.

Images of grey levels are handed out in [0, 1], which a sampler may overshoot; floating-point data and points in their
own units. Sample i depends on the seed and i alone.
"""

import itertools
import logging
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from score_jax.lab import memory, records
from score_jax.lab.experiment import OF_SAMPLING, Examples, Run, Trained
from score_jax.lab.kept import Kept
from score_jax.lab.progress import Counted
from score_jax.lab.records import Conditions
from score_jax.sampling import draw
from score_jax.sampling.draw import Program, Samples
from score_jax.training import hosts
from score_jax.types import InputError

_log = logging.getLogger(__name__)

_STREAM = 0x73616D70  # of sampling keys, apart from training's of the same seed


def draw_samples(
    trained: Trained,
    *,
    n: int,
    seed: int = 0,
    labels: np.ndarray | None = None,
    program: Program | None = None,
    quiet: bool = False,
) -> Samples:
    """Draws n samples by the model's sampling, in the data's units.

    Args:
      trained: the model.
      n: number of samples.
      seed: of the samples.
      labels: classes `(n,)` of a conditional model, −1 for any; None is −1 for all.
      program: of `program_of`, where it is there already.
      quiet: show no progress.

    Raises:
      InputError: of labels that the model doesn't have, or more samples than memory holds.
    """
    trained.sampling.require_score()
    examples, quiet = trained.examples, quiet or not hosts.is_first()
    labels = checked_labels(examples, n, labels)
    memory.require({f"{n} samples of shape {examples.shape}": memory.of_batches(examples.shape, n, 2)})
    drawn = _draw(
        trained,
        program_of(trained) if program is None else program,
        n=n,
        seed=seed,
        labels=labels,
        progress=partial(
            tqdm,
            desc="sampling",
            unit="batch",
            dynamic_ncols=True,
            disable=True if quiet else None,
            leave=not quiet,
        ),
    )
    _warn_of_not_finite(drawn.x)
    return drawn._replace(x=examples.to_data(drawn.x), path=examples.to_data(drawn.path))


def draw_in_parts(
    trained: Trained,
    unfinished: Kept,
    name: str,
    *,
    n: int,
    seed: int = 0,
    labels: np.ndarray | None = None,
    program: Program | None = None,
) -> Samples:
    """Draws the same samples as `draw_samples`, but for their paths, in parts that are kept as they come.

    Args:
      trained: the model.
      unfinished: keeps the parts.
      name: of these samples among what it keeps.
      n: number of samples.
      seed: of the samples.
      labels: classes `(n,)` of a conditional model, −1 for any; None is −1 for all.
      program: of `program_of`, where it is there already.
    """
    examples, how = trained.examples, trained.sampling
    how.require_score()
    labels = checked_labels(examples, n, labels)
    memory.require({f"{n} samples of shape {examples.shape}": memory.of_batches(examples.shape, n, 2)})
    program = program_of(trained) if program is None else program

    def part(start: int, stop: int) -> dict[str, np.ndarray]:
        rows = None if labels is None else labels[start:stop]
        drawn = _draw(trained, program, n=stop - start, seed=seed, first=start, labels=rows)
        return {"x": examples.to_data(drawn.x), "nfe": np.int64(drawn.nfe)}  # type: ignore[dict-item]

    found, shown = [], Counted("sampling", n, "sample")
    for start, stop in itertools.pairwise(_edges(n, how.batch_size)):
        key = f"{name}-{start}-{stop}"
        earlier = unfinished.has(key)
        found.append(unfinished.once(key, partial(part, start, stop)))
        shown.add(stop - start, earlier=earlier)
    shown.close()
    x = np.concatenate([one["x"] for one in found])
    _warn_of_not_finite(x)
    return Samples(x, x[:0], np.empty(0), max(int(one["nfe"]) for one in found))


def _edges(n: int, batch_size: int) -> list[int]:
    """Where parts of n samples begin and end: a batch each, and the last what is left of one too."""
    return [*range(0, n, batch_size)][: max(1, n // batch_size)] + [n]


def _draw(trained: Trained, program: Program, *, seed: int, **options: Any) -> Samples:
    key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    how = trained.sampling
    return draw.draw_many(key, how.drawn_from(trained.model), program, batch_size=how.batch_size, **options)


def _warn_of_not_finite(x: np.ndarray) -> None:
    broken = not_finite(x)
    if broken:
        _log.warning("%d of %d samples are not finite: the sampler diverged, try more or smaller steps", broken, len(x))


def program_of(trained: Trained) -> Program:
    """Returns the program that draws batches of a model, of any parameters."""
    how = trained.sampling
    options: dict[str, Any] = {"start": how.start, "transform": how.transform, "denoise": how.denoise}
    options |= {"mesh": how.mesh, "by_row": how.by_row}
    make = lambda: draw.compiled(how.make, how.ts, trained.examples.shape, **options)
    if isinstance(trained, Run) and how is trained.experiment.sampling:
        return trained.experiment.once("draw", make, of=OF_SAMPLING)
    return make()


def not_finite(x: np.ndarray) -> int:
    """Returns how many of the examples `(n, *S)` hold NaN or infinite values."""
    return int((~np.isfinite(x.reshape(len(x), -1)).all(1)).sum())


def classes_in_turn(examples: Examples, n: int) -> np.ndarray | None:
    """Returns labels of n samples of a conditional model, each class that has examples in turn, or None."""
    classes = np.array(examples.occurring, np.int32)
    return classes[np.arange(n) % len(classes)] if len(classes) else None


def label_named(examples: Examples, name: str) -> int:
    """Returns the label of the class that is called `name`, else of that number; −1 is any.

    Raises:
      InputError: where no class has this name or number.
    """
    names = examples.names
    if name in names:
        return names.index(name)
    if names and (name == "-1" or (name.isdecimal() and len(name) < 10 and int(name) < len(names))):
        return int(name)
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    has = f"has the classes {listed}" if names else examples.without_labels
    raise InputError(f"there is no class {name!r}: this model {has}")


def checked_labels(examples: Examples, n: int, labels: np.ndarray | None) -> np.ndarray | None:
    """Returns labels that the model knows, −1 for none of a conditional one; None of an unconditional one."""
    classes = len(examples.names)
    if not classes:
        if labels is not None:
            raise InputError(f"this model {examples.without_labels}")
        return None
    labels = np.full(n, -1, np.int32) if labels is None else np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(f"labels must be {n} integers, got {labels.dtype} of shape {labels.shape}")
    if labels.min() < -1 or labels.max() >= classes:
        raise InputError(f"labels must be 0 to {classes - 1}, or -1 for any, got {labels.min()} to {labels.max()}")
    if labels.min() < 0 and not examples.null_label:
        raise InputError(f"label -1, any, was never learned by this model: give every label, 0 to {classes - 1}")
    return labels.astype(np.int32)


def conditions(trained: Trained, *, n: int, seed: int, labels: np.ndarray | None) -> Conditions:
    """Returns what sets samples apart: the model, the sampler and its settings, the seed, number and labels."""
    told = {**of_seed(trained, seed), "n": n}
    if labels is None:
        return told
    if (labels == labels[0]).all():
        return {**told, "label": int(labels[0])}
    turn = classes_in_turn(trained.examples, n)
    in_turn = turn is not None and np.array_equal(labels, turn)
    return {**told, "labels": "in turn" if in_turn else labels.tolist()}


def of_seed(trained: Trained, seed: int) -> Conditions:
    """Returns what sets samples of one number apart."""
    return {**trained.sampling.conditions, **trained.origin, "seed": seed}


def save_samples(
    trained: Trained, drawn: Samples, folder: Path, *, seed: int, labels: np.ndarray | None = None
) -> Path:
    """Writes samples.npz of what was drawn: images of grey levels clipped to [0, 1], other data as they are."""
    examples = trained.examples
    told = {**conditions(trained, n=len(drawn.x), seed=seed, labels=labels), "units": examples.units}
    names = None if labels is None else np.array(examples.names)
    return records.write_samples(folder, examples.as_stored(drawn.x), told, label=labels, names=names)

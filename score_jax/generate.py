"""Drawing many samples from a score model: in batches, each sample from its own key.

Sample i depends on the seed and on i alone, so the same samples come out whatever the batch size.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays, sampling
from score_jax.sampling import Sampler
from score_jax.score import ScoreModel
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn

MakeSampler = Callable[[SDE, ScoreFn], Sampler]
Start = Callable[[Key, tuple[int, ...]], Array]
Transform = Callable[[SDE, ScoreFn], ScoreFn]


class Samples(NamedTuple):
    """Samples `(n, *S)`, and of the first few the states after every step, `(T, m, *S)`, as x/α."""

    x: np.ndarray
    path: np.ndarray


def draw(
    key: Key,
    model: ScoreModel,
    make_sampler: MakeSampler,
    ts: Array,
    shape: tuple[int, ...],
    *,
    start: Start | None = None,
    transform: Transform | None = None,
    labels: Array | None = None,
    denoise: bool = True,
    traced: int = 8,
) -> tuple[Array, Array]:
    """Draws `shape` = `(B, *S)` down the grid `ts`: `(x, path)`; pure, to be jitted by the caller.

    Args:
      key: `()` or `(B,)`.
      model: the score function.
      make_sampler: `(sde, score_fn) -> Sampler`.
      ts: grid from t_max down.
      shape: of the batch.
      start: `(key, shape) -> x` at `ts[0]`; None draws from the prior.
      transform: `(sde, score_fn) -> score_fn`, as for thresholding; also of the last denoising.
      labels: classes `(B,)` of a conditional model, −1 for none.
      denoise: end with the posterior mean at the last time (Tweedie).
      traced: number of samples whose path is kept.
    """
    sde = model.sde
    plain = model.given(label=labels)
    score_fn = transform(sde, plain) if transform else plain
    key_prior, key_steps = arrays.split(arrays.example_keys(key, shape[0]))
    x = (start or sde.prior_sample)(key_prior, shape)
    sampler = make_sampler(sde, score_fn)
    x, path = sampling.sample(key_steps, sampler, x, ts, trace=lambda state: state.x[:traced])
    alphas = sde.alpha(ts[1:]).reshape(-1, *[1] * (path.ndim - 1))
    end = sde.denoise(x, ts[-1], score_fn(x, ts[-1])) if denoise else x
    return end, path / alphas.astype(path.dtype)


def draw_many(
    key: Key,
    model: ScoreModel,
    make_sampler: MakeSampler,
    ts: Array,
    shape: tuple[int, ...],
    *,
    n: int,
    batch_size: int,
    start: Start | None = None,
    transform: Transform | None = None,
    labels: np.ndarray | None = None,
    denoise: bool = True,
    traced: int = 8,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Samples:
    """Draws n samples of one `shape` S in compiled batches.

    Args:
      key: `()`; sample i is drawn from it and i alone.
      model: the score function.
      make_sampler: `(sde, score_fn) -> Sampler`.
      ts: grid from t_max down.
      shape: of one sample.
      n: number of samples.
      batch_size: samples drawn at once; the last batch is filled up and cut.
      start: `(key, shape) -> x` at `ts[0]`; None draws from the prior.
      transform: `(sde, score_fn) -> score_fn`, as for thresholding; also of the last denoising.
      labels: classes `(n,)`, or None.
      denoise: end with the posterior mean.
      traced: number of samples whose path is kept.
      progress: wraps the iterator over batches, such as `tqdm`.

    Raises:
      InputError: for n or batch_size below 1, or labels of another length.
    """
    if n < 1 or batch_size < 1:
        raise InputError(f"samples and batch size must be at least 1, got n = {n}, batch_size = {batch_size}")
    if labels is not None and len(labels) != n:
        raise InputError(f"labels must be one per sample, got {len(labels)} for {n} samples")
    size = min(batch_size, n)

    @jax.jit
    def batch(keys, model, labels):
        options = {
            "start": start,
            "transform": transform,
            "labels": labels,
            "denoise": denoise,
            "traced": min(traced, size),
        }
        return draw(keys, model, make_sampler, ts, (size, *shape), **options)

    xs, first = [], None
    for first_row in progress(range(0, n, size)):
        rows = None if labels is None else jnp.asarray(np.resize(labels[first_row : first_row + size], size))
        x, path = batch(arrays.example_keys(key, size, first_row), model, rows)
        xs.append(np.asarray(x))
        first = np.asarray(path) if first is None else first
    assert first is not None
    return Samples(np.concatenate(xs)[:n], first)

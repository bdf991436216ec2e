"""Drawing many samples from a score model: in batches, each sample from its own key.

Sample i depends on the seed and on i alone, so the same samples come out whatever the batch size and the devices that
share a batch: each draws its rows. Only what a compiler does otherwise with more or fewer rows, the order of sums in a
product of matrices, tells the results apart.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from score_jax import arrays, devices
from score_jax.sampling import grids
from score_jax.sampling.base import Sampler, sample
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn

MakeSampler = Callable[[SDE, ScoreFn], Sampler]
Start = Callable[[Key, tuple[int, ...]], Array]
Transform = Callable[[SDE, ScoreFn], ScoreFn]


_PATH = 2**26  # numbers that the path of a batch may have: 256 MiB, but at least one example's


class Sampled(Protocol):
    """What samples are drawn from: a `ScoreModel`, or one that is guided, a pytree of arrays either way."""

    @property
    def sde(self) -> SDE:
        """The noising process."""

    @property
    def evaluations(self) -> int:
        """How many evaluations of a network on an example a score takes."""

    def conditioned(self, *, label: Array | None = None) -> ScoreFn:
        """Returns the score function of these labels, `(B,)`, or of none."""


class Drawn(NamedTuple):
    """A batch `(B, *S)`; of some of its rows the states after some steps, `(T, m, *S)`, as x/α; evaluations, `()`."""

    x: Array
    path: Array
    nfe: Array


class Samples(NamedTuple):
    """Samples `(n, *S)`, and the way of the first few.

    Attributes:
      x: the samples.
      path: of m of them the states after T steps spread evenly over all, the last included, as x/α, `(T, m, *S)`.
      times: of these states, `(T,)`.
      nfe: evaluations of a network that an example took, the most of any; a guided score takes two.
    """

    x: np.ndarray
    path: np.ndarray
    times: np.ndarray
    nfe: int


def draw_batch(
    key: Key,
    model: Sampled,
    make_sampler: MakeSampler,
    ts: Array,
    shape: tuple[int, ...],
    *,
    start: Start | None = None,
    transform: Transform | None = None,
    labels: Array | None = None,
    denoise: bool = True,
    traced: int = 8,
    frames: int = 60,
) -> Drawn:
    """Draws `shape` = `(B, *S)` down the grid `ts`; pure, to be jitted by the caller.

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
      traced: number of samples whose path is kept; fewer where it would be larger than 256 MiB.
      frames: number of steps after which it is kept.
    """
    sde = model.sde
    plain = model.conditioned(label=labels)
    score_fn = transform(sde, plain) if transform else plain
    key_prior, key_steps = arrays.split(arrays.example_keys(key, shape[0]))
    x = (start or sde.prior_sample)(key_prior, shape)
    sampler = make_sampler(sde, score_fn)
    keep = grids.evenly(len(ts) - 1, frames)
    rows = max(1, min(traced, _PATH // (len(keep) * max(x[0].size, 1))))
    calls = lambda state: 0 if sampler.calls else state.nfe
    trace = lambda state: (state.x[:rows], jnp.int32(calls(state)))
    x, (path, counted) = sample(key_steps, sampler, x, ts, trace=trace, keep=keep)
    alphas = sde.alpha(ts[1:][keep]).reshape(-1, *[1] * (path.ndim - 1))
    end = sde.denoise(x, ts[-1], score_fn(x, ts[-1])) if denoise else x
    scores = counted[-1] + (len(ts) - 1) * sampler.calls + int(denoise)
    return Drawn(end, path / alphas.astype(path.dtype), model.evaluations * scores)


class Program(NamedTuple):
    """What draws batches of a model of any parameters, compiled once for each number of rows.

    Attributes:
      draw: the compiled `(keys (B,), model, labels) -> Drawn`.
      times: of the states of its paths, `(T,)`.
      mesh: of the devices that share a batch.
      by_row: whether row i depends on key i alone, so that a batch may have more rows than are asked for: else it is
        only shared where the devices divide it.
    """

    draw: Callable[[Key, Sampled, Array | None], Drawn]
    times: np.ndarray
    mesh: Mesh
    by_row: bool = True


def compiled(
    make_sampler: MakeSampler,
    ts: Array,
    shape: tuple[int, ...],
    *,
    mesh: Mesh,
    by_row: bool = True,
    frames: int = 60,
    **options: Any,
) -> Program:
    """Returns `draw_batch` of any number of rows and parameters.

    Args:
      make_sampler: `(sde, score_fn) -> Sampler`.
      ts: grid from t_max down.
      shape: of one sample.
      mesh: of `Program`, as is `by_row`.
      by_row: False of samplers that look at other rows.
      frames: number of steps after which the path is kept.
      options: others of `draw_batch`.
    """

    @jax.jit
    def batch(keys: Key, model: Sampled, labels: Array | None) -> Drawn:
        return draw_batch(keys, model, make_sampler, ts, (len(keys), *shape), labels=labels, frames=frames, **options)

    return Program(batch, np.asarray(ts)[1:][grids.evenly(len(ts) - 1, frames)], mesh, by_row)


def draw_many(
    key: Key,
    model: Sampled,
    program: Program,
    *,
    n: int,
    batch_size: int,
    first: int = 0,
    labels: np.ndarray | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Samples:
    """Draws n samples in compiled batches.

    Args:
      key: `()`; sample i is drawn from it and i alone.
      model: the score function.
      program: of `compiled`.
      n: number of samples.
      batch_size: samples drawn at once, or somewhat more for each device to have as many; the last batch is filled up
        and cut.
      first: index of the first: others, of 0 to first − 1, were drawn before.
      labels: classes `(n,)`, or None.
      progress: wraps the iterator over batches, such as `tqdm`.

    Raises:
      InputError: for n or batch_size below 1, or labels of another length.
    """
    if n < 1 or batch_size < 1:
        raise InputError(f"samples and batch size must be at least 1, got n = {n}, batch_size = {batch_size}")
    if labels is not None and len(labels) != n:
        raise InputError(f"labels must be one per sample, got {len(labels)} for {n} samples")
    size = min(batch_size, n)
    size = devices.shared_size(size, program.mesh) if program.by_row else size
    model = devices.everywhere(model, program.mesh)
    batches: list[Drawn] = []
    for first_row in progress(range(0, n, size)):
        label = None if labels is None else np.resize(labels[first_row : first_row + size], size)
        keys = arrays.example_keys(key, size, first + first_row)
        rows = devices.put_rows({"key": keys, "label": label}, program.mesh)
        drawn = devices.gather(program.draw(rows["key"], model, rows["label"]))
        batches.append(drawn if not batches else drawn._replace(path=np.empty(0)))
    x, nfe = np.concatenate([drawn.x for drawn in batches])[:n], max(int(drawn.nfe) for drawn in batches)
    return Samples(x, np.asarray(batches[0].path)[:, : min(batch_size, n)], program.times, nfe)

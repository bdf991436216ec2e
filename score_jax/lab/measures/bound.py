"""The variational bound of held-out images, in bits per dimension, with its parts."""

from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import Mesh

from score_jax.lab.experiment import OF_SAMPLING, Numbers, Run
from score_jax.lab.measures.batches import in_batches, mean_of
from score_jax.lab.measures.likelihood import held_out_examples
from score_jax.lab.measures.measured import Measured, keys
from score_jax.likelihood import VariationalBound
from score_jax.score import ScoreModel
from score_jax.types import Array, InputError, Key, ScoreFn


def bound(measured: Measured) -> Numbers:
    """Returns the variational bound of held-out images, where it is asked for."""
    return bound_of_run(measured.run, measured.seed)


def bound_of_run(run: Run, seed: int) -> Numbers:
    """Returns the bound of `bound_n` held-out images, in bits per dimension, with its parts; nothing where that is 0.

    It is of the ancestral sampler and of images as they were trained on: dequantized, or the grey levels.
    """
    how, data, dequantize = run.experiment.evaluation, run.experiment.data, run.experiment.prepare.dequantize
    if not how.bound_n:
        return {}
    run.sampling.require_score()
    data.require_held_out()
    levels = data.held_out.grey_levels
    terms = how.bound
    if terms is None:
        raise InputError(
            f"the variational bound is of grey levels, which {data.name!r} has not: set "
            "--config.evaluation.bound_n=0, and likelihood_n for the density of such data"
        )
    key_noise, key_steps = keys(seed, 6)[4:]
    x, labels = held_out_examples(run, how.bound_n, key_noise, dequantize=dequantize)
    low, high = run.examples.value_range
    grey = f"{levels} grey levels, {'uniformly dequantized' if dequantize else 'as stored'}"
    return in_bits(
        key_steps,
        run.experiment.once("bound", lambda: terms, of=OF_SAMPLING),  # the same function: the same program
        run.model,
        x,
        labels,
        convention=f"bits per dimension of {grey}; variational bound of {how.bound_steps} ancestral steps",
        offset=float(np.log2(levels / (high - low))) if dequantize else 0.0,
        batch_size=run.sampling.batch_size,
        mesh=run.sampling.mesh,
    )


def in_bits(
    key: Key,
    terms: Callable[[Key, ScoreFn, Array], VariationalBound],
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    *,
    convention: str,
    offset: float,
    batch_size: int,
    mesh: Mesh,
) -> Numbers:
    """Returns the variational bound of images in bits per dimension, and its parts.

    Args:
      key: `()`, of the noise.
      terms: `(keys, score_fn, x) -> VariationalBound`.
      model: the score function.
      x: images `(n, H, W, C)` in the range of training.
      labels: classes `(n,)` of a conditional model, −1 for none.
      convention: what the bits are of, in words.
      offset: bits per dimension to add to the decoder's: of a density, the width of a grey level.
      batch_size: images at once; the last batch is filled up and cut.
      mesh: of the devices that share a batch.
    """
    unit = 1 / (x[0].size * np.log(2))
    found = in_batches(_of_batch(terms), key, model, x, labels, size=batch_size, mesh=mesh)
    parts = [part * unit for part in found]
    parts[2] += offset
    means = {
        f"bound_{name}": float(part.mean()) for name, part in zip(("prior", "steps", "decoder"), parts, strict=True)
    }
    return {**mean_of("bound_bits_per_dim", sum(parts)), **means, "bound_convention": convention}


@lru_cache(maxsize=4)
def _of_batch(terms: Callable[[Key, ScoreFn, Array], VariationalBound]) -> Callable[..., tuple[Array, Array, Array]]:
    @jax.jit
    def batch(keys, model, x, labels):
        found = terms(keys, model.conditioned(label=labels), x)
        return found.prior, found.steps.sum(0), found.decoder

    return batch

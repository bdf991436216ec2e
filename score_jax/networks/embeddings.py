"""Embeddings of what a network is conditioned on: a noise number `cond` (B,) and a class `label` (B,).

A network receives one float per example and does not know what it means; the parameterizations hand it
`log(sigma/alpha)`, from about −7 (data) to 5 (prior), so one unit is a factor e in noise. A scalar enters as

    [sin(ω_1 c), …, sin(ω_K c), cos(ω_1 c), …, cos(ω_K c)],

with frequencies between `lowest`, whose half period spans that range so that c stays identifiable, and `highest`,
whose period 2π/ω is the scale on which the output can change at once. The defaults, 0.25 and 4, mean half a period of
12.6 units and a period of 1.6, a third of which separates neighbouring levels of NCSN. On eight Gaussians, 4 gave a
smaller score error than 8 or 16: a score is a smooth function of the noise level. A network that takes 999 t or a
level index needs other frequencies, roughly 1/range and one.

Vaswani et al. 2017, section 3.5 (geometric frequencies); Tancik et al. 2020, eq. (5) (Gaussian ones).
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from score_jax.types import Array, ArrayLike, InputError


def at_least_float32(x: Array) -> jnp.dtype:
    """Returns the dtype of statistics, softmax and outputs: float32, or that of `x` where it is wider."""
    return jnp.promote_types(jnp.float32, x.dtype)


def waves(cond: Array, frequencies: ArrayLike) -> Array:
    """Returns `[sin(ω c), cos(ω c)]`, `(B, 2K)`, of `cond` `(B,)` and angular frequencies `(K,)`."""
    dtype = at_least_float32(cond)
    angles = cond.astype(dtype)[:, None] * jnp.asarray(frequencies, dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Sinusoidal(nn.Module):
    """Sines and cosines of geometrically spaced frequencies ω_k = lowest (highest/lowest)^(k/(K−1)), K = features/2.

    `cosine_first` puts the cosines before the sines, as some published networks do.
    """

    keeps_arrays: ClassVar[bool] = False
    features: int = 64
    lowest: float = 0.25
    highest: float = 4.0
    cosine_first: bool = False

    def __call__(self, cond: Array) -> Array:
        """Embeds `cond` `(B,)` as `(B, features)`, float32 or wider."""
        half = _half(self.features)
        embedded = waves(cond, np.geomspace(self.lowest, self.highest, half))
        return jnp.roll(embedded, half, axis=-1) if self.cosine_first else embedded


def positional(features: int, *, shift: float = 1.0, cosine_first: bool = False) -> Sinusoidal:
    """Returns the embedding of published networks, ω_k = 10⁻⁴^(k/(K − shift)): from 1 down to 10⁻⁴ with a shift of 1.

    Meant for timesteps up to 1000 (Vaswani et al. 2017, section 3.5; Ho et al. 2020). The shift is 1 in DDPM and score
    SDE, and 0 in ADM.
    """
    half = _half(features)
    last = 1e-4 ** ((half - 1) / max(half - shift, 1))
    return Sinusoidal(features, 1.0, last, cosine_first)


class GaussianFourier(nn.Module):
    """Sines and cosines of ω_k = 2π f_k with f_k ~ N(0, scale²), drawn once and never trained.

    The frequencies are the variable `frequencies` of the collection "fixed", so that an optimizer of "params" cannot
    reach them while checkpoints keep them. `of` is applied to the condition first: `jnp.log` where that is σ.
    """

    keeps_arrays: ClassVar[bool] = True
    features: int = 64
    scale: float = 0.5
    of: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """Embeds `cond` `(B,)` as `(B, features)`, float32 or wider."""
        half = _half(self.features)
        frequencies = self.variable(
            "fixed",
            "frequencies",
            lambda: self.scale * jax.random.normal(self.make_rng("params"), (half,), jnp.float32),
        )
        return waves(self.of(cond) if self.of else cond, 2 * np.pi * frequencies.value)


class LabelEmbedding(nn.Module):
    """A learned row for "no class", the first, and one for each class: what guidance compares.

    `label` None, or any negative entry, takes the null row. A label ≥ num_classes cannot be refused under `jit`; it
    gives NaN rather than some other class. With `num_classes=0` there is no table and the embedding is zero.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label: Array | None, batch: int) -> Array:
        """Embeds integer labels `(B,)`, or None, as `(B, features)`."""
        if self.num_classes == 0:
            if label is not None:
                raise InputError("labels were given to a network without classes; build it with num_classes > 0")
            return jnp.zeros((batch, self.features), jnp.float32)
        label = jnp.full((batch,), -1) if label is None else jnp.asarray(label)
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise InputError(f"labels have dtype {label.dtype}; integers were expected, -1 for no class")
        table = self.param("table", nn.initializers.normal(1.0), (self.num_classes + 1, self.features))
        return jnp.take(table, jnp.maximum(label, -1) + 1, axis=0, mode="fill", fill_value=jnp.nan)


class Told(NamedTuple):
    """A label, and how its example was augmented: what networks with `augmentation` are given in training.

    Attributes:
      label: `(B,)`, or None.
      augmentation: numbers of it, `(B, augmentation)`, 0 of an example that is as it was, as samples are to be.
    """

    label: Array | None
    augmentation: Array


def told_of(label: Array | Told | None, augmentation: int, noise: Array) -> Told:
    """Returns the label and numbers of the augmentation, 0 where nothing is said of it.

    Args:
      label: as a network is given it.
      augmentation: how many numbers the network takes.
      noise: what the network is told of the noise, `(B, ...)`: the zeros are as many and, if float32 or wider, of its
        type.

    Raises:
      InputError: of as many as it doesn't take.
    """
    if not isinstance(label, Told):
        return Told(label, jnp.zeros((len(noise), augmentation), at_least_float32(noise)))
    found = label.augmentation.shape[-1]
    if found != augmentation:
        raise InputError(f"{found} numbers of an augmentation were given to a network built with {augmentation=}")
    return label


class ConditionEmbedding(nn.Module):
    """Embeds noise, label and augmentation a: `swish(W₂ swish(W₁ noise(c) + b₁ + label row + W₃ a) + b₂)`.

    Without `noise` there is a 1 in place of noise(c), and c is ignored.
    """

    features: int
    noise: nn.Module | None
    num_classes: int = 0
    dtype: Dtype | None = None
    augmentation: int = 0

    @nn.compact
    def __call__(self, cond: Array, label: Array | Told | None) -> Array:
        """Returns `(B, features)`."""
        label, numbers = told_of(label, self.augmentation, cond)
        noise = jnp.ones((cond.shape[0], 1), at_least_float32(cond)) if self.noise is None else self.noise(cond)
        h = nn.Dense(self.features, dtype=self.dtype, name="inner")(noise)
        h = h + LabelEmbedding(self.num_classes, self.features, name="label")(label, cond.shape[0]).astype(h.dtype)
        if self.augmentation:
            h = h + nn.Dense(self.features, use_bias=False, dtype=self.dtype, name="augmentation")(numbers)
        return nn.swish(nn.Dense(self.features, dtype=self.dtype, name="outer")(nn.swish(h)))


def _half(features: int) -> int:
    if features < 2 or features % 2:
        raise InputError(f"an embedding of sines and cosines has an even number of features, got {features}")
    return features // 2

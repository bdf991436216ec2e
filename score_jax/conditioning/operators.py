"""What is observed of an example: maps A with y = A x + noise, their adjoints, and their singular values.

An operator is called with a batch: `operator(x)` is A x for each row of x `(B, *S)`. A linear one has `adjoint(y)`,
Aᵀ y; one whose singular value decomposition A = U Σ Vᵀ is known has the three functions of `Decomposed` too, in which
pseudo-inverse and regularised inverse are a line each. Any other differentiable function of a batch, row by row, is an
operator as it stands, for methods that need no more: `magnitudes`, `saturated`, `quantized`.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from score_jax import arrays, pytrees
from score_jax.types import Array, ArrayLike, InputError, Key, require_at_least, require_positive

_RANK = 1e-6  # of the largest singular value: what is below counts as 0


@runtime_checkable
class Operator(Protocol):
    """A linear map of examples to observations, with its adjoint.

    Examples:
      >>> linear = lambda operator: isinstance(operator, conditioning.operators.Operator)
      >>> print(linear(conditioning.operators.Mask(np.ones(2))), linear(jnp.tanh))
      True False
    """

    def __call__(self, x: Array, /) -> Array:
        """Returns A x of each row."""

    def adjoint(self, y: Array, /) -> Array:
        """Returns Aᵀ y of each row, of the shape of x."""


@runtime_checkable
class Decomposed(Operator, Protocol):
    """A linear map with its singular value decomposition A = U Σ Vᵀ, V Vᵀ = I.

    The spectrum Vᵀ x is real, of any shape: Fourier coefficients are pairs.

    Examples:
      The singular values of a mask are its zeros and ones.

      >>> mask, x = conditioning.operators.Mask(np.array([1, 0])), jnp.array([[3.0, 7.0]])
      >>> print(isinstance(mask, conditioning.operators.Decomposed), mask.singular_values(mask.to_spectrum(x)))
      True [[1. 0.]]
    """

    def to_spectrum(self, x: Array, /) -> Array:
        """Returns Vᵀ x."""

    def from_spectrum(self, v: Array, /) -> Array:
        """Returns V v."""

    def observed_spectrum(self, y: Array, /) -> Array:
        """Returns Uᵀ y, each entry in the place of its singular value in the spectrum, 0 elsewhere."""

    def singular_values(self, v: Array, /) -> Array:
        """Returns the diagonal of Σ, 0 where nothing is observed, so that it broadcasts against a spectrum v."""


def pseudo_inverse(operator: Decomposed, y: Array) -> Array:
    """Returns A⁺ y of each row: the x of least norm among those that come closest to y.

    Examples:
      Of the mean of four pixels: four pixels of that value.

      >>> operator, y = conditioning.operators.Downsample(2), jnp.full((1, 1, 1, 1), 1.5)
      >>> print(np.array(jax.jit(conditioning.operators.pseudo_inverse)(operator, y))[0, :, :, 0].round(2))
      [[1.5 1.5]
       [1.5 1.5]]
    """
    return regularised_inverse(operator, y, 0.0)


def regularised_inverse(operator: Decomposed, y: Array, ridge: ArrayLike) -> Array:
    """Returns Aᵀ (A Aᵀ + c I)⁻¹ y of each row; for c = 0 the pseudo-inverse.

    Args:
      operator: A.
      y: `(B, …)`.
      ridge: c ≥ 0, `()` or `(B,)`.

    Examples:
      Of what a mask observes, y/(1 + c).

      >>> operator, y = conditioning.operators.Mask(np.array([1, 0])), jnp.array([[3.0, 7.0]])
      >>> print(conditioning.operators.regularised_inverse(operator, y, 1.0))
      [[1.5 0. ]]
    """
    seen = operator.observed_spectrum(y)
    values = operator.singular_values(seen)
    squares = values**2 + arrays.expand_right(ridge, seen)
    kept = is_observed(values)
    return operator.from_spectrum(jnp.where(kept, values * seen / jnp.where(kept, squares, 1), 0))


def observed_directions(operator: Decomposed, y: Array, noise_std: ArrayLike) -> tuple[Array, Array, Array]:
    """Returns of each singular direction whether it is observed, what it is by y, Uᵀ y/s, and that one's noise, σ_y/s.

    All three broadcast against a spectrum; the latter two are 0 where nothing is observed.

    Examples:
      >>> operator, y = conditioning.operators.Mask(np.array([1, 0])), jnp.array([[3.0, 7.0]])
      >>> seen, known, spread = conditioning.operators.observed_directions(operator, y, 0.5)
      >>> print(seen, known, spread)
      [[ True False]] [[3. 0.]] [[0.5 0. ]]
    """
    known = operator.observed_spectrum(y)
    values = operator.singular_values(known)
    seen = is_observed(values)
    inverse = jnp.where(seen, 1 / jnp.where(seen, values, 1), 0)
    return seen, inverse * known, arrays.expand_right(noise_std, known) * inverse


def is_observed(values: Array) -> Array:
    """Returns which singular values are not 0 but for rounding.

    Examples:
      >>> print(conditioning.operators.is_observed(jnp.array([1.0, 1e-9])))
      [ True False]
    """
    return values > _RANK * values.max()


def observe(key: Key, operator: Any, x: Array, noise_std: ArrayLike) -> Array:
    """Draws y = A x + noise_std·z.

    Examples:
      >>> y = conditioning.operators.observe(key, jnp.cos, jnp.zeros((4096, 1)), 0.5)  # 1 + z/2
      >>> print(f"{y.mean():.1f} {y.std():.1f}")
      1.0 0.5
    """
    require_at_least("observe", 0, noise_std=noise_std)
    clean = operator(x)
    return clean + jnp.asarray(noise_std, clean.dtype) * arrays.normal(key, clean)


def observe_counts(key: Key, operator: Any, x: Array, peak: ArrayLike) -> Array:
    """Draws y = Poisson(peak·A x)/peak, counts of light; A x below 0 is taken for 0.

    Examples:
      Counts of mean and variance 10, over 10.

      >>> y = conditioning.operators.observe_counts(key, jnp.cos, jnp.zeros((4096, 1)), 10.0)
      >>> print(f"{y.mean():.1f} {y.var():.1f}")
      1.0 0.1
    """
    require_positive("observe_counts", peak=peak)
    rate = jnp.maximum(operator(x) * peak, 0)
    keys = arrays.example_keys(key, len(x))
    return jax.vmap(jax.random.poisson)(keys, rate).astype(rate.dtype) / peak


def log_counts(operator: Any, y: Array, peak: ArrayLike) -> Callable[[Array], Array]:
    """Returns x0 -> log p(y | x0) `(B,)` of `observe_counts`, up to a constant, for `likelihood_guidance`.

    peak Σ (y log A x0 − A x0), where A x0 counts as no less than a thousandth of a count.

    Examples:
      Of y = 1 at a peak of 10: 10 (log A x − A x), most at A x = 1.

      >>> log_likelihood = conditioning.operators.log_counts(lambda x: x, jnp.ones((3, 1)), 10.0)
      >>> print(np.array(log_likelihood(jnp.array([[0.5], [1.0], [2.0]]))).round(1))
      [-11.9 -10.  -13.1]
    """
    require_positive("log_counts", peak=peak)

    def log_likelihood(x0: Array) -> Array:
        rate = jnp.maximum(operator(x0), 1e-3 / peak)
        return arrays.sum_dims(jnp.asarray(peak * (y * jnp.log(rate) - rate)))

    return log_likelihood


def require_linear(owner: str, operator: Any) -> None:
    """Raises InputError for an operator without an adjoint.

    Examples:
      >>> conditioning.operators.require_linear("tmpd", jnp.tanh)
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: tmpd needs a linear operator, with adjoint(y), got tanh: take dps or mmps for others
    """
    if not isinstance(operator, Operator):
        raise InputError(
            f"{owner} needs a linear operator, with adjoint(y), got {_name(operator)}: take dps or mmps for others"
        )


def require_decomposed(owner: str, operator: Any) -> None:
    """Raises InputError for an operator whose singular value decomposition is not known.

    Examples:
      >>> conditioning.operators.require_decomposed("ddrm", jnp.tanh)
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: ddrm needs an operator with its singular values, ..., got tanh: ...
    """
    if not isinstance(operator, Decomposed):
        raise InputError(
            f"{owner} needs an operator with its singular values, such as those of conditioning.operators, got "
            f"{_name(operator)}: give Linear(matrix), or take dps, tmpd or mmps"
        )


def require_observation(owner: str, operator: Any, x: Array, y: Array) -> None:
    """Raises InputError unless y is what the operator makes of x: of each row, or `(1, …)` for all.

    Examples:
      >>> conditioning.operators.require_observation("dps", jnp.tanh, jnp.zeros((4, 2)), jnp.zeros(2))
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: dps: tanh makes observations (4, 2) of examples (4, 2), and y is (2,): ...
    """
    expected = jax.eval_shape(operator, jax.ShapeDtypeStruct(x.shape, x.dtype)).shape
    if jnp.shape(y) not in (expected, (1, *expected[1:])):
        raise InputError(
            f"{owner}: {_name(operator)} makes observations {expected} of examples {x.shape}, and y is {jnp.shape(y)}: "
            "give one for each row of x, or one for all, y[None]"
        )


def _name(operator: Any) -> str:
    return getattr(operator, "__name__", type(operator).__name__)


@pytrees.dataclass
class Mask:
    """A x = m·x: the elements where the mask is 1 (or True) are observed. A = Aᵀ = A²: y has the shape of x.

    What was not observed is never read: in y it may hold anything, NaN included.

    Args:
      mask: of an example's shape S, or `(B, *S)` for a mask of each example; 1 on an axis it doesn't depend on, as in
        (H, W, 1) for all channels.

    Examples:
      >>> mask = conditioning.operators.Mask(np.array([1, 0]))
      >>> print(mask(jnp.array([[3.0, 7.0]])))
      [[3. 0.]]
    """

    mask: ArrayLike

    def __post_init__(self) -> None:
        mask = self.mask
        if isinstance(mask, np.ndarray | jax.Array) and not isinstance(mask, jax.core.Tracer):
            other = np.setdiff1d(mask, (0, 1))
            if other.size:
                raise InputError(f"Mask: 1 is observed and 0 is not, got {other[0]:g}: give mask > 0.5, for instance")

    def _seen(self, x: Array) -> Array:
        mask = jnp.asarray(self.mask, bool)
        mask = mask[None] if mask.ndim == x.ndim - 1 else mask
        if mask.ndim != x.ndim or any(m not in (1, n) for m, n in zip(mask.shape, x.shape)):
            raise InputError(
                f"Mask: a mask of shape {jnp.shape(self.mask)} does not fit examples of shape {x.shape[1:]}: give it "
                f"that shape, with 1 on an axis it doesn't depend on, or a mask for each of the {len(x)} examples"
            )
        return mask

    def __call__(self, x: Array) -> Array:
        """Returns x where observed, 0 elsewhere."""
        return jnp.where(self._seen(x), x, 0)

    adjoint = observed_spectrum = without_hidden = __call__

    def to_spectrum(self, x: Array) -> Array:
        """Returns x: V is the identity."""
        return x

    from_spectrum = to_spectrum

    def singular_values(self, v: Array) -> Array:
        """Returns the mask."""
        return self._seen(v).astype(v.dtype)


def box(shape: tuple[int, ...], top: int, left: int, height: int, width: int) -> Mask:
    """Returns the mask of images `shape` = (H, W, C) that hides a box of pixels.

    Raises:
      InputError: for a box that is not inside.

    Examples:
      Of 4×4 pixels 2×2 are hidden.

      >>> print(conditioning.operators.box((4, 4, 3), top=1, left=1, height=2, width=2).mask.sum())
      12
    """
    if min(top, left) < 0 or min(height, width) < 1 or top + height > shape[0] or left + width > shape[1]:
        raise InputError(
            f"box: rows {top} to {top + height - 1}, columns {left} to {left + width - 1} are not inside images of "
            f"{shape[0]}×{shape[1]}"
        )
    mask = np.ones((*shape[:2], 1), bool)
    mask[top : top + height, left : left + width] = False
    return Mask(mask)


def random_mask(key: Key, shape: tuple[int, ...], share: float) -> Mask:
    """Returns a mask of images (H, W, C) that observes a pixel, all its channels, with probability `share`.

    Examples:
      >>> mask = conditioning.operators.random_mask(key, (64, 64, 3), 0.5).mask
      >>> print(mask.shape, f"{mask.mean():.1f}")
      (64, 64, 1) 0.5
    """
    if not 0 < share < 1:
        raise InputError(f"random_mask: share is between 0 and 1, got {share}")
    return Mask(jax.random.bernoulli(key, share, (*shape[:2], 1)))


class _OfGroups:
    """A x = s ⟨e, g⟩ of each group g `(K,)` of an example's elements, e of length 1: one number a group.

    V turns e to the first axis of its group: the Householder reflection of e − e₁, which is its own inverse.
    """

    def _group(self, x: Array) -> Array:
        """Returns the elements as `(B, …, K)`."""
        raise NotImplementedError

    def _ungroup(self, groups: Array) -> Array:
        raise NotImplementedError

    def _direction(self, dtype: Any) -> tuple[Array, Array]:
        """Returns e `(K,)` and s."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Returns A x of each row."""
        direction, scale = self._direction(x.dtype)
        return scale * jnp.einsum("...k,k->...", self._group(x), direction, precision="highest")

    def adjoint(self, y: Array) -> Array:
        """Returns Aᵀ y of each row."""
        direction, scale = self._direction(y.dtype)
        return self._ungroup(scale * jnp.einsum("...,k->...k", y, direction))

    def to_spectrum(self, x: Array) -> Array:
        """Returns Vᵀ x, `(B, …, K)`."""
        return self._reflected(self._group(x))

    def from_spectrum(self, v: Array) -> Array:
        """Returns V v."""
        return self._ungroup(self._reflected(v))

    def observed_spectrum(self, y: Array) -> Array:
        """Returns y in the first place of each group."""
        direction, _ = self._direction(y.dtype)
        return jnp.einsum("...,k->...k", y, _first(direction))

    def singular_values(self, v: Array) -> Array:
        """Returns s in the first place, 0 in the others."""
        direction, scale = self._direction(v.dtype)
        return (scale * _first(direction)).reshape((1,) * (v.ndim - 1) + (-1,))

    def _reflected(self, groups: Array) -> Array:
        direction, _ = self._direction(groups.dtype)
        across = direction - _first(direction)
        length = (across**2).sum()
        along = jnp.einsum("...k,k->...", groups, across, precision="highest") * 2 / jnp.where(length > 0, length, 1)
        return groups - jnp.einsum("...,k->...k", along, across)


def _first(direction: Array) -> Array:
    return jnp.zeros_like(direction).at[0].set(1)


@pytrees.dataclass
class Downsample(_OfGroups):
    """The mean of each block of `factor`×`factor` pixels of images (H, W, C): Aᵀ A = projection / factor².

    Examples:
      >>> image = jnp.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
      >>> print(f"{jax.jit(conditioning.operators.Downsample(2))(image)[0, 0, 0, 0]:.2f}")
      1.50
    """

    factor: int = struct.field(pytree_node=False)

    def _group(self, x: Array) -> Array:
        f = self.factor
        if x.ndim != 4 or x.shape[1] % f or x.shape[2] % f:
            raise InputError(f"Downsample({f}) takes images (H, W, C) of multiples of {f}, got {x.shape[1:]}")
        blocks = x.reshape(len(x), x.shape[1] // f, f, x.shape[2] // f, f, x.shape[3])
        return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(len(x), x.shape[1] // f, x.shape[2] // f, x.shape[3], f * f)

    def _ungroup(self, groups: Array) -> Array:
        f, (n, height, width, channels, _) = self.factor, groups.shape
        blocks = groups.reshape(n, height, width, channels, f, f).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, height * f, width * f, channels)

    def _direction(self, dtype: Any) -> tuple[Array, Array]:
        return jnp.full(self.factor**2, 1 / self.factor, dtype), jnp.asarray(1 / self.factor, dtype)


@pytrees.dataclass
class Gray(_OfGroups):
    """One grey channel of images (H, W, C): a weighted sum of their channels, the mean of three unless given.

    Examples:
      >>> red = jnp.array([[[[1.0, 0.0, 0.0]]]])
      >>> print(f"{jax.jit(conditioning.operators.Gray())(red)[0, 0, 0, 0]:.2f}")
      0.33
    """

    weights: tuple[float, ...] = struct.field(pytree_node=False, default=(1 / 3, 1 / 3, 1 / 3))

    def _group(self, x: Array) -> Array:
        if x.ndim != 4 or x.shape[3] != len(self.weights):
            raise InputError(f"Gray takes images (H, W, {len(self.weights)}), got {x.shape[1:]}")
        return x[:, :, :, None]

    def _ungroup(self, groups: Array) -> Array:
        return groups[:, :, :, 0]

    def _direction(self, dtype: Any) -> tuple[Array, Array]:
        length = math.hypot(*self.weights)
        return jnp.asarray(np.array(self.weights) / length, dtype), jnp.asarray(length, dtype)


@pytrees.dataclass
class Blur:
    """Circular convolution of images (H, W, C), each channel by itself, with a kernel whose middle is its centre.

    The singular values are the absolute values of the kernel's Fourier transform, V is the transform.

    Args:
      kernel: `(h, w)`, no larger than the images: `gaussian_kernel`, `motion_kernel`.

    Examples:
      A point is spread as the kernel is, an image of one value stays as it is.

      >>> blur = jax.jit(lambda x: conditioning.operators.Blur(conditioning.operators.gaussian_kernel(3, 1.0))(x))
      >>> point = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
      >>> print(f"{blur(point)[0, 1, 1, 0]:.2f} {blur(0 * point + 1)[0, 1, 1, 0]:.2f}")
      0.20 1.00
    """

    kernel: ArrayLike

    def _transfer(self, x: Array) -> Array:
        """The kernel's transform `(1, H, W, 1)`."""
        kernel = jnp.asarray(self.kernel, x.dtype)
        if x.ndim != 4 or kernel.ndim != 2 or kernel.shape[0] > x.shape[1] or kernel.shape[1] > x.shape[2]:
            raise InputError(
                f"Blur takes images (H, W, C) no smaller than its kernel (h, w), got {x.shape[1:]} and {kernel.shape}"
            )
        padded = jnp.zeros(x.shape[1:3], x.dtype).at[: kernel.shape[0], : kernel.shape[1]].set(kernel)
        centred = jnp.roll(padded, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
        return jnp.fft.fft2(centred)[None, :, :, None]

    def __call__(self, x: Array) -> Array:
        """Returns A x of each row."""
        return _untransformed(self._transfer(x) * _transformed(x))

    def adjoint(self, y: Array) -> Array:
        """Returns Aᵀ y: the convolution with the kernel turned around."""
        return _untransformed(self._transfer(y).conj() * _transformed(y))

    def to_spectrum(self, x: Array) -> Array:
        """Returns the unitary Fourier transform, real and imaginary parts `(B, H, W, C, 2)`."""
        return _as_pairs(_transformed(x))

    def from_spectrum(self, v: Array) -> Array:
        """Returns the real part of the inverse transform."""
        return _untransformed(jax.lax.complex(v[..., 0], v[..., 1]))

    def observed_spectrum(self, y: Array) -> Array:
        """Returns the transform without the phase that the kernel gave it."""
        transfer = self._transfer(y)
        phase = jnp.exp(jax.lax.complex(jnp.zeros_like(y[:1, :, :, :1]), -jnp.angle(transfer)))
        return _as_pairs(phase * _transformed(y))

    def singular_values(self, v: Array) -> Array:
        """Returns |kernel's transform|, `(1, H, W, 1, 1)`."""
        return jnp.abs(self._transfer(v[..., 0]))[..., None]


def _transformed(x: Array) -> Array:
    return jnp.fft.fft2(x, axes=(1, 2), norm="ortho")


def _untransformed(transform: Array) -> Array:
    return jnp.fft.ifft2(transform, axes=(1, 2), norm="ortho").real


def _as_pairs(transform: Array) -> Array:
    return jnp.stack([transform.real, transform.imag], -1)


def gaussian_kernel(size: int, std: float) -> np.ndarray:
    """Returns a Gaussian of that standard deviation, in pixels, on `size`×`size` of them, of sum 1.

    Examples:
      >>> kernel = conditioning.operators.gaussian_kernel(3, 1.0)
      >>> print(kernel[1].round(2), f"{kernel.sum():.2f}")
      [0.12 0.2  0.12] 1.00
    """
    require_at_least("gaussian_kernel", 1, size=size)
    require_positive("gaussian_kernel", std=std)
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def motion_kernel(size: int, angle: float) -> np.ndarray:
    """Returns a line of that length in pixels through the middle of `size`×`size`, of sum 1.

    Args:
      size: odd.
      angle: in degrees, counter-clockwise from the right.

    Examples:
      >>> print((conditioning.operators.motion_kernel(3, 45.0) > 0).astype(int))
      [[0 0 1]
       [0 1 0]
       [1 0 0]]
    """
    if size < 1 or size % 2 == 0:
        raise InputError(f"motion_kernel: size is odd and at least 1, got {size}")
    radius, radians = size // 2, math.radians(angle)
    steps = np.linspace(-radius, radius, 8 * size + 1)
    rows = np.rint(radius - steps * math.sin(radians)).astype(int)
    columns = np.rint(radius + steps * math.cos(radians)).astype(int)
    kernel = np.zeros((size, size))
    np.add.at(kernel, (rows, columns), 1)
    return kernel / kernel.sum()


@pytrees.dataclass
class Linear:
    """A x = M x of flattened examples: y is `(B, m)`.

    Args:
      matrix: M, `(m, D)`.
      shape: S of an example; `(D,)` unless given.
      factors: its singular value decomposition, which is made of the matrix.

    Examples:
      >>> operator, x = conditioning.operators.Linear(jnp.array([[3.0, 4.0]])), jnp.ones((1, 2))
      >>> print(operator(x), np.array(operator.singular_values(x)).round(2))
      [[7.]] [[5. 0.]]
    """

    matrix: ArrayLike
    shape: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    factors: Any = None

    def __post_init__(self) -> None:
        if self.factors is not None:
            return
        matrix = jnp.asarray(self.matrix)
        dims = None if self.shape is None else math.prod(self.shape)
        if matrix.ndim != 2 or dims not in (None, matrix.shape[1]):
            raise InputError(
                f"Linear takes a matrix (m, D) of examples of D elements, got {matrix.shape}, {self.shape}"
            )
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=True)
        rank = len(s)
        object.__setattr__(self, "factors", (u[:, :rank], jnp.zeros(len(vt), s.dtype).at[:rank].set(s), vt))

    def __call__(self, x: Array) -> Array:
        """Returns M x of each row, `(B, m)`."""
        matrix = jnp.asarray(self.matrix, x.dtype)
        if x[0].size != matrix.shape[1]:
            raise InputError(f"Linear: a matrix {matrix.shape} acts on {matrix.shape[1]} elements, got {x.shape[1:]}")
        return _product("md,bd->bm", matrix, x.reshape(len(x), -1))

    def adjoint(self, y: Array) -> Array:
        """Returns Mᵀ y of each row, `(B, *S)`."""
        return self._shaped(_product("md,bm->bd", jnp.asarray(self.matrix, y.dtype), y))

    def to_spectrum(self, x: Array) -> Array:
        """Returns Vᵀ x, `(B, D)`."""
        return _product("kd,bd->bk", self.factors[2].astype(x.dtype), x.reshape(len(x), -1))

    def from_spectrum(self, v: Array) -> Array:
        """Returns V v, `(B, *S)`."""
        return self._shaped(_product("kd,bk->bd", self.factors[2].astype(v.dtype), v))

    def observed_spectrum(self, y: Array) -> Array:
        """Returns Uᵀ y and zeros, `(B, D)`."""
        seen = _product("mk,bm->bk", self.factors[0].astype(y.dtype), y)
        return jnp.pad(seen, ((0, 0), (0, len(self.factors[2]) - seen.shape[1])))

    def singular_values(self, v: Array) -> Array:
        """Returns them and zeros, `(1, D)`."""
        return self.factors[1].astype(v.dtype)[None]

    def _shaped(self, rows: Array) -> Array:
        return rows if self.shape is None else rows.reshape(len(rows), *self.shape)


@pytrees.dataclass
class Separable:
    """A x = R x Cᵀ of images (H, W, channels), each channel by itself: y is (h, w, channels).

    Args:
      rows: R, `(h, H)`.
      columns: C, `(w, W)`.

    Examples:
      The mean of the pixels, of rows and of columns.

      >>> half, image = jnp.full((1, 2), 0.5), jnp.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
      >>> print(conditioning.operators.Separable(half, half)(image)[0, 0, 0])
      [1.5]
    """

    rows: ArrayLike
    columns: ArrayLike
    factors: Any = None

    def __post_init__(self) -> None:
        if self.factors is not None:
            return
        sides = [Linear(matrix).factors for matrix in (self.rows, self.columns)]
        object.__setattr__(self, "factors", tuple(sides))

    def __call__(self, x: Array) -> Array:
        """Returns A x of each row."""
        rows, columns = (jnp.asarray(matrix, x.dtype) for matrix in (self.rows, self.columns))
        if x.ndim != 4 or x.shape[1:3] != (rows.shape[1], columns.shape[1]):
            raise InputError(
                f"Separable: matrices {rows.shape} and {columns.shape} act on images of "
                f"{rows.shape[1]}×{columns.shape[1]}, got {x.shape[1:]}"
            )
        return _product("hH,wW,bHWc->bhwc", rows, columns, x)

    def adjoint(self, y: Array) -> Array:
        """Returns Aᵀ y of each row."""
        rows, columns = (jnp.asarray(matrix, y.dtype) for matrix in (self.rows, self.columns))
        return _product("hH,wW,bhwc->bHWc", rows, columns, y)

    def to_spectrum(self, x: Array) -> Array:
        """Returns V_Rᵀ x V_C."""
        return _product("kH,lW,bHWc->bklc", *self._sides(2, x), x)

    def from_spectrum(self, v: Array) -> Array:
        """Returns V_R v V_Cᵀ."""
        return _product("kH,lW,bklc->bHWc", *self._sides(2, v), v)

    def observed_spectrum(self, y: Array) -> Array:
        """Returns U_Rᵀ y U_C and zeros."""
        seen = _product("hk,wl,bhwc->bklc", *self._sides(0, y), y)
        free = [len(values) - n for values, n in zip(self._sides(1, y), seen.shape[1:3], strict=True)]
        return jnp.pad(seen, ((0, 0), (0, free[0]), (0, free[1]), (0, 0)))

    def singular_values(self, v: Array) -> Array:
        """Returns the products of both sides' singular values, `(1, H, W, 1)`."""
        rows, columns = self._sides(1, v)
        return (rows[:, None] * columns[None])[None, :, :, None]

    def _sides(self, place: int, like: Array) -> tuple[Array, Array]:
        rows, columns = (factors[place].astype(like.dtype) for factors in self.factors)
        return rows, columns


def bicubic(factor: int, height: int, width: int) -> Separable:
    """Returns the reduction of images by JAX's antialiased bicubic resize, a = −½ and widened by the factor.

    Raises:
      InputError: for sizes that the factor does not divide.

    Examples:
      An image of one value stays as it is.

      >>> y = conditioning.operators.bicubic(2, 4, 4)(jnp.ones((1, 4, 4, 1)))
      >>> print(y.shape, f"{y.mean():.2f}")
      (1, 2, 2, 1) 1.00
    """
    if factor < 1 or height % factor or width % factor:
        raise InputError(f"bicubic: the factor divides both sizes, got {factor} of {height}×{width}")
    side = lambda n: jax.image.resize(jnp.eye(n), (n // factor, n), "cubic", antialias=True)
    return Separable(side(height), side(width))


def _product(spec: str, *operands: Array) -> Array:
    """Matrix products in full precision: an adjoint is one to rounding, on accelerators too."""
    return jnp.einsum(spec, *operands, precision="highest")


def magnitudes(x: Array, *, padding: int = 0) -> Array:
    """Returns |F x| of images (H, W, C) with `padding` zeros on each side, F unitary: what phase retrieval is given.

    The derivative is 0 where the transform is.

    Examples:
      F is unitary: the squares have the sum that the image's have, here 4 of 1.

      >>> y = jax.jit(conditioning.operators.magnitudes)(jnp.ones((1, 2, 2, 1)))
      >>> print(f"{y[0, 0, 0, 0]:.2f} {(y**2).sum():.2f}")
      2.00 4.00
    """
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    transform = jnp.fft.fft2(padded, axes=(1, 2), norm="ortho")
    return arrays.safe_sqrt(transform.real**2 + transform.imag**2)


def saturated(x: Array, *, low: float = -1.0, high: float = 1.0) -> Array:
    """Returns x within [low, high], as a sensor that saturates.

    Examples:
      >>> print(conditioning.operators.saturated(jnp.array([[-2.0, 0.5]])))
      [[-1.   0.5]]
    """
    return jnp.clip(x, low, high)


def quantized(x: Array, *, levels: int, low: float = -1.0, high: float = 1.0, sharpness: float = 0.9) -> Array:
    """Returns a smooth stair of `levels` steps on [low, high]: u − s·sin(2πu)/(2π) in units u of a step.

    Rounding itself has no derivative; s below 1 keeps this one's between 1 − s and 1 + s.

    Examples:
      Steps at −1, 0 and 1: what is near one of them is taken nearer.

      >>> print(f"{conditioning.operators.quantized(jnp.array([[0.1]]), levels=3)[0, 0]:.2f}")
      0.02
    """
    require_at_least("quantized", 2, levels=levels)
    step = (high - low) / (levels - 1)
    units = (x - low) / step
    return low + step * (units - sharpness * jnp.sin(2 * jnp.pi * units) / (2 * jnp.pi))

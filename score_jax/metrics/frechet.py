"""Fréchet distance of two Gaussians, and of the first two moments of two sets of features.

    d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)

(Dowson & Landau 1982), the squared 2-Wasserstein distance of N(μ_a, Σ_a) and N(μ_b, Σ_b), which is what the literature
calls Fréchet distance, without a root. With features of the InceptionV3 of 2015 it is the FID of Heusel et al. 2017;
with any other it is a Fréchet distance in features of that network, and no FID.

The last trace is the sum of the singular values of Σ_b^½ Σ_a^½, and is computed as that: eigenvalues of each covariance
below rounding are 0, none are taken of a product, and nothing is added to a diagonal, so that covariances without full
rank are as good as others. Everything is float64 on the host.

The estimate is biased upwards by about C/n (Chong & Forsyth 2020): compare values of equal n only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from score_jax.types import ArrayLike, InputError

_ROWS = 4096  # of which the moments are taken at once, a float64 copy


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of n rows of features, which add up: `Moments.of(x) + Moments.of(y)` is of all rows.

    Attributes:
      n: number of rows.
      mean: (F,), float64.
      scatter: `Σ (x − mean)(x − mean)ᵀ` (F, F), float64.

    Examples:
      >>> rows = np.array([[0.0], [2.0], [4.0]])
      >>> moments = metrics.Moments.of(rows[:1]) + metrics.Moments.of(rows[1:])
      >>> print(moments.n, moments.mean, moments.covariance)
      3 [2.] [[4.]]
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: ArrayLike) -> "Moments":
        """Returns the moments of features (n, F); n may be 1, as the last batch of many is.

        Raises:
          InputError: for other shapes, and for numbers that are not finite.
        """
        return cls.over([features])

    @classmethod
    def over(cls, batches: Iterable[ArrayLike]) -> "Moments":
        """Returns the moments of all rows of the batches (n_i, F), whatever their sizes, to the bit.

        One batch, 4,096 rows in float64 and the moments are held at a time.
        """
        return cls.merged(map(_of_block, _blocks(batches)))

    @classmethod
    def merged(cls, parts: "Iterable[Moments]") -> "Moments":
        """Returns the moments of the rows of all parts.

        Raises:
          InputError: for no parts, or parts of different F.
        """
        parts = iter(parts)
        first = next(parts, None)
        if first is None:
            raise InputError("expected moments of at least one set of features, got none")
        return reduce(cls.__add__, parts, first)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the rows of both (Chan, Golub & LeVeque 1983)."""
        _require_same(self.mean, other.mean)
        n, shift = self.n + other.n, other.mean - self.mean
        between = (self.n * other.n / n) * np.outer(shift, shift)
        return Moments(n, self.mean + shift * (other.n / n), self.scatter + other.scatter + between)

    @property
    def dim(self) -> int:
        """F."""
        return len(self.mean)

    @property
    def lacks_rank(self) -> bool:
        """Whether the covariance cannot have full rank, n ≤ F: the distance then says little but of small n."""
        return self.n <= self.dim

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (F, F), divided by n − 1.

        Raises:
          InputError: for a single row.
        """
        if self.n < 2:
            raise InputError(f"a covariance needs at least 2 rows of features, got {self.n}")
        return self.scatter / (self.n - 1)

    def frechet(self, other: "Moments") -> float:
        """Returns the Fréchet distance of the two sets of rows, see `frechet_distance`."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """Returns the Fréchet distance d² of two Gaussians; rounding below 0 is 0.

    Args:
      mean_a: (F,).
      cov_a: (F, F), symmetric, of any rank.
      mean_b: (F,).
      cov_b: (F, F).

    Raises:
      InputError: for shapes that do not agree, numbers that are not finite, and a matrix that is no covariance.

    Examples:
      Of N(0, 1) and N(3, 2²) it is 3² + (1 − 2)².

      >>> print(f"{metrics.frechet_distance(np.zeros(1), np.eye(1), np.array([3.0]), 4 * np.eye(1)):.2f}")
      10.00
    """
    means = [np.asarray(mean, np.float64) for mean in (mean_a, mean_b)]
    covariances = [np.asarray(covariance, np.float64) for covariance in (cov_a, cov_b)]
    _require_same(*means)
    if any(covariance.shape != means[0].shape * 2 for covariance in covariances):
        shapes = " and ".join(str(covariance.shape) for covariance in covariances)
        raise InputError(f"expected covariances {means[0].shape * 2} of means {means[0].shape}, got {shapes}")
    if not all(np.isfinite(numbers).all() for numbers in (*means, *covariances)):
        raise InputError("the moments hold NaN or infinite values: drop the features that diverged")
    a, b = (_factor(covariance) for covariance in covariances)
    shared = np.linalg.svd(b.T @ a, compute_uv=False).sum()
    squared = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared
    return max(float(squared), 0.0)


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the Fréchet distance of two sets of features (N, F) and (M, F), at least 2 rows each.

    For its standard error see `bootstrap`; where the features are not kept, `bootstrap` takes lists of the `Moments`
    of parts of them, and `Moments.merged` makes the distance of such lists.

    Examples:
      Of a shift by 3 in each of two dimensions it is 2·3².

      >>> rows = np.random.default_rng(0).normal(size=(100, 2))
      >>> print(f"{metrics.frechet(rows, rows + 3):.2f}")
      18.00
    """
    return Moments.of(a).frechet(Moments.of(b))


def frechet_of_parts(a: Sequence[Moments], b: Sequence[Moments]) -> float:
    """Returns the Fréchet distance of rows that are known by the moments of parts: a statistic for `bootstrap`.

    Examples:
      Of a shift by 3 in each of two dimensions it is 2·3², and rows may come in parts.

      >>> rows = np.random.default_rng(0).normal(size=(100, 2))
      >>> parts = [metrics.Moments.of(rows[:60]), metrics.Moments.of(rows[60:])]
      >>> print(f"{metrics.frechet_of_parts(parts, [metrics.Moments.of(rows + 3)]):.2f}")
      18.00
    """
    return Moments.merged(a).frechet(Moments.merged(b))


def _blocks(batches: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
    """Yields all rows in float64, 4,096 at a time but for the last."""
    block, n = np.empty((0, 0)), 0
    for batch in batches:
        rows = np.asarray(batch)
        if rows.ndim != 2 or rows.size == 0:
            raise InputError(f"expected features (n, F), got shape {rows.shape}")
        if n == 0:
            block = np.empty((_ROWS, rows.shape[1]))
        _require_same(block[0], rows[0])
        while len(rows):
            taken = min(_ROWS - n, len(rows))
            block[n : n + taken] = rows[:taken]
            rows, n = rows[taken:], n + taken
            if n == _ROWS:
                yield block
                n = 0
    if n:
        yield block[:n]


def _of_block(rows: np.ndarray) -> Moments:
    if not np.isfinite(rows).all():
        bad = (~np.isfinite(rows).all(1)).sum()
        raise InputError(f"{bad} of {len(rows)} rows of features hold NaN or infinite values: drop what diverged")
    mean = rows.mean(0)
    rows -= mean
    return Moments(len(rows), mean, rows.T @ rows)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Returns L (F, rank) with L Lᵀ = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    rounding = len(values) * np.finfo(np.float64).eps * abs(values).max()
    if (
        values[0] < -1e-6 * abs(values).max() - rounding
        or abs(covariance - covariance.T).max() > 1e-6 * abs(values).max()
    ):
        raise InputError(
            f"a covariance is symmetric, without negative eigenvalues: got {values[0]:.3g} beside {values[-1]:.3g}"
        )
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])


def _require_same(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"expected features of one width, got means of shapes {a.shape} and {b.shape}")

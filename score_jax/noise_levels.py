"""NCSNv2's rules for noise levels and the Langevin step, as numbers (Song & Ermon 2020, techniques 1, 2 and 4).

1. The largest level σ_1 is the largest distance between two training examples: the maximum, not the median. Where x is
   example i noised by σ, the weight r_j of example j in the score is E r_j ≤ ½ exp(−‖x_i − x_j‖²/(8σ²)): with a smaller
   σ_1 no chain crosses from one example to the farthest. A larger one only costs steps.
2. Levels are geometric, with a ratio γ = σ_{i−1}/σ_i that lets neighbours overlap. In D dimensions the distance from an
   example noised by σ is about N(√D σ, σ²/2), and the share C of level i inside three standard deviations of level i−1

       C = Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ)

   is to be about ½. So γ ≈ 1 + 3/√(2D) for large D.
4. With the step ε_i = ε (σ_i/σ_L)² and h = ε/(2σ_L²), T Langevin steps at level i take noise of variance s² around an
   example to (1 − h)^{2T} s² + (1 − (1 − h)^{2T}) b σ_i², b = 1/(1 − h/2). From s² = γ²σ_i² it should come to σ_i²:

       s_T²/σ_i² = (1 − h)^{2T} (γ² − b) + b  → 1,

   and for 0 < h ≤ 1 that exceeds 1 always: the best step makes it least. T is what one can afford. Down the ladder the
   excess accumulates (`steady_variance_ratio`), and the step that is best there is larger: 5.5e-6 in place of 0.9e-6
   for FFHQ, as released code counts it.

Everything is float64 on the host. ε is the project's step size (`annealed_langevin`); released code counts α = ε/2.
What is published differs in places: the ladders of the paper have C = 0.567, and its step sizes for LSUN church and (a
misprint) FFHQ don't follow from the rule; `tests/test_noise_levels.py` has the numbers.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.types import Array, ArrayLike, InputError, require_at_least, require_positive, require_range

_ROWS = 2048  # examples in a block at most: the distances between two blocks are 16 MB in float32
_ELEMENTS = 2**24  # numbers in a block at most: 64 MB in float32
# Below this many dimensions the distance from an example is far from normal: see `overlap`.
_FEW_DIMS = 32


@jax.jit
def _largest_squared(a: Array, b: Array) -> Array:
    """Largest squared distance between a row of a and a row of b, by one matrix product."""
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)  # the default is TF32 or bfloat16 on accelerators
    return jnp.max((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * product)


def max_pairwise_distance(x: ArrayLike, *, subset: int | None = None, seed: int = 0) -> float:
    """Returns max_{i,j} ‖x_i − x_j‖₂, exactly, in blocks of bounded memory: technique 1's σ_1.

    Distances come from ‖a‖² + ‖b‖² − 2a·b in float32 on the default device, and are made exact afterwards. Around the
    data's mean, with R the largest norm, the maximum is at least R and the rounding of any squared distance at most
    e = (4D + 20)·2⁻²⁴·R²: only pairs of blocks whose maximum lies within 2e of the largest can hold the farthest pair,
    and those are searched again in float64. Blocks are sorted by norm, and a pair of them whose largest norms add up to
    less than the maximum so far is left out by the triangle inequality.

    Args:
      x: `(N, *S)`, integers or floating point. The result is in the units of x: divide that of 256-level images by 255.
      subset: look at this many examples, drawn at random: a lower bound (NCSNv2 took 10,000 where N > 60,000).
      seed: of the subset.

    Raises:
      InputError: for fewer than two examples, or values that are not finite.
    """
    x = np.asarray(x)
    if x.ndim < 2 or len(x) < 2 or not x[0].size:
        raise InputError(f"max_pairwise_distance: expected (N, *S) with at least two examples, got shape {x.shape}")
    rows = np.arange(len(x))
    if subset is not None:
        require_at_least("max_pairwise_distance", 2, subset=subset)
        rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:subset])
    x = x.reshape(len(x), -1)
    dims, block = x.shape[1], min(len(rows), _ROWS, max(1, _ELEMENTS // x.shape[1]))
    parts = [rows[i : i + block] for i in range(0, len(rows), block)]
    mean = sum(x[part].sum(0, dtype=np.float64) for part in parts) / len(rows)
    if not np.isfinite(mean).all():
        raise InputError("max_pairwise_distance: x holds NaN or infinite values; drop the examples that do")
    norms = np.concatenate([np.linalg.norm(x[part] - mean, axis=1) for part in parts])
    largest = norms.max()
    if largest == 0:
        return 0.0
    order = np.argsort(-norms)
    rows, norms = rows[order], norms[order] / largest

    def load(start: int) -> np.ndarray:
        """The block from `start`, centred and scaled to norms of at most 1; the last one repeats its last row."""
        return (x[rows[np.minimum(np.arange(start, start + block), len(rows) - 1)]] - mean) / largest

    rounding = (4 * dims + 20) * 2.0**-24
    found = _block_maxima(load, norms, block, rounding)
    threshold = max(found.values()) - 2 * rounding
    return float(largest * max(_farthest(load(i), load(j)) for (i, j), value in found.items() if value >= threshold))


def _block_maxima(
    load: Callable[[int], np.ndarray], norms: np.ndarray, block: int, rounding: float
) -> dict[tuple[int, int], float]:
    """Largest squared distance in each pair of blocks that may hold the farthest pair, by the blocks' first rows."""
    found: dict[tuple[int, int], float] = {}
    best = 0.0
    starts = range(0, len(norms), block)
    for i in starts:
        a = jnp.asarray(load(i), jnp.float32)
        for j in starts[i // block :]:
            if (norms[i] + norms[j]) ** 2 < best - rounding:
                break  # and so are all that follow, whose norms are smaller
            found[i, j] = float(_largest_squared(a, jnp.asarray(load(j), jnp.float32)))
            best = max(best, found[i, j])
    return found


def _farthest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between a row of a and a row of b, in float64, from the difference of the two."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    i, j = np.unravel_index(squared.argmax(), squared.shape)
    return float(np.linalg.norm(a[i] - b[j]))


def overlap(ratio: float, dims: int) -> float:
    """Returns C(γ): the share of a level's noise within the three-sigma shell of the level γ times as large.

    As published for D ≥ 32. The normal law it assumes for r = ‖noise‖/σ reaches below 0 in few dimensions (for D ≤ 4
    no γ would give C < 0.99), so there r has its exact law χ_D and the shell that law's same quantiles:
    C = P(γ q₋ ≤ r ≤ γ q₊), P(r < q₋) = P(r > q₊) = Φ(−3).
    """
    from scipy import special  # deferred, here and below: no more of the core needs SciPy

    if dims < _FEW_DIMS:
        tail = special.ndtr(-3.0)
        low, high = special.gammaincinv(dims / 2, tail), special.gammainccinv(dims / 2, tail)
        return float(special.gammainc(dims / 2, ratio**2 * high) - special.gammainc(dims / 2, ratio**2 * low))
    shift = math.sqrt(2 * dims) * (ratio - 1)
    return float(special.ndtr(shift + 3 * ratio) - special.ndtr(shift - 3 * ratio))


def ratio(dims: int, *, c: float = 0.5) -> float:
    """Returns the γ = σ_{i−1}/σ_i of neighbouring levels at which their `overlap` is c (technique 2).

    1.0398 for CIFAR-10's 3072 dimensions. The published ladders are a little finer: theirs is c = 0.567.

    Args:
      dims: D, number of elements of an example.
      c: the overlap, between 0 and Φ(3) − Φ(−3) = 0.9973, that of a level with itself.
    """
    from scipy import optimize

    require_at_least("noise_levels.ratio", 1, dims=dims)
    whole = overlap(1.0, dims)
    if not 0 < c < whole:
        raise InputError(f"noise_levels.ratio: c is between 0 and {whole:.4f}, a level's overlap with itself, got {c}")
    above = 1.0
    while overlap(1 + above, dims) > c:
        above *= 2
    return 1 + optimize.brentq(lambda excess: overlap(1 + excess, dims) - c, 0.0, above, xtol=1e-15)


def count(sigma_max: float, sigma_min: float, dims: int, *, c: float = 0.5) -> int:
    """Returns L, the number of levels from σ_1 to σ_L whose `ratio` is nearest: 1 + ln(σ_1/σ_L)/ln γ, rounded.

    `sde.geometric_sigmas(sigma_max, sigma_min, L)` are the levels.
    """
    require_range("noise_levels.count", "sigma_min", sigma_min, "sigma_max", sigma_max)
    return max(2, 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio(dims, c=c))))


def variance_ratio(
    step_size: ArrayLike, sigma_min: float, ratio: float, n_steps: int, *, before: ArrayLike = 1.0
) -> np.ndarray:
    """Returns s_T²/σ_i², the variance around an example after T Langevin steps at level i, which should be 1.

    q γ² v + (1 − q) b with h = ε/(2σ_L²), q = (1 − h)^{2T}, b = 1/(1 − h/2), v = `before` the ratio s²/σ_{i−1}² at the
    level before. Technique 4 takes that to be 1. It is not: the excess accumulates, down a long ladder to the v that
    this function leaves as it is, `steady_variance_ratio`.

    Args:
      step_size: ε at σ_L, any shape; the steps are stable for ε < 4σ_L².
      sigma_min: σ_L.
      ratio: γ = σ_{i−1}/σ_i.
      n_steps: T.
      before: v.
    """
    kept, stationary = _kept_and_stationary(step_size, sigma_min, n_steps)
    return kept * ratio**2 * np.asarray(before) + (1 - kept) * stationary


def steady_variance_ratio(step_size: ArrayLike, sigma_min: float, ratio: float, n_steps: int) -> np.ndarray:
    """Returns the ratio s_T²/σ_i² reached far down a ladder, b (1 − q)/(1 − q γ²); infinite where q γ² ≥ 1."""
    kept, stationary = _kept_and_stationary(step_size, sigma_min, n_steps)
    settles = kept * ratio**2 < 1
    return np.where(settles, (1 - kept) * stationary / np.where(settles, 1 - kept * ratio**2, 1), np.inf)


def _kept_and_stationary(step_size: ArrayLike, sigma_min: float, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """q = (1 − h)^{2T}, the share of the variance that T steps keep, and b = 1/(1 − h/2), what they tend to."""
    h = np.asarray(step_size, np.float64) / (2 * sigma_min**2)
    return (1 - h) ** (2 * n_steps), 1 / (1 - h / 2)


def step_size(sigma_min: float, ratio: float, n_steps: int) -> float:
    """Returns the ε at σ_L whose `variance_ratio` is nearest 1, that is least (technique 4); `step_lr` = ε/2.

    Args:
      sigma_min: σ_L.
      ratio: γ of the ladder that is used, (σ_1/σ_L)^{1/(L − 1)}.
      n_steps: T, Langevin steps at a level.
    """
    from scipy import optimize

    require_positive("noise_levels.step_size", sigma_min=sigma_min)
    require_at_least("noise_levels.step_size", 1, n_steps=n_steps)
    if not ratio > 1:
        raise InputError(f"noise_levels.step_size: ratio is σ_{{i−1}}/σ_i of descending levels, above 1, got {ratio}")

    def log_excess(log_h: float) -> float:
        """log(s_T²/σ_i² − 1), a sum of positive terms: at a γ near 1 the ratio itself would round the minimum away."""
        h = math.exp(log_h)
        log_kept = 2 * n_steps * math.log1p(-h)
        return math.log(math.exp(log_kept) * (ratio - 1) * (ratio + 1) - math.expm1(log_kept) * h / (2 - h))

    grid = np.linspace(math.log(1e-12), math.log(0.999), 400)
    nearest = int(np.argmin([log_excess(v) for v in grid]))
    bounds = grid[max(nearest - 1, 0)], grid[min(nearest + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(log_excess, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return 2 * sigma_min**2 * math.exp(found.x)


class Recommendation(NamedTuple):
    """A ladder of noise levels and its Langevin step, as `recommend` gives them."""

    sigma_max: float  # σ_1
    sigma_min: float  # σ_L
    n_levels: int  # L
    ratio: float  # γ of these L levels
    overlap: float  # C at that γ
    n_steps: int  # T, Langevin steps at a level
    step_size: float  # ε at σ_L, in x + (ε/2) score + √ε z
    first_variance: float  # s²/σ² expected at the end of the first level
    last_variance: float  # and of the last


def recommend(
    sigma_max: float, dims: int, *, sigma_min: float = 0.01, n_steps: int = 5, c: float = 0.5
) -> Recommendation:
    """Returns all of it for a data set: `recommend(max_pairwise_distance(x), dims)`.

    Args:
      sigma_max: σ_1, the largest distance between two examples.
      dims: D, number of elements of an example.
      sigma_min: σ_L; 0.01 is NCSN's for images in [0, 1], noise that one doesn't see.
      n_steps: T; the paper's budgets T·L are 1,000 to 7,000 calls of the network.
      c: overlap of neighbouring levels.
    """
    n_levels = count(sigma_max, sigma_min, dims, c=c)
    used = (sigma_max / sigma_min) ** (1 / (n_levels - 1))
    epsilon = step_size(sigma_min, used, n_steps)
    # The first level starts from noise of its own variance: no level before it, a ratio of 1.
    first = last = float(variance_ratio(epsilon, sigma_min, 1.0, n_steps))
    for _ in range(n_levels - 1):
        last = float(variance_ratio(epsilon, sigma_min, used, n_steps, before=last))
    return Recommendation(
        float(sigma_max), float(sigma_min), n_levels, used, overlap(used, dims), n_steps, epsilon, first, last
    )

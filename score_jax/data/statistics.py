"""How large data are: mean, standard deviation and range, and their largest distance, of a part that is read at once.

Noise is measured against these: `sde.VE` needs a largest level of about the largest distance (Song & Ermon 2020,
technique 1), and the prior of any process has mean 0, so what counts is also how far from 0 the data lie.
"""

from typing import NamedTuple

import numpy as np

from score_jax import noise_levels
from score_jax.data.source import Source

_EXAMPLES, _NUMBERS = 10_000, 2**24  # looked at, at most: NCSNv2 took 10,000 images


class Statistics(NamedTuple):
    """Of the numbers of examples, in the units of training."""

    n: int  # examples looked at
    mean: float
    deviation: float
    low: float
    high: float

    @property
    def scale(self) -> float:
        """Root mean square: how far from 0 a number is."""
        return float(np.hypot(self.mean, self.deviation))


def examples(source: Source, value_range: tuple[float, float]) -> np.ndarray:
    """Returns at most 10,000 examples `(n, *S)`, spread evenly over all, grey levels mapped onto `value_range`."""
    size = int(np.prod(source.shape))
    n = min(len(source), _EXAMPLES, max(2, _NUMBERS // size))
    x = source.batch(np.linspace(0, len(source) - 1, n).round().astype(int))["x"]
    if not source.grey_levels:
        return x
    low, high = value_range
    return low + (high - low) * x.astype(np.float32) / np.float32(source.grey_levels - 1)


def statistics(x: np.ndarray) -> Statistics:
    """Returns the statistics of examples `(n, *S)`."""
    return Statistics(
        len(x), float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64)), float(x.min()), float(x.max())
    )


def largest_sigma(x: np.ndarray) -> float:
    """Returns a σ_max for examples `(n, *S)`, rounded up to three digits.

    The largest distance between two of them (technique 1), and no less than the distance of their mean from 0, where
    the prior is centred; 1 where both are 0.
    """
    distance = noise_levels.max_pairwise_distance(x) if len(x) > 1 else 0.0
    found = max(distance, float(np.linalg.norm(x.mean(0, dtype=np.float64)))) or 1.0
    unit = 10.0 ** (np.floor(np.log10(found)) - 2)
    return float(f"{np.ceil(found / unit - 1e-9) * unit:.3g}")

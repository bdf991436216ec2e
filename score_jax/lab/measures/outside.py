"""How many samples leave the range of the data: what a diverging sampler or an unclipped estimate does to images."""

import numpy as np

from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured
from score_jax.types import InputError

MARGIN = 0.1  # of the range from black to white


def outside_range(measured: Measured) -> Numbers:
    """Returns the share of samples with any value below −0.1 or above 1.1 of [0, 1], and the extreme values of all."""
    if not measured.run.examples.grey_levels:
        raise InputError("floating-point data have no range that samples could leave")
    x = measured.unclipped.reshape(len(measured.drawn), -1)
    left = (x.min(1) < -MARGIN) | (x.max(1) > 1 + MARGIN)
    return {"outside_range": float(np.mean(left)), "smallest_value": float(x.min()), "largest_value": float(x.max())}

"""How near samples come to training examples, and whether they are copies of them."""

import numpy as np

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured


def neighbour_distance(measured: Measured) -> Numbers:
    """Returns the median distance of samples to the nearest training example."""
    return {"nearest_neighbour_distance": float(np.median(measured.to_train))}


def copies(measured: Measured) -> Numbers:
    """Returns the same of held-out examples, the ratio of both, and the share of samples that are copies."""
    measured.run.experiment.data.require_held_out()
    of_held_out = metrics.nearest_neighbours(measured.held_out["x"], measured.train["x"])[1][:, 0]
    found = metrics.copying(measured.to_train, of_held_out)
    return {
        "held_out_nearest_neighbour_distance": found.held_out_distance,
        "nearest_neighbour_ratio": found.ratio,
        "copies": found.copies,
    }

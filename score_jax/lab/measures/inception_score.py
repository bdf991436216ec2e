"""The inception score of samples: of Inception's classes alone."""

from score_jax.lab.experiment import Numbers
from score_jax.lab.features import PARTS
from score_jax.lab.measures.measured import Measured


def score_of_inception(measured: Measured) -> Numbers:
    """Returns the mean over ten parts of the samples, and its standard error; nothing of another network's features."""
    network = measured.feature_network
    if network is None or network.distance_name != "FID":
        return {}
    scores = measured.features.scores
    told = {"value": float(scores.mean()), "standard_error": float(scores.std() / (PARTS - 1) ** 0.5)}
    return {"inception_score": told | {"n": measured.features.moments.n, "splits": PARTS, **network.conditions}}

"""The kernel distance (MMD², cubic) of samples to the training set, by features: KID where these are Inception's."""

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured, keys


def kernel_distance(measured: Measured) -> Numbers:
    """Returns the distance of as many samples as have features kept; nothing where no network is chosen."""
    network, how = measured.feature_network, measured.run.experiment.evaluation.features
    if network is None or how is None:
        return {}
    name = "kid" if network.distance_name == "FID" else "kernel_distance"
    a, b = measured.features.rows, measured.reference.rows
    n = min(len(a), len(b))
    size = min(how.subset_size, n // 2)
    value, error = metrics.kid(keys(measured.seed, 6)[5], a[:n], b[:n], subset_size=size, n_subsets=how.subsets)
    told = {"value": float(value), "standard_error": float(error), "n": n, "subset_size": size}
    return {name: told | dict(measured.reference.conditions)}

"""The Fréchet distance of samples to the training set, by features: FID where these are Inception's, else no FID."""

from typing import Any

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.features import FeatureSet, Reference
from score_jax.lab.measures.measured import Measured, keys
from score_jax.types import Key

_ENOUGH = 10_000  # images, below which the distance says more of their number than of anything
_SMALL = 512  # features up to which a distance takes no time


def frechet_of_samples(measured: Measured) -> Numbers:
    """Returns the distance of samples; nothing where no feature network is chosen."""
    return _distance(measured, "", lambda: measured.features)


def frechet_of_data(measured: Measured) -> Numbers:
    """Returns the distance of as many held-out images: what the data themselves have."""
    return _distance(measured, "data_", lambda: measured.held_out_features)


def _distance(measured: Measured, prefix: str, features: Any) -> Numbers:
    network = measured.feature_network
    if network is None:
        return {}
    name = "fid" if network.distance_name == "FID" else "frechet_distance"
    found, to = features(), measured.reference
    told = {"value": found.moments.frechet(to.moments), "standard_error": _error(keys(measured.seed, 5)[4], found, to)}
    return {f"{prefix}{name}": told | {"n": found.moments.n, **to.conditions, **_warnings(found, to)}}


def _error(key: Key, found: FeatureSet, to: Reference) -> float:
    """The standard error over new samples; the data stay the same."""
    resamples = 50 if to.moments.dim <= _SMALL else 10
    distance = lambda parts: metrics.Moments.merged(parts).frechet(to.moments)
    return float(metrics.bootstrap(key, distance, found.parts, n_resamples=resamples))


def _warnings(found: FeatureSet, to: Reference) -> dict[str, str]:
    dim, there = found.moments.dim, to.moments
    said = [f"n < {_ENOUGH:,}"] if found.moments.n < _ENOUGH else []
    said += [f"n <= {dim} features, so that the covariance lacks rank"] if found.moments.lacks_rank else []
    said += [f"{there.n} training images <= {dim} features, likewise"] if there.lacks_rank else []
    return {"biased": "; ".join(said)} if said else {}

"""The network by whose features images are compared: read, or trained on the data, when it is first asked for."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from score_jax import interop, metrics
from score_jax.interop import feature_networks
from score_jax.lab import features, own
from score_jax.lab.build import names
from score_jax.lab.build.kinds import OWN
from score_jax.lab.experiment import Data, FeatureComparison
from score_jax.metrics import Features
from score_jax.types import InputError

_Network = Callable[[Data], Features]


def comparison(config: ConfigDict) -> FeatureComparison | None:
    """Returns how images are compared by features; None where no network is chosen."""
    options = config.evaluation.features
    if options.name == "none":
        return None
    cache = Path(options.cache or Path.home() / ".cache" / "score_jax" / "features").expanduser()
    return FeatureComparison(
        _network(options, cache), options.kept, options.subset_size, options.subsets, options.k, cache
    )


def _network(options: ConfigDict, cache: Path) -> _Network:
    if own.is_own(options.name):
        made = own.made("evaluation.features.name", options.name, OWN["features"], names.options(options))
        return lambda data: made
    table = {"grey": _grey, "efficientnet_lite0": _efficientnet, "inception": _inception}
    return names.choose("evaluation.features.name", options.name, table)(options.weights, cache)


def _grey(weights: str, cache: Path) -> _Network:
    _require_no_file("grey", weights)
    return lambda data: features.grey_network(data.labelled, cache=cache).features


def _efficientnet(weights: str, cache: Path) -> _Network:
    del cache
    path = weights or feature_networks.efficientnet_lite0_path()
    return _read(path, lambda: metrics.features.efficientnet(interop.load_efficientnet_lite0(path)[1]))


def _inception(weights: str, cache: Path) -> _Network:
    del cache
    if not weights:
        raise InputError(
            "evaluation.features.name=inception needs its weights, which are not fetched: give "
            "--config.evaluation.features.weights=pt_inception-2015-12-05-6726825d.pth, pytorch-fid's file"
        )
    return _read(weights, lambda: metrics.features.inception(interop.load_inception(weights)[1]))


def _read(path: str | os.PathLike[str], load: Callable[[], Features]) -> _Network:
    if not Path(path).is_file():
        raise InputError(f"evaluation.features.weights: there is no file {path}")
    return partial(_of_any_data, load)


def _of_any_data(load: Callable[[], Features], data: Data) -> Features:
    del data
    return load()


def _require_no_file(name: str, weights: str) -> None:
    if weights:
        raise InputError(
            f"evaluation.features.name={name} is trained on the data: leave evaluation.features.weights ''"
        )

"""Weights that are not part of the package: networks of features, and what fetches published checkpoints."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from score_jax.interop import feature_networks
from score_jax.lab.doctoring.finding import NOTE, OK, Finding
from score_jax.types import InputError


def check_weights(
    efficientnet: Callable[[], Path] = feature_networks.efficientnet_lite0_path,
    has: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
) -> Iterator[Finding]:
    """Looks for weights where `evaluation.features` does; what is missing is a note.

    Args:
      efficientnet: where EfficientNet-Lite0's are.
      has: whether a package is installed.
    """
    try:
        yield Finding(OK, "weights", f"efficientnet_lite0: {efficientnet()}")
    except InputError as error:
        yield Finding(NOTE, "weights", f"efficientnet_lite0: {error}")
    yield Finding(NOTE, "weights", "inception: read from the file in evaluation.features.weights, never fetched")
    if has("huggingface_hub"):
        yield Finding(OK, "weights", "checkpoints of the hub can be fetched: huggingface_hub is installed")
    else:
        yield Finding(NOTE, "weights", "no checkpoints of the hub without huggingface_hub: pip install huggingface_hub")

"""What is measured of a trained model: a list of measures, each of which costs no other.

    measure(measured) -> numbers under plain names

A measure that the model, its samples or the data don't allow raises an InputError, whose line is recorded as the reason
why it was left out: too few examples, nothing held out, samples that diverged. A defect of the package still raises.
Numbers that are not finite, which JSON has not, are left out too. Adding one is a file here and a row in `MEASURES`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import numpy as np

from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.bound import bound
from score_jax.lab.measures.classes import class_shares, conditional_accuracy
from score_jax.lab.measures.distances import distances
from score_jax.lab.measures.feature_tests import feature_tests
from score_jax.lab.measures.frechet import frechet_of_data, frechet_of_samples
from score_jax.lab.measures.held_out_loss import held_out_loss
from score_jax.lab.measures.inception_score import score_of_inception
from score_jax.lab.measures.kernel_distance import kernel_distance
from score_jax.lab.measures.likelihood import held_out_likelihood
from score_jax.lab.measures.measured import Measured
from score_jax.lab.measures.mode_weights import sample_mode_weights
from score_jax.lab.measures.neighbours import copies, neighbour_distance
from score_jax.lab.measures.noised_accuracy import noised_accuracy
from score_jax.lab.measures.outside import outside_range
from score_jax.lab.measures.precision_recall import precision_recall
from score_jax.lab.measures.score_error import score_error_by_sigma
from score_jax.types import InputError

Measure: TypeAlias = Callable[[Measured], Numbers]

MEASURES: dict[str, Measure] = {
    "held_out_loss": held_out_loss,
    "noised_accuracy": noised_accuracy,
    "score_error": score_error_by_sigma,
    "distances": distances,
    "mode_weights": sample_mode_weights,
    "nearest_neighbours": neighbour_distance,
    "copies": copies,
    "outside_range": outside_range,
    "class_shares": class_shares,
    "conditional_accuracy": conditional_accuracy,
    "frechet": frechet_of_samples,
    "frechet_of_data": frechet_of_data,
    "kernel_distance": kernel_distance,
    "precision_recall": precision_recall,
    "inception_score": score_of_inception,
    "feature_tests": feature_tests,
    "likelihood": held_out_likelihood,
    "bound": bound,
}


def measure(measured: Measured, measures: Mapping[str, Measure], *, taken: Collection[str] = ()) -> Numbers:
    """Returns the numbers of all measures and, under "left_out", why there are none of some, by name.

    Args:
      measured: the model, samples and data.
      measures: by name.
      taken: names that no number may have: those of the evaluation's conditions.
    """
    numbers: Numbers = {}
    left_out: dict[str, str] = {}
    for name, one in measures.items():
        try:
            found = _plain(one(measured), {*numbers, *taken, "left_out"})
        except InputError as error:
            left_out[name] = str(error)
            continue
        for key, value in found.items():
            kept, reason = _finite(value)
            numbers |= {} if kept is None and reason else {key: kept}
            left_out |= {key: reason} if reason else {}
    return {**numbers, "left_out": left_out}


def _plain(found: Any, taken: Collection[str]) -> Numbers:
    """A measure's numbers as Python's: numbers, text, lists and mappings of them."""
    if not isinstance(found, Mapping):
        raise InputError(f"returned {type(found).__name__}: expected numbers by name, {{'name': number}}")
    twice = sorted(set(found) & set(taken))
    if twice:
        raise InputError(f"its number {twice[0]!r} has the name of another: call it otherwise")
    return {str(key): _as_python(key, value) for key, value in found.items()}


def _as_python(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _as_python(f"{key}.{k}", v) for k, v in value.items()}
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return [_as_python(key, v) for v in value]
    found = np.asarray(value)
    if found.dtype.kind not in "biuf":
        raise InputError(f"its {key!r} is {value!r}"[:200] + ": expected a number, text, or a list or mapping of them")
    return found.tolist()


def _finite(value: Any) -> tuple[Any, str]:
    """What is finite of a number, list or mapping, None for nothing; and which are not."""
    if isinstance(value, Mapping) and isinstance(value.get("value"), float) and not np.isfinite(value["value"]):
        return None, f"not finite: {value['value']}"
    if isinstance(value, Mapping):
        strange = [key for key, v in value.items() if isinstance(v, float) and not np.isfinite(v)]
        kept = {key: v for key, v in value.items() if key not in strange}
        return kept or None, f"not finite at {', '.join(strange)}" if strange else ""
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(v, float) and not np.isfinite(v) for v in numbers):
        return None, f"not finite: {value}"
    return value, ""

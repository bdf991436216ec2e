"""What is known of the numbers of an evaluation: which way is better, of how many, and what makes two comparable.

    facts(name) -> Number

The order of `NUMBERS` is that of the columns of tables. A number that is not listed is shown and never called best.
"""

from typing import NamedTuple


class Number(NamedTuple):
    """One number, or one by noise level.

    Attributes:
      better: "lower" or "higher"; empty: neither, or not known.
      n: the number of the evaluation that says of how many it is; empty: of no number that can differ.
      same: sections of the settings in which runs that are compared by it must agree.
    """

    better: str = ""
    n: str = "n"
    same: tuple[str, ...] = ()


_OF_DISTANCES = Number("lower", "distances_n")
_OF_OBJECTIVE = ("objective", "weighting", "sde", "parameterization")  # what makes the same loss

NUMBERS: dict[str, Number] = {
    "relative_score_error_by_sigma": Number("lower", n=""),
    "sliced_wasserstein2": _OF_DISTANCES,
    "energy_distance": _OF_DISTANCES,
    "mmd2": _OF_DISTANCES,
    "train_sliced_wasserstein2": _OF_DISTANCES,
    "train_energy_distance": _OF_DISTANCES,
    "train_mmd2": _OF_DISTANCES,
    "mode_coverage": Number("higher"),
    "fid": Number("lower"),
    "frechet_distance": Number("lower"),
    "kid": Number("lower"),
    "kernel_distance": Number("lower"),
    "precision": Number("higher"),
    "recall": Number("higher"),
    "density": Number("higher"),
    "coverage": Number("higher"),
    "inception_score": Number("higher"),
    "feature_c2st": Number("lower"),
    "feature_sliced_wasserstein2": Number("lower"),
    "bits_per_dim": Number("lower"),
    "bound_bits_per_dim": Number("lower"),
    "log_likelihood": Number("higher"),
    "class_total_variation": Number("lower"),
    "confidence": Number(),
    "conditional_accuracy": Number("higher", "conditional_n"),
    "copies": Number("lower"),
    "outside_range": Number("lower"),
    "not_finite": Number("lower"),
    "conditional_accuracy_by_class": Number("higher", "conditional_n"),
    "accuracy_by_sigma": Number("higher", "noised_accuracy_n"),
    "cross_entropy_by_sigma": Number("lower", "noised_accuracy_n"),
    "loss_by_sigma": Number("lower", n="", same=_OF_OBJECTIVE),
    "nearest_neighbour_distance": Number(),
    "nearest_neighbour_ratio": Number(),
    "nfe": Number(n=""),
}


def facts(name: str) -> Number:
    """Returns what is known of a number."""
    return NUMBERS.get(name, Number())

"""What a claim is: a sentence, an equation, and numbers that bear it out.

A check measures through the package's public functions and compares with a value found in another way: a closed
form, or quadrature in numpy. Where the literature often gets a statement wrong, the wrong form is measured too, and
the claim holds only if that form misses the right value by more than a margin.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from score_jax.types import InputError, Key

EXACT = "exact"


class Measurement(NamedTuple):
    """One number of a claim: `relation` says how `measured` must compare with `expected`.

    "equal": within `tolerance`; "wrong": farther than `tolerance` (a form that is shown to fail); "at most", "at
    least": as they say, without tolerance.
    """

    what: str
    measured: float
    expected: float
    tolerance: float
    relation: str
    source: str

    @property
    def holds(self) -> bool:
        """Whether the number is as it should be; NaN never is."""
        distance = abs(self.measured - self.expected)
        return bool(
            {
                "equal": distance <= self.tolerance,
                "wrong": distance > self.tolerance,
                "at most": self.measured <= self.expected,
                "at least": self.measured >= self.expected,
            }[self.relation]
        )

    @property
    def target(self) -> str:
        """What was expected, in words."""
        return {
            "equal": f"{self.expected:.6g} ± {self.tolerance:.2g}",
            "wrong": f"not {self.expected:.6g} ± {self.tolerance:.2g}",
            "at most": f"≤ {self.expected:.6g}",
            "at least": f"≥ {self.expected:.6g}",
        }[self.relation]


class Claim(NamedTuple):
    """A statement with the numbers measured for it."""

    id: str
    statement: str
    equation: str
    measurements: list[Measurement]

    @property
    def verdict(self) -> str:
        """ "holds" when every measurement does, "fails" otherwise."""
        return "holds" if all(m.holds for m in self.measurements) else "fails"


def equal(what: str, measured, expected, tolerance: float, source: str = EXACT) -> Measurement:
    """A number that must equal `expected` within `tolerance`."""
    return Measurement(what, float(measured), float(expected), float(tolerance), "equal", source)


def wrong(what: str, measured, right, margin: float, source: str = EXACT) -> Measurement:
    """What a common wrong form gives; it must miss the `right` value by more than `margin`."""
    return Measurement(f"wrong form: {what}", float(measured), float(right), float(margin), "wrong", source)


def at_most(what: str, measured, bound: float, source: str = EXACT) -> Measurement:
    """A number that must not exceed `bound`."""
    return Measurement(what, float(measured), float(bound), 0.0, "at most", source)


def at_least(what: str, measured, bound: float, source: str = EXACT) -> Measurement:
    """A number that must not fall below `bound`."""
    return Measurement(what, float(measured), float(bound), 0.0, "at least", source)


def average(what: str, values, expected, source: str = "") -> Measurement:
    """The mean of independent random `values`, which must equal `expected` within 4 standard errors."""
    values = np.ravel(np.asarray(values, np.float64))
    error = values.std(ddof=1) / np.sqrt(values.size)
    return equal(what, values.mean(), expected, 4 * error, source or draws(values.size))


def draws(n: int) -> str:
    """Names the source of a number measured on n random draws."""
    return f"{n:,} draws"


def compute(fn: Callable, *args, effort: int = 0):
    """Compiles `fn`, runs it once and returns its results as numpy arrays.

    Args:
      fn: returns arrays.
      *args: of `fn`.
      effort: XLA's level of optimization. Each program runs once, so that compiling it fast is worth more than running
        it fast, but for those that draw millions of numbers: 1.
    """
    return jax.device_get(jax.jit(fn, compiler_options={"xla_backend_optimization_level": effort})(*args))


class Check(NamedTuple):
    """A claim that can be measured: `check(seed)` is the `Claim` with its numbers."""

    id: str
    statement: str
    equation: str
    measure: Callable[[Key], list[Measurement]]

    def __call__(self, seed: int = 0) -> Claim:
        with jax.enable_x64(True):
            measurements = self.measure(jax.random.key(seed))
        return Claim(self.id, self.statement, self.equation, measurements)


CLAIMS: dict[str, Check] = {}


def claim(id: str) -> Callable[[Callable[[Key], list[Measurement]]], Check]:
    """Registers a function `key -> [Measurement]` under `id` and makes it a `Check`.

    The first paragraph of its docstring is the statement, the rest the equation. It runs in double precision, so that
    what is measured is the statement and not rounding.
    """

    def register(measure: Callable[[Key], list[Measurement]]) -> Check:
        statement, _, equation = inspect.cleandoc(measure.__doc__ or "").partition("\n\n")
        CLAIMS[id] = Check(id, " ".join(statement.split()), equation, measure)
        return CLAIMS[id]

    return register


def select(ids: list[str]) -> list[Check]:
    """Returns the claims named, or all of them for an empty list, by id.

    Raises:
      InputError: for an id that does not exist.
    """
    unknown = [id for id in ids if id not in CLAIMS]
    if unknown:
        raise InputError(f"no claim is called {', '.join(unknown)}; there are {', '.join(sorted(CLAIMS))}")
    return [CLAIMS[id] for id in sorted(CLAIMS) if not ids or id in ids]

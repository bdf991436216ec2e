"""Numbers of the settings: each has a range, and what is at and beyond its ends."""

import math

import pytest

from score_jax.lab.build import ranges
from score_jax.lab.settings import get_config
from score_jax.types import InputError


def numbers(config, prefix=""):
    """Dotted names of the settings that are numbers, or tuples."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield f"{prefix}{name}"


def test_every_number_has_a_range_or_is_checked_where_it_is_used():
    ranged = {f"{section}.{name}".lstrip(".") for section, names in ranges.RANGES.items() for name in names}
    elsewhere = {"data.value_range", "sampler.guidance.interval", "data.crop", "data.size", "sampler.quantile"}
    elsewhere |= {"evaluation.measures", "training.loggers", "mesh.rules"}  # names
    found = {n for n in numbers(get_config()) if not n.startswith("sde.") and not n.endswith(".order")}
    assert found - elsewhere <= ranged
    assert ranged - found == {"sde.tabulated.n_steps"}  # no row of a setting that is gone


def test_numbers_at_and_beyond_the_ends_of_every_range():
    for section, intervals in ranges.RANGES.items():
        for name, interval in intervals.items():
            low, high = ranges._ends(interval)
            dotted = f"{section}.{name}".lstrip(".")
            inside, outside = [], [math.nan, "a", True]
            for end, closed, out in ((low, interval[0] == "[", -1), (high, interval[-1] == "]", 1)):
                if math.isfinite(end):
                    (inside if closed else outside).append(end)
                    outside.append(end + out * max(1, abs(end)))
                else:
                    outside.append(end)
            for value in inside:
                ranges.check_numbers(nested(dotted, int(value) if value == int(value) else value))
            for value in outside:
                with pytest.raises(InputError, match=rf"^{dotted.replace('.', '[.]')} is a number"):
                    ranges.check_numbers(nested(dotted, value))


def nested(dotted, value):
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value

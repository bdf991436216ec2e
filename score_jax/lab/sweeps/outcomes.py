"""What became of the cells of a sweep, read from its folder: data alone, nothing of it is imported or run."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from score_jax.lab import records
from score_jax.lab.measures.numbers import facts
from score_jax.lab.sweeps import folder
from score_jax.lab.sweeps.axes import Cell, keys_of, setting_of
from score_jax.lab.sweeps.plan import record_name

DONE, FAILED, LEFT_OUT, NOT_RUN = "done", "failed", "left out", "not run yet"

# What an evaluation says of itself beside numbers
CONDITIONS = (
    *("seed", "step", "ema", "sampler", "sampler_steps", "nfe", "matmul_precision"),
    *("n", "sampler_settings", "evaluation_settings", "value_range", "data_settings", "revision", "left_out"),
)
SHOWN = CONDITIONS[:7]  # those that have a column of their own
_COMPANIONS = ("_n", "_standard_error", "_convention", "_settings")  # of the number whose name goes before


class Outcome(NamedTuple):
    """A cell, and what came of it.

    Attributes:
      values: of the sweep's axes, the base's where the cell has none of its own.
      state: one of `DONE`, `FAILED`, `LEFT_OUT`, `NOT_RUN`.
      reason: why there are no numbers.
      run: name of its run folder.
      place: of its evaluation.
      numbers: of its evaluation.json.
      trained_by: the settings of its run's config.json.
      record: what was written of the cell beside.
    """

    values: Cell
    state: str
    reason: str
    run: str
    place: Path
    numbers: Mapping[str, Any]
    trained_by: Mapping[str, Any]
    record: Mapping[str, Any]


class Outcomes(NamedTuple):
    """A sweep as its folder tells it: the base, the settings that differ between cells and those that don't, cells."""

    base: Mapping[str, Any]
    axes: list[str]
    constant: Cell
    outcomes: list[Outcome]


class Reading(NamedTuple):
    """A number of one evaluation: at a noise level or place of a list, or on its own; its error; what it is of."""

    name: str
    level: str
    value: float
    error: float | None
    n: int | None
    convention: str


def read_outcomes(out: Path) -> Outcomes:
    """Returns what became of the cells of the sweep in a folder."""
    described = folder.read_sweep(out)
    keys = keys_of(described.cells)
    values = [{key: cell.get(key, setting_of(described.base, key)) for key in keys} for cell in described.cells]
    axes = [key for key in keys if len({json.dumps(one[key], sort_keys=True) for one in values}) > 1]
    constant = {key: values[0][key] for key in keys if key not in axes}
    chosen = [{key: one[key] for key in axes} for one in values]
    found = [_outcome(out, cell, one) for cell, one in zip(described.cells, chosen, strict=True)]
    return Outcomes(described.base, axes, constant, found)


def _outcome(out: Path, cell: Cell, values: Cell) -> Outcome:
    record = folder.read_record(out, record_name(cell))
    state, reason = record.get("state"), " ".join(str(record.get("reason", "")).split())
    run, place = str(record.get("run", "")), str(record.get("evaluation", ""))
    if state == DONE and re.fullmatch(r"[^/\\.][^/\\]*", run) and re.fullmatch(r"evaluations/[^/\\.][^/\\]*", place):
        workdir = folder.run_folder(out, run)
        numbers = folder.read_object(workdir / place / "evaluation.json")
        trained_by = folder.read_object(workdir / "config.json")
        if numbers:
            return Outcome(values, DONE, "", run, workdir / place, numbers, trained_by, record)
    if state in (FAILED, LEFT_OUT):
        return Outcome(values, state, reason, run, out, {}, {}, record)
    return Outcome(values, NOT_RUN, "", run, out, {}, {}, record)


def readings(numbers: Mapping[str, Any]) -> Iterator[Reading]:
    """Yields the numbers of an evaluation: scalars, those by noise level, and the entries of lists."""
    for name, value in numbers.items():
        if name in CONDITIONS and name != "nfe":
            continue
        if any(name.endswith(end) and name.removesuffix(end) in numbers for end in _COMPANIONS) or name.endswith("_n"):
            continue
        if isinstance(value, Mapping) and "value" in value:
            value = value["value"]
        levels = (
            value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {"": value}
        )
        for level, one in levels.items():
            if is_number(one):
                told = (standard_error(numbers, name), n_of(numbers, name), convention_of(numbers, name))
                yield Reading(name, str(level), float(one), *told)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number that a float can be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _companion(numbers: Mapping[str, Any], name: str, what: str) -> Any:
    own = numbers.get(name)
    return own[what] if isinstance(own, Mapping) and what in own else numbers.get(f"{name}_{what}")


def standard_error(numbers: Mapping[str, Any], name: str) -> float | None:
    """Returns the standard error that an evaluation gives a number, if it does."""
    found = _companion(numbers, name, "standard_error")
    return float(found) if is_number(found) else None


def n_of(numbers: Mapping[str, Any], name: str) -> int | None:
    """Returns of how many a number is, if that is known."""
    own = _companion(numbers, name, "n")
    found = own if own is not None else numbers.get(facts(name).n) if facts(name).n else None
    return int(found) if found is not None and is_number(found) else None


def convention_of(numbers: Mapping[str, Any], name: str) -> str:
    """Returns what a number is to mean, where the evaluation says so: its convention and conditions of its own."""
    own = numbers.get(name)
    if isinstance(own, Mapping) and "value" in own:
        rest = {key: value for key, value in own.items() if key not in ("value", "standard_error", "n")}
        return ", ".join(f"{key}={value}" for key, value in rest.items())
    return str(numbers.get(f"{name}_convention", ""))


def scalar(numbers: Mapping[str, Any], name: str) -> float | None:
    """Returns a number as a table has it, of one by noise level the mean over the levels; None where there is none."""
    value = numbers.get(name)
    if isinstance(value, Mapping):
        found = [v for v in (value.values() if "value" not in value else [value["value"]]) if is_number(v)]
        return sum(map(float, found)) / len(found) if found else None
    return float(value) if value is not None and is_number(value) else None


def by_level(numbers: Mapping[str, Any], name: str) -> dict[float, float]:
    """Returns a number by noise level, ascending; nothing of one that is not."""
    value = numbers.get(name)
    if not isinstance(value, Mapping) or "value" in value:
        return {}
    found = {}
    for level, one in value.items():
        if re.fullmatch(r"\d+(\.\d*)?(e[+-]?\d+)?", str(level)) and is_number(one):
            found[float(level)] = float(one)
    return dict(sorted(found.items()))


def chosen(trained_by: Mapping[str, Any], section: str) -> str:
    """Returns what a section of settings chooses and with which options, of which others have no effect."""
    options = trained_by.get(section)
    if not isinstance(options, Mapping) or "name" not in options:
        return records.digest(options)
    name = options["name"]
    return f"{name} {json.dumps(options.get(name, options.get('options')), sort_keys=True)}"


def data_of(outcome: Outcome) -> str:
    """Returns what a cell's numbers were measured against: the data's settings."""
    return records.digest(outcome.trained_by.get("data"))

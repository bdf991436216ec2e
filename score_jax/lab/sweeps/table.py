"""The table of a sweep: a row for each choice of settings but the seed, a column for each number.

An entry is the mean over seeds ± its standard error s/√k; of a single seed the error is the one that the number itself
came with, if it did. The best of a column is marked where its distance from every other entry is more than twice the
standard error of that distance, 2·√(e₁² + e₂²). Numbers that cannot be compared (of another n, convention, range of
noise levels, precision) don't share a column: the column is left out, and the reason given. Data sets are compared
within themselves.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

from score_jax.lab.measures.numbers import NUMBERS, facts
from score_jax.lab.sweeps.axes import Cell
from score_jax.lab.sweeps.outcomes import (
    DONE,
    Outcome,
    Outcomes,
    by_level,
    chosen,
    convention_of,
    data_of,
    n_of,
    readings,
    scalar,
    standard_error,
)
from score_jax.types import InputError

_COLUMNS = 6  # by default
_DERIVED = r" \(σ/α = [^)]*\)"  # of a convention: a noise level that may follow from the data
_APART = 0.25  # of two ranges of noise levels, in log₂, from which on means over them are not of the same
SEED = "seed"


class Average(NamedTuple):
    """A mean, its standard error where there is one, of how many seeds; how many lack it; whether it is the best."""

    mean: float
    error: float | None
    seeds: int
    lost: int = 0
    best: bool = False


class Column(NamedTuple):
    """A number: its name, which way is better, and what all entries share."""

    name: str
    better: str
    told: str


class Row(NamedTuple):
    """A choice of settings: its cells, one a seed, and an entry for each column, None where there is none."""

    values: Cell
    outcomes: list[Outcome]
    entries: list[Average | None]


class Table(NamedTuple):
    """Columns and rows, and why other columns are not there."""

    axes: list[str]
    columns: list[Column]
    rows: list[Row]
    refused: dict[str, str]


def table(read: Outcomes, columns: Sequence[str] | None = None) -> Table:
    """Returns the table of what is there.

    Args:
      read: the sweep.
      columns: names of its numbers; None takes those of most use.

    Raises:
      InputError: of a number that no cell has.
    """
    axes = [key for key in read.axes if key != SEED]
    groups: dict[str, list[Outcome]] = {}
    for outcome in read.outcomes:
        groups.setdefault(json.dumps([outcome.values[key] for key in axes]), []).append(outcome)
    done = [outcome for outcome in read.outcomes if outcome.state == DONE]
    names = _columns(done) if columns is None else _required(done, columns)
    refused = {name: reason for name in names if (reason := incomparable(read, name))}
    names = [name for name in names if name not in refused][: _COLUMNS if columns is None else None]
    several = any(len(group) > 1 for group in groups.values())
    entries = lambda group: [_entry(group, name, several=several) for name in names]
    rows = [Row({key: group[0].values[key] for key in axes}, group, entries(group)) for group in groups.values()]
    shown = [Column(name, facts(name).better, _told(done, name)) for name in names]
    return _with_best(Table(axes, shown, rows, refused))


def numbers_of(done: Sequence[Outcome]) -> list[str]:
    """Returns the names of the numbers that cells have: those that are known first, in their order."""
    there = dict.fromkeys(
        reading.name
        for outcome in done
        for reading in readings(outcome.numbers)
        if scalar(outcome.numbers, reading.name) is not None
    )
    return [name for name in NUMBERS if name in there] + [name for name in there if name not in NUMBERS]


def _columns(done: Sequence[Outcome]) -> list[str]:
    """Numbers with a better side, that vary, and of own measures all but what real data give."""
    there = numbers_of(done)
    varied = lambda name: len({scalar(outcome.numbers, name) for outcome in done}) > 1 or len(done) == 1
    known = [name for name in there if facts(name).better and varied(name)]
    others = [name for name in there if name not in NUMBERS and not name.startswith(("data_", "held_out_", "exact_"))]
    quiet = ("bits_per_dim_", "log_likelihood_", "bound_")  # parts of others
    return known + [name for name in others if not name.startswith(quiet)]


def _required(done: Sequence[Outcome], columns: Sequence[str]) -> list[str]:
    there = numbers_of(done)
    for name in columns:
        if name not in there:
            raise InputError(f"--columns: no cell has the number {name!r}: choose of {', '.join(there) or 'none yet'}")
    return list(columns)


def incomparable(read: Outcomes, name: str) -> str:
    """Returns why the values of a number in different cells cannot be compared; empty where they can.

    Those of different data sets are not compared.
    """
    done = [outcome for outcome in read.outcomes if outcome.state == DONE]
    found = (_of_one_data_set(read, outcomes, name) for outcomes in _by_data(done, name))
    return next(filter(None, found), "")


def _by_data(done: Sequence[Outcome], name: str) -> list[list[Outcome]]:
    """The cells that have a number, by data set."""
    found: dict[str, list[Outcome]] = {}
    for outcome in done:
        if scalar(outcome.numbers, name) is not None:
            found.setdefault(data_of(outcome), []).append(outcome)
    return list(found.values())


def _of_one_data_set(read: Outcomes, have: Sequence[Outcome], name: str) -> str:
    asked: dict[str, Callable[[Outcome], Any]] = {
        "n": lambda outcome: n_of(outcome.numbers, name),
        "its convention": lambda outcome: re.sub(_DERIVED, "", convention_of(outcome.numbers, name)),
        "matmul_precision": lambda outcome: outcome.numbers.get("matmul_precision"),
    }
    asked |= {f"the {section}": partial(_chosen, read, section) for section in facts(name).same}
    for what, find in asked.items():
        found = list(dict.fromkeys(str(find(outcome)) for outcome in have))
        if len(found) > 1:
            return f"{what} is {found[0]} in some cells and {found[1]} in others"
    ranges = [list(levels) for outcome in have if (levels := by_level(outcome.numbers, name))]
    if len({len(levels) for levels in ranges}) > 1:
        return "it is at different numbers of noise levels"
    for end in (0, -1):
        places = [math.log2(levels[end]) for levels in ranges if levels[end] > 0]
        if places and max(places) - min(places) > _APART:
            return (
                f"its noise levels end at {2 ** min(places):.3g} in some cells and at {2 ** max(places):.3g} in others"
            )
    return ""


def _chosen(read: Outcomes, section: str, outcome: Outcome) -> str:
    """What was asked for in a section, not what followed from the data, which follow from the seed."""
    asked: dict[str, Any] = json.loads(json.dumps(read.base))
    for key, value in (read.constant | outcome.values).items():
        *path, last = key.split(".")
        place = reduce(lambda found, part: found.setdefault(part, {}), path, asked)
        place[last] = value
    return chosen(asked, section)


def _told(done: Sequence[Outcome], name: str) -> str:
    """What the entries of a column share, for each data set where that differs."""
    return " | ".join(dict.fromkeys(_told_of(outcomes[0].numbers, name) for outcomes in _by_data(done, name)))


def _told_of(numbers: Mapping[str, Any], name: str) -> str:
    n, convention = n_of(numbers, name), convention_of(numbers, name)
    said = [f"n = {n:,}"] if n is not None else []
    said += ["mean over noise levels"] if by_level(numbers, name) else []
    return "; ".join([*said, *([convention] if convention else [])])


def _entry(group: Sequence[Outcome], name: str, *, several: bool) -> Average | None:
    """The average over a row's seeds; errors are of one kind in a table, over seeds where rows have several."""
    having = [outcome.numbers for outcome in group if scalar(outcome.numbers, name) is not None]
    values = [float(scalar(numbers, name) or 0.0) for numbers in having]
    if not values:
        return None
    own = None if several else standard_error(having[0], name)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else own
    return Average(math.fsum(values) / len(values), error, len(values), lost=_n_done(group) - len(values))


def _n_done(group: Sequence[Outcome]) -> int:
    return sum(outcome.state == DONE for outcome in group)


def _with_best(made: Table) -> Table:
    blocks: dict[str, list[int]] = {}
    for place, row in enumerate(made.rows):
        done = [outcome for outcome in row.outcomes if outcome.state == DONE]
        if done:
            blocks.setdefault(data_of(done[0]), []).append(place)
    rows = [row._replace(entries=list(row.entries)) for row in made.rows]
    for column, told in enumerate(made.columns):
        for block in blocks.values():
            entries = {place: entry for place in block if (entry := rows[place].entries[column])}
            whole = all(_is_whole(rows[place], entries.get(place)) for place in block)
            best = _best(entries, told.better) if whole else None
            if best is not None:
                rows[best].entries[column] = entries[best]._replace(best=True)
    return made._replace(rows=rows)


def _is_whole(row: Row, entry: Average | None) -> bool:
    """Whether all seeds of a row have a number: what is left of those that failed would flatter it."""
    return entry is not None and entry.seeds == len(row.outcomes)


def _best(entries: dict[int, Average], better: str) -> int | None:
    """The place of the entry that is better than every other by more than twice the error of the difference."""
    unknown = any(entry.error is None or entry.seeds < 2 for entry in entries.values())
    if not better or len(entries) < 2 or unknown:
        return None
    sign = 1 if better == "lower" else -1
    first, *others = sorted(entries, key=lambda place: sign * entries[place].mean)
    one = entries[first]
    clear = all(abs(one.mean - entries[o].mean) > 2 * math.hypot(one.error or 0, entries[o].error or 0) for o in others)
    return first if clear else None


def in_digits(entry: Average) -> str:
    """Returns "0.0312 ± 0.0011": the error to two digits, the mean to its last; of how many seeds, if not of all."""
    return _with_error(entry) + (f" ({entry.seeds} of {entry.seeds + entry.lost})" if entry.lost else "")


def _with_error(entry: Average) -> str:
    if entry.error is None:
        return f"{entry.mean:.4g}"
    if not entry.error:
        return f"{entry.mean:.4g} ± 0"
    places = 1 - math.floor(math.log10(entry.error))
    if places > 7 or abs(entry.mean) >= 1e7:
        return f"{entry.mean:.4g} ± {entry.error:.2g}"
    places = max(places, 0)
    return f"{entry.mean:.{places}f} ± {entry.error:.{places}f}"


def in_text(value: Any) -> str:
    """Returns a setting as a table shows it."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def seeds_of(row: Row) -> str:
    """Returns how many of a row's cells have numbers: "3", or "2 of 3"."""
    done = _n_done(row.outcomes)
    return str(done) if done == len(row.outcomes) else f"{done} of {len(row.outcomes)}"


def caption(made: Table, read: Outcomes) -> list[str]:
    """Returns what has to be said of a table, a sentence or two each."""
    said = []
    if read.constant:
        said.append("All cells: " + ", ".join(f"{k} = {in_text(v)}" for k, v in read.constant.items()) + ".")
    several = any(len(row.outcomes) > 1 for row in made.rows)
    if several:
        said.append("Mean ± standard error over seeds, as many as the column says.")
    elif any(entry and entry.error is not None for row in made.rows for entry in row.entries):
        said.append("One seed each: ± is the standard error over examples where the number has one.")
    else:
        said.append("One seed each, so without errors.")
    if any(column.better for column in made.columns):
        said.append(
            "↓ lower is better, ↑ higher. Bold: the best of its data set, where it differs from every other row with "
            "numbers by more than twice the standard error of the difference, √(e₁² + e₂²); none where one of these "
            "has a single seed, or a seed without the number."
        )
    alike: dict[str, list[str]] = {}
    for column in made.columns:
        alike.setdefault(column.told, []).append(column.name)
    said += [f"{', '.join(names)}: {told}." for told, names in alike.items() if told]
    revisions = sorted({str(o.numbers.get("revision")) for o in read.outcomes if o.state == DONE})
    known = [revision for revision in revisions if revision != "None"]
    if known:
        said.append(f"Code revision{'s' if len(known) > 1 else ''}: {', '.join(r[:12] + r[40:] for r in known)}.")
    said += [f"Not in the table: {name}, since {reason}." for name, reason in made.refused.items()]
    return said


def missing(read: Outcomes) -> list[tuple[str, str, str]]:
    """Returns the cells without numbers: in words, their state, and the reason."""
    lines = []
    for outcome in read.outcomes:
        if outcome.state != DONE:
            words = ", ".join(f"{key} = {in_text(value)}" for key, value in outcome.values.items()) or "the base"
            lines.append((words, outcome.state, outcome.reason))
    return lines

"""Cells of a sweep: values along an axis, every combination of axes, axes side by side."""

import builtins
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from score_jax.types import InputError

Cell: TypeAlias = dict[str, Any]

_OPENING, _CLOSING = "([{", ")]}"


def axis(key: str, values: Iterable[Any]) -> list[Cell]:
    """Returns a cell for each value of a setting, `axis("sde.name", ["ve", "vp"])`."""
    if isinstance(values, str | bytes):
        raise InputError(f"axis {key!r} takes a list of values, got the text {values!r}: write [{values!r}]")
    cells = [{key: value} for value in values]
    if not cells:
        raise InputError(f"axis {key!r} has no values")
    return cells


def product(*sweeps: Sequence[Cell]) -> list[Cell]:
    """Returns every combination of the cells of several sweeps; the last varies fastest."""
    return [_joined(cells) for cells in itertools.product(*sweeps)]


def zip(*sweeps: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of several sweeps side by side: the first of each, the second of each, …"""
    if len({len(sweep) for sweep in sweeps}) > 1:
        listed = ", ".join(f"{len(sweep)} of {'/'.join(sweep[0]) if sweep else 'nothing'}" for sweep in sweeps)
        raise InputError(f"zip takes sweeps of one length, got {listed}")
    return [_joined(cells) for cells in builtins.zip(*sweeps)]


def _joined(cells: Sequence[Cell]) -> Cell:
    joined: Cell = {}
    for cell in cells:
        twice = joined.keys() & cell.keys()
        if twice:
            raise InputError(f"{sorted(twice)[0]!r} is set twice in one cell: give each setting one axis")
        joined |= cell
    return joined


def require_cells(cells: Any) -> list[Cell]:
    """Returns what a sweep file gave, if it is a list of cells."""
    expected = 'a list of cells such as {"sde.name": "vp", "seed": 1}'
    if not isinstance(cells, Sequence) or isinstance(cells, str):
        raise InputError(f"a sweep is {expected}, got {type(cells).__name__}")
    for cell in cells:
        if not isinstance(cell, Mapping) or not all(isinstance(key, str) for key in cell):
            raise InputError(f"a sweep is {expected}, got the cell {cell!r}")
    if not cells:
        raise InputError("the sweep has no cells")
    return [dict(cell) for cell in cells]


def without_repeats(cells: Iterable[Cell], base: Mapping[str, Any]) -> list[Cell]:
    """Returns each cell once, in order of first appearance; one that sets what the base has is the one that doesn't."""
    cells = list(cells)
    keys, found = keys_of(cells), dict[str, Cell]()
    for cell in cells:
        whole = {key: cell.get(key, setting_of(base, key)) for key in keys}
        found.setdefault(json.dumps(whole, sort_keys=True), cell)
    return list(found.values())


def setting_of(base: Mapping[str, Any], key: str) -> Any:
    """Returns a setting by dotted key; None where there is none."""
    found: Any = base
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def keys_of(cells: Iterable[Cell]) -> list[str]:
    """Returns the settings that cells set, in order of first appearance."""
    return list(dict.fromkeys(key for cell in cells for key in cell))


def parts_of(text: str) -> list[str]:
    """Returns the parts of "a,b,(1, 2)" between commas that are neither in brackets nor in quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += 0 if quote else (letter in _OPENING) - (letter in _CLOSING)
        parts[-1] += letter
    return [part.strip() for part in parts]


def unquoted(text: str) -> str:
    """Returns a text without the quotes around it, if it has some."""
    found = re.fullmatch(r"(['\"])(.*)\1", text, re.DOTALL)
    return found[2] if found else text

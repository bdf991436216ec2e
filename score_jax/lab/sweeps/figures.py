"""The figures of a sweep: each number of the table as bars, against network calls, and errors by noise level."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_jax.lab.sweeps.outcomes import DONE, by_level, scalar
from score_jax.lab.sweeps.table import Row, Table, in_text

LINES = 18  # of one figure: more cannot be told apart
_OF_CALLS = ("steps", "n_steps", "respacing", "num_scales")  # settings along which network calls grow


class Line(NamedTuple):
    """A curve with errors: x, y and the standard errors of y, None where no point has one."""

    name: str
    x: list[float]
    y: list[float]
    errors: list[float] | None


def write_figures(folder: Path, made: Table) -> list[Path]:
    """Writes bars_NUMBER.png, nfe_NUMBER.png where network calls differ, and NUMBER.png of those by noise level."""
    from score_jax import plotting  # deferred: matplotlib is a sixth of a command's start

    for pattern in ("bars_*.png", "nfe_*.png", "*_by_sigma.png"):
        for old in folder.glob(pattern):
            old.unlink()  # its number may not be in the table any more
    written = []
    for place, column in enumerate(made.columns):
        name = re.sub(r"[^\w.-]+", "_", column.name)
        rows = [row for row in made.rows if row.entries[place] is not None]
        if len(rows) > 1:
            entries = [entry for row in rows if (entry := row.entries[place])]
            errors = [entry.error for entry in entries]
            figure = plotting.bars(
                [entry.mean for entry in entries],
                errors,
                labels=[row_name(row) for row in rows],
                xlabel=number_words(column.name),
            )
            written.append(plotting.save_figure(figure, folder / f"bars_{name}.png"))
        lines = against_calls(made, place)
        if lines:
            figure = plotting.lines_with_errors(
                {line.name: line[1:] for line in lines},
                xlabel="network calls a sample",
                ylabel=number_words(column.name),
            )
            written.append(plotting.save_figure(figure, folder / f"nfe_{name}.png"))
    for number in ("relative_score_error_by_sigma", "loss_by_sigma"):
        lines = against_noise(made.rows, number)
        if lines and number in {column.name for column in made.columns} | {"relative_score_error_by_sigma"}:
            named = {line.name: line[1:] for line in lines[:LINES]}
            figure = plotting.lines_with_errors(named, xlabel="noise level σ/α", ylabel=number_words(number))
            written.append(plotting.save_figure(figure, folder / f"{number}.png"))
    return written


def row_name(row: Row, but: Sequence[str] = ()) -> str:
    """Returns what sets a row apart: its values, without `but` and options of what the row did not choose."""
    shown = {key: value for key, value in row.values.items() if key not in but and _is_heeded(key, row)}
    return ", ".join(_with_key(key, value) for key, value in shown.items()) or "base"


def _is_heeded(key: str, row: Row) -> bool:
    """Whether a setting is no option of another choice, as sampler.heun.churn is where sampler.name is ddim."""
    path = key.split(".")
    if path[:2] in (["sampler", "guidance"], ["sampler", "langevin_corrector"]):
        return True  # of any sampler
    return len(path) < 3 or row.values.get(f"{path[0]}.name", path[1]) == path[1]


def _with_key(key: str, value: Any) -> str:
    """A word says what it is of; a number needs its key beside it."""
    return in_text(value) if isinstance(value, str) else f"{key.split('.')[-1]} {in_text(value)}"


def number_words(number: str) -> str:
    """Returns "relative score error" for relative_score_error_by_sigma."""
    return number.removesuffix("_by_sigma").replace("_", " ")


def against_calls(made: Table, place: int) -> list[Line]:
    """Returns a column against network calls, a line for each choice of other settings; nothing if all are the same."""
    counted = [(row, entry, _calls(row)) for row in made.rows if (entry := row.entries[place])]
    points = [(row, entry, calls) for row, entry, calls in counted if calls]
    name = made.columns[place].name
    if len({calls for _, _, calls in points}) < 2 or name == "nfe" or name.endswith("_by_sigma"):  # of no samples
        return []
    along = [key for key in made.axes if key.startswith("sampler.") and key.split(".")[-1] in _OF_CALLS]
    lines: dict[tuple[str, str], list[tuple[float, float, float | None]]] = {}
    for row, entry, calls in points:
        same = str([value for key, value in row.values.items() if key not in along])
        lines.setdefault((row_name(row, along), same), []).append((calls, entry.mean, entry.error))
    return [_line(name, found) for (name, _), found in lines.items()][:LINES]


def _calls(row: Row) -> float | None:
    found = [value for o in row.outcomes if o.state == DONE and (value := scalar(o.numbers, "nfe")) is not None]
    return float(np.mean(found)) if found else None


def _line(name: str, points: list[tuple[float, float, float | None]]) -> Line:
    points = sorted(points, key=lambda point: point[0])
    errors = None if any(error is None for _, _, error in points) else [float(error or 0) for _, _, error in points]
    return Line(name, [p[0] for p in points], [p[1] for p in points], errors)


def against_noise(rows: Sequence[Row], number: str) -> list[Line]:
    """Returns a number by noise level, a line a training: the mean over seeds, whose levels may lie a little apart."""
    lines, seen = [], set()
    for row in rows:
        runs = frozenset(outcome.run for outcome in row.outcomes if outcome.state == DONE)
        if runs in seen:
            continue  # another sampler of the same
        seen.add(runs)
        found = [levels for o in row.outcomes if o.state == DONE and (levels := by_level(o.numbers, number))]
        found = [levels for levels in found if len(levels) == len(found[0])]
        if found:
            x = np.exp(np.log(np.maximum([list(levels) for levels in found], 1e-12)).mean(0))
            y = np.array([list(levels.values()) for levels in found])
            errors = (y.std(0, ddof=1) / len(y) ** 0.5).tolist() if len(y) > 1 else None
            sampling = [key for key in row.values if key.split(".")[0] in ("sampler", "evaluation")]
            lines.append(Line(row_name(row, sampling), x.tolist(), y.mean(0).tolist(), errors))
    return lines

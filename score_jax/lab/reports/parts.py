"""Parts of both reports: differences of settings, curves of training, what a run cost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax.lab import settings
from score_jax.lab.reports import charts
from score_jax.lab.reports.page import Markup
from score_jax.lab.sweeps.figures import Line
from score_jax.lab.sweeps.outcomes import is_number
from score_jax.lab.sweeps.table import in_text
from score_jax.training.checkpoint import binding
from score_jax.training.logging import read_jsonl

_POINTS = 200  # of a curve


def defaults() -> Mapping[str, Any]:
    """Returns the default settings, by dotted key."""
    return binding(settings.get_config().to_dict())


def differences(flat: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns key, default and value of the settings, by dotted key, that are not the default."""
    known = defaults()
    shown = lambda side, key: in_text(side[key]) if key in side else "–"
    keys = sorted(known.keys() | flat.keys())
    different = [key for key in keys if json.dumps(known.get(key)) != json.dumps(flat.get(key))]
    return [(key, shown(known, key), shown(flat, key)) for key in different]


def records_of(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics; none where there is no file."""
    path = workdir / "metrics.jsonl"
    return read_jsonl(path) if path.is_file() else []


def _metric(records: Sequence[Mapping[str, Any]], number: str, name: str) -> Line:
    """Returns a number of the metrics against steps, of long trainings every so many; by noise level the mean."""
    points = []
    for record in records:
        value = record.get(number)
        if isinstance(value, Mapping):
            levels = [float(v) for v in value.values() if is_number(v)]
            value = sum(levels) / len(levels) if levels else None
        if is_number(value) and is_number(record["step"]):
            points.append((float(record["step"]), float(value)))
    points = points[:: max(1, len(points) // _POINTS)]
    return Line(name, [p[0] for p in points], [p[1] for p in points], None)


def training_charts(named: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Markup]:
    """Returns charts of loss, held-out loss, gradient norm and learning rate, a line for each run."""
    titles = {
        "loss": "loss per dimension",
        "held_out_loss_by_sigma": "held-out loss per dimension, mean over noise levels",
        "grad_norm": "norm of the gradient",
        "learning_rate": "learning rate",
    }
    made = []
    for number, title in titles.items():
        lines = [line for name, records in named.items() if (line := _metric(records, number, name)).x]
        if number != "learning_rate" or len({y for line in lines for y in line.y}) > 1:
            made.append(charts.line_chart(lines, xlabel="training steps", ylabel=title, log_x=False))
    return [chart for chart in made if chart]


def training_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the seconds that training took, pauses left out: examples over examples a second, record by record.

    Of runs that were trained together each has its share.
    """
    seconds, before = 0.0, 0.0
    for record in records:
        examples, rate = record.get("examples"), record.get("examples_per_second")
        if not is_number(examples) or not is_number(rate) or not rate:
            return None
        several = record.get("trained_together", 1)
        rate *= several if is_number(several) else 1
        seconds, before = seconds + (examples - before) / rate, examples
    return seconds if records else None

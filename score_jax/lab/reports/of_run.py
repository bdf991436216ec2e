"""report.html of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax.lab.measures.numbers import facts
from score_jax.lab.reports import charts, page, parts
from score_jax.lab.reports.page import Markup, element, section
from score_jax.lab.sweeps.figures import Line, number_words
from score_jax.lab.sweeps.folder import read_object
from score_jax.lab.sweeps.outcomes import by_level, convention_of, is_number, n_of, readings, scalar, standard_error
from score_jax.lab.sweeps.plan import in_time
from score_jax.lab.sweeps.table import Average, in_digits
from score_jax.training import checkpoint
from score_jax.training.logging import write_text

_PICTURES = {
    "grid.png": "samples",
    "classes.png": "samples of every class",
    "scatter.png": "samples beside data",
    "annealing.png": "how samples form",
    "neighbours.png": "samples and their nearest training examples",
    "trajectories.png": "ways along the probability flow",
}
_EVALUATED = ("grid.png", "scatter.png", "class_shares.png")
_DURING = 8  # pictures of a training, evenly spread


def write_run(workdir: Path) -> Path:
    """Writes report.html of the run in a folder; returns its path.

    Raises:
      InputError: where there is no run.
    """
    config = checkpoint.read_config(workdir)
    records = parts.records_of(workdir)
    found = _evaluations(workdir)
    sections = [
        _heading(workdir, records),
        section("Measures", _measures(found), *_conventions(found)),
        section("Samples", _samples(workdir, found)),
        section(
            "Score error and loss by noise level", element("div", *_by_level(found), class_="grid") if found else ""
        ),
        section("Training", element("div", *parts.training_charts({"": records}), class_="grid") if records else ""),
        section("While it trained", _during(workdir)),
        section("Cost", _cost(workdir, records, found)),
        section(
            "Settings that are not the default", page.rows(["setting", "default", "here"], _settings(config), wide=True)
        ),
        section("Environment", _environment(workdir)),
    ]
    path = workdir / "report.html"
    write_text(path, page.document(f"Run {workdir.absolute().name}", *sections))
    return path


def _settings(flat: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    return parts.differences(checkpoint.binding(flat))


def _heading(workdir: Path, records: Sequence[Mapping[str, Any]]) -> Markup:
    steps = records[-1].get("step") if records else None
    said = f"{steps:,} steps recorded." if isinstance(steps, int) else "No step recorded yet."
    return element("header", element("h1", f"Run {workdir.absolute().name}"), element("p", said, class_="soft"))


def _evaluations(workdir: Path) -> dict[str, Mapping[str, Any]]:
    """The evaluations of a run by the name of their folder."""
    there = sorted((workdir / "evaluations").glob("*/evaluation.json"))
    found = {path.parent.name: read_object(path) for path in there}
    return {name: numbers for name, numbers in found.items() if numbers}


def _names(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How evaluations are called: sampler, its steps, checkpoint and seed, and the folder where that is not enough."""
    told = {
        name: f"{n.get('sampler')} {n.get('sampler_steps')}, step {n.get('step')}, seed {n.get('seed')}"
        for name, n in found.items()
    }
    again = {text for text in told.values() if [*told.values()].count(text) > 1}
    return {name: name if text in again else text for name, text in told.items()}


def _measures(found: Mapping[str, Mapping[str, Any]]) -> Markup:
    names = _names(found)
    every = dict.fromkeys(reading.name for numbers in found.values() for reading in readings(numbers))
    shown = [name for name in every if any(scalar(numbers, name) is not None for numbers in found.values())]
    body = []
    for name in shown:
        entries = []
        for numbers in found.values():
            value = scalar(numbers, name)
            n = n_of(numbers, name)
            told = "–" if value is None else in_digits(Average(value, standard_error(numbers, name), 1))
            entries.append(f"{told} (n = {n:,})" if value is not None and n is not None else told)
        arrow = {"lower": " ↓", "higher": " ↑", "": ""}[facts(name).better]
        levels = " (mean over noise levels)" if any(by_level(numbers, name) for numbers in found.values()) else ""
        body.append([f"{number_words(name)}{levels}{arrow}", *entries])
    return page.rows(["", *(names[key] for key in found)], body, numbers=len(found))


def _conventions(found: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    said = {
        f"{reading.name}: {told}"
        for numbers in found.values()
        for reading in readings(numbers)
        if (told := convention_of(numbers, reading.name))
    }
    left_out = {
        f"{name} was left out: {' '.join(str(reason).split())}"
        for numbers in found.values()
        if isinstance(numbers.get("left_out"), dict)
        for name, reason in numbers["left_out"].items()
    }
    lines = [element("li", line) for line in [*sorted(said), *sorted(left_out)]]
    return [element("ul", *lines, class_="soft")] if lines else []


def _samples(workdir: Path, found: Mapping[str, Any]) -> Markup:
    names = _names(found)
    tiles = [
        page.picture(workdir / "samples" / file, told, smooth=file != "grid.png") for file, told in _PICTURES.items()
    ]
    for name in found:
        there = [workdir / "evaluations" / name / file for file in _EVALUATED]
        tiles += [page.picture(path, f"measured: {names[name]}", smooth=path.name != "grid.png") for path in there]
    tiles = [tile for tile in tiles if tile]
    return element("div", *tiles, class_="grid") if tiles else Markup()


def _by_level(found: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """Numbers by noise level; those of one training are the same whatever the sampler, and shown once."""
    names, made = _names(found), []
    for key in ("relative_score_error_by_sigma", "loss_by_sigma"):
        lines: dict[tuple[float, ...], Line] = {}
        for name, numbers in found.items():
            levels = by_level(numbers, key)
            if levels:
                lines.setdefault(
                    (*levels, *levels.values()), Line(names[name], list(levels), list(levels.values()), None)
                )
        made.append(
            charts.line_chart(list(lines.values()), xlabel="noise level σ/α", ylabel=number_words(key), log_x=True)
        )
    return [chart for chart in made if chart]


def _during(workdir: Path) -> Markup:
    there = sorted(path for path in (workdir / "samples" / "during").glob("*/*.png") if path.name in _PICTURES)
    there = there[:: max(1, -(-len(there) // _DURING))]
    tiles = [page.picture(p, f"step {p.parent.name.lstrip('0') or 0}", smooth=p.name != "grid.png") for p in there]
    return element("div", *tiles, class_="tiles") if tiles else Markup()


def _cost(workdir: Path, records: Sequence[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> Markup:
    seconds = parts.training_seconds(records)
    body = [["training", in_time(seconds)]] if seconds is not None else []
    parameters = checkpoint.parameters(workdir)
    body += [["parameters", f"{parameters:,}"]] if parameters else []
    rates = [record.get("examples_per_second") for record in records]
    body += [["examples a second, at the end", f"{rates[-1]:,.0f}"]] if rates and is_number(rates[-1]) else []
    names = _names(found)
    body += [
        [f"network calls a sample: {names[name]}", f"{calls:g}"]
        for name, numbers in found.items()
        if (calls := scalar(numbers, "nfe")) is not None
    ]
    return page.rows(["", ""], body, numbers=1)


def _environment(workdir: Path) -> Markup:
    there = read_object(workdir / "environment.json")
    kept = ("backend", "devices", "revision", "python", "platform", "packages")
    body = [(name, in_line(there[name])) for name in kept if there.get(name)]
    return page.rows(["", ""], body, wide=True)


def in_line(value: Any) -> str:
    """Returns a value of environment.json as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

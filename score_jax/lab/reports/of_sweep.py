"""report.html of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_jax.lab.reports import charts, page, parts
from score_jax.lab.reports.page import Markup, element, section
from score_jax.lab.sweeps import folder
from score_jax.lab.sweeps.figures import against_calls, against_noise, number_words, row_name
from score_jax.lab.sweeps.outcomes import DONE, Outcome, Outcomes, is_number, scalar
from score_jax.lab.sweeps.plan import in_time
from score_jax.lab.sweeps.table import (
    SEED,
    Row,
    Table,
    caption,
    in_digits,
    in_text,
    incomparable,
    missing,
    seeds_of,
    table,
)
from score_jax.training.checkpoint import binding
from score_jax.training.logging import write_text

_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
_PICTURES = ("grid.png", "scatter.png", "class_shares.png")
_VALUES = 12  # of a setting that differs, at most


def write_sweep(out: Path, read: Outcomes, columns: Sequence[str] | None = None) -> Path:
    """Writes report.html of the sweep in a folder; returns its path.

    Args:
      out: the folder.
      read: what became of its cells.
      columns: of the table; None takes those of most use.
    """
    made = table(read, columns)
    sections = [
        _heading(out, read),
        section("Results", _table(made), element("ul", *(element("li", line) for line in caption(made, read)))),
        _missing(read),
        section("Numbers", element("div", *shown, class_="grid") if (shown := _charts(read, made)) else ""),
        section("Samples", *_samples(made)),
        _training(out, made),
        section("Cost", _cost(out, made)),
        section("What differs between the cells", _between(out, read, made)),
        section("Settings of all cells", _base(read)),
    ]
    path = out / "report.html"
    write_text(path, page.document(f"Sweep {out.absolute().name}", *sections))
    return path


def _heading(out: Path, read: Outcomes) -> Markup:
    axes = [
        (key, ", ".join(dict.fromkeys(in_text(outcome.values[key]) for outcome in read.outcomes))) for key in read.axes
    ]
    runs = {outcome.run for outcome in read.outcomes if outcome.run}
    done = sum(outcome.state == DONE for outcome in read.outcomes)
    said = f"{len(read.outcomes)} cells, {done} of them with numbers, of {len(runs)} trainings."
    listed = page.rows(["setting", "values"], axes, wide=True)
    return element("header", element("h1", f"Sweep {out.absolute().name}"), element("p", said, class_="soft"), listed)


def _table(made: Table) -> Markup:
    head = [*made.axes, "seeds", *(f"{column.name}{_ARROWS[column.better]}" for column in made.columns)]
    body = []
    for row in made.rows:
        entries = [
            "–" if e is None else element("strong", in_digits(e)) if e.best else in_digits(e) for e in row.entries
        ]
        body.append([*(in_text(row.values[key]) for key in made.axes), seeds_of(row), *entries])
    return page.rows(head, body, numbers=len(made.columns) + 1)


def _missing(read: Outcomes) -> Markup:
    lost = [element("li", f"{words}: {state}{f': {why}' if why else ''}") for words, state, why in missing(read)]
    return section("Cells without numbers", element("ul", *lost) if lost else "")


def _charts(read: Outcomes, made: Table) -> list[Markup]:
    found = []
    for place, column in enumerate(made.columns):
        pairs = [(row, entry) for row in made.rows if (entry := row.entries[place])]
        if len(pairs) > 1:
            values, errors = [entry.mean for _, entry in pairs], [entry.error for _, entry in pairs]
            shown = [in_digits(entry) for _, entry in pairs]
            title = f"{number_words(column.name)}{_ARROWS[column.better]}"
            found.append(charts.bar_chart(title, [row_name(row) for row, _ in pairs], values, errors, shown))
        calls = against_calls(made, place)
        title = f"{number_words(column.name)} against network calls"
        found.append(charts.line_chart(calls, xlabel="network calls a sample", ylabel=title, log_x=True))
    for number in ("relative_score_error_by_sigma", "loss_by_sigma"):
        if number == "relative_score_error_by_sigma" or not incomparable(read, number):
            lines = against_noise(made.rows, number)
            title = f"{number_words(number)} by noise level"
            found.append(charts.line_chart(lines, xlabel="noise level σ/α", ylabel=title, log_x=True))
    return [chart for chart in found if chart]


def _shown_seed(made: Table) -> list[tuple[Row, Outcome]]:
    """Of every row a cell with numbers: of the first seed that most have, whose samples begin with the same noise."""
    done = {id(row): [o for o in row.outcomes if o.state == DONE] for row in made.rows}
    seeds = [o.numbers.get(SEED) for row in made.rows for o in done[id(row)]]
    most = max(dict.fromkeys(seeds), key=seeds.count) if seeds else None
    chosen = []
    for row in made.rows:
        same = [o for o in done[id(row)] if o.numbers.get(SEED) == most] or done[id(row)]
        chosen += [(row, same[0])] if same else []
    return chosen


def _samples(made: Table) -> list[Markup]:
    shown = _shown_seed(made)
    seeds = {outcome.numbers.get(SEED) for _, outcome in shown}
    said = "from the same noise" if len(seeds) == 1 else "from noise of several seeds"
    tiles = []
    for row, outcome in shown:
        told = f"{row_name(row)} (seed {outcome.numbers.get(SEED)})"
        found = [page.picture(outcome.place / name, told, smooth=name != "grid.png") for name in _PICTURES]
        tiles += [tile for tile in found if tile][:1]
    if not tiles:
        return []
    kind = "tiles" if all(o.place.joinpath("grid.png").is_file() for _, o in shown) else "grid"
    return [
        element("p", f"The samples that were measured, {said}.", class_="soft"),
        element("div", *tiles, class_=kind),
    ]


def _training(out: Path, made: Table) -> Markup:
    named = {}
    runs = set()
    for row, outcome in _shown_seed(made):
        if outcome.run not in runs:
            runs.add(outcome.run)
            sampling = [key for key in row.values if key.split(".")[0] in ("sampler", "evaluation")]
            named[row_name(row, sampling)] = parts.records_of(folder.run_folder(out, outcome.run))
    drawn = parts.training_charts(dict(list(named.items())[: charts.HUES]))
    more = f"The first {charts.HUES} of {len(named)} are shown." if len(named) > charts.HUES else ""
    seed = element("p", f"One seed of each. {more}", class_="soft")
    return section("Training", seed, element("div", *drawn, class_="grid")) if drawn else Markup()


def _cost(out: Path, made: Table) -> Markup:
    body = []
    for row in made.rows:
        done = [o for o in row.outcomes if o.state == DONE]
        if not done:
            continue
        took = [parts.training_seconds(parts.records_of(folder.run_folder(out, o.run))) for o in done]
        evaluated = [o.record.get("evaluate_seconds") for o in done]
        parameters = done[0].record.get("parameters")
        calls = [value for o in done if (value := scalar(o.numbers, "nfe")) is not None]
        body.append(
            [
                row_name(row),
                f"{parameters:,}" if isinstance(parameters, int) else "–",
                f"{max(calls):g}" if calls else "–",
                _mean_time(took),
                _mean_time(evaluated),
            ]
        )
    return page.rows(["", "parameters", "network calls a sample", "training", "evaluation"], body, numbers=4)


def _mean_time(found: Sequence[object]) -> str:
    known = [float(v) for v in found if is_number(v)]
    return in_time(sum(known) / len(known)) if known else "–"


def _between(out: Path, read: Outcomes, made: Table) -> Markup:
    """Settings of the cells, derived ones too, that are not the same in all, with whose they are."""
    flat = [
        (row_name(row), binding({**outcome.trained_by, **_sampled_by(outcome)}))
        for row in made.rows
        for outcome in row.outcomes
        if outcome.state == DONE and outcome.trained_by
    ]
    keys = sorted({key for _, one in flat for key in one})
    body = []
    for key in keys:
        values: dict[str, list[str]] = {}
        for name, one in flat:
            names = values.setdefault(in_text(one.get(key)), [])
            if name not in names:
                names.append(name)
        if len(values) > 1:
            shown = [f"{value}: {'; '.join(names)}" for value, names in values.items()]
            shown = [", ".join(values)] if key in read.axes else shown
            more = [f"and {len(shown) - _VALUES} more"] if len(shown) > _VALUES else []
            body.append((key, element("div", *(element("div", line) for line in [*shown[:_VALUES], *more]))))
    return page.rows(["setting", "values, and in which cells"], body, wide=True)


def _sampled_by(outcome: Outcome) -> dict[str, Any]:
    """The sections of settings that a cell may have of its own beside its run's, as far as they are heeded."""
    told = {"sampler": "sampler_settings", "evaluation": "evaluation_settings"}
    found = {section: outcome.numbers.get(name) for section, name in told.items()}
    return {section: settings for section, settings in found.items() if isinstance(settings, Mapping)}


def _base(read: Outcomes) -> Markup:
    flat = binding(read.base)
    flat |= {key: value for key, value in read.constant.items() if not isinstance(value, dict)}
    body = [line for line in parts.differences(flat) if line[0] not in read.axes]
    told = element("p", "All others have their default, but for those that follow from the data.", class_="soft")
    return page.joined([page.rows(["setting", "default", "here"], body, wide=True), told])

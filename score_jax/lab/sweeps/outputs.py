"""What a sweep ends with: cells.csv, table.md, table.tex and figures/, all made of what its folder holds."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from score_jax.lab.sweeps import figures
from score_jax.lab.sweeps.outcomes import DONE, FAILED, LEFT_OUT, NOT_RUN, SHOWN, Outcome, Outcomes, readings
from score_jax.lab.sweeps.table import Table, caption, in_digits, in_text, missing, seeds_of, table
from score_jax.training.logging import write_text

_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def write_outputs(out: Path, made_of: Outcomes, columns: Sequence[str] | None = None) -> list[Path]:
    """Writes all files; returns their paths.

    Args:
      out: the folder of the sweep.
      made_of: what became of its cells.
      columns: of the table; None takes those of most use.
    """
    made = table(made_of, columns)
    texts = {"cells.csv": as_csv(made_of), "table.md": as_markdown(made, made_of), "table.tex": as_tex(made, made_of)}
    for name, text in texts.items():
        write_text(out / name, text)
    return [*(out / name for name in texts), *figures.write_figures(out / "figures", made)]


def counts(made_of: Outcomes) -> list[str]:
    """Returns how many cells became what, and the lines of those that failed."""
    found = {state: [o.state for o in made_of.outcomes].count(state) for state in (DONE, FAILED, LEFT_OUT, NOT_RUN)}
    failed = [f"  {words}: {reason}" for words, state, reason in missing(made_of) if state == FAILED]
    return [f"{len(made_of.outcomes)} cells: " + ", ".join(f"{n} {state}" for state, n in found.items() if n), *failed]


def as_csv(made_of: Outcomes) -> str:
    """Returns a row for each cell and number, with what the number is of; a row for a cell without numbers."""
    header = ["cell", "run", "state", *made_of.axes, "number", "level", "value", "standard_error", "n"]
    conditions = [name for name in SHOWN if name not in made_of.axes]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*header, *conditions, "convention", "parameters", "revision", "reason"])
    for place, outcome in enumerate(made_of.outcomes):
        start = [place, outcome.run, outcome.state, *(in_text(outcome.values[key]) for key in made_of.axes)]
        told = [_plain(outcome.numbers.get(name)) for name in conditions]
        end = [_plain(value) for value in (outcome.record.get("parameters"), outcome.numbers.get("revision"))]
        for number, reason in _numbers(outcome):
            writer.writerow([*start, *number[:5], *told, number[5], *end, reason])
    return file.getvalue()


def _numbers(outcome: Outcome) -> Iterator[tuple[list[Any], str]]:
    """Yields name, level, value, error, n and convention of each number, and why there is none."""
    if outcome.state != DONE:
        yield [""] * 6, outcome.reason
        return
    for reading in readings(outcome.numbers):
        yield [_plain(value) for value in reading], ""
    left_out = outcome.numbers.get("left_out")
    for name, reason in (left_out if isinstance(left_out, dict) else {}).items():
        yield [name, *[""] * 5], " ".join(str(reason).split())


def _plain(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)


def _head(made: Table) -> list[str]:
    return [*made.axes, "seeds", *(f"{column.name}{_ARROWS[column.better]}" for column in made.columns)]


def as_markdown(made: Table, made_of: Outcomes) -> str:
    """Returns the table, what has to be said of it, and the cells without numbers."""
    rows = [_head(made), ["---"] * (len(made.axes) + 1 + len(made.columns))]
    lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in rows]
    for row in made.rows:
        entries = ["–" if e is None else f"**{in_digits(e)}**" if e.best else in_digits(e) for e in row.entries]
        start = [*(_markdown(in_text(row.values[key])) for key in made.axes), seeds_of(row)]
        lines.append("| " + " | ".join([*start, *entries]) + " |")
    said = [f"- {_markdown(line)}" for line in caption(made, made_of)]
    lost = [
        f"- {_markdown(words)}: {state}{f': {_markdown(why)}' if why else ''}" for words, state, why in missing(made_of)
    ]
    return "\n".join([*lines, "", "\n".join(said), *(["", "Cells without numbers:", "", *lost] if lost else [])]) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([|<>*`\\\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text) if text != "---" else text


_TEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "[": "{[}",  # after a line's end it would be an option of that
    "]": "{]}",
    "√": r"$\surd$",
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
    "₁": "$_1$",
    "₂": "$_2$",
    "²": "$^2$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


def as_tex(made: Table, made_of: Outcomes) -> str:
    """Returns the table for LaTeX, of the package booktabs."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{'l' * len(made.axes)}r{'r' * len(made.columns)}}}"]
    lines += [r"\toprule", " & ".join(map(_tex, _head(made))) + r" \\", r"\midrule"]
    for row in made.rows:
        texts = [_tex("–" if e is None else in_digits(e)) for e in row.entries]
        entries = [rf"\textbf{{{t}}}" if e and e.best else t for t, e in zip(texts, row.entries, strict=True)]
        start = [_tex(in_text(row.values[key])) for key in made.axes]
        lines.append(" & ".join([*start, _tex(seeds_of(row)), *entries]) + r" \\")
    said = [*caption(made, made_of)]
    said += [f"{words}: {state}{f' ({reason})' if reason else ''}." for words, state, reason in missing(made_of)]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{' '.join(map(_tex, said))}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"

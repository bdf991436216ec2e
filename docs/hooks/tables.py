"""Tables that stand in one place: `<!-- table FILE MARK … -->` becomes what FILE has between its marks `<!-- MARK -->`.

    <!-- table experiments/studies/few_steps/README.md "result" rows="2M|UniPC" columns="1,2,5" -->

FILE is a path of the repository; `rows` is a regular expression of rows to keep (all of a row's text), `columns` are
the numbers of the columns, from 1. What stands beside the table (conditions, notes) comes with it.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DIRECTIVE = re.compile(r'<!-- table (?P<file>\S+) "(?P<mark>[^"]+)"(?P<options>(?: \w+="[^"]*")*) -->')


def on_page_markdown(markdown: str, **_) -> str:
    """Returns a page with the tables that it names."""
    return _DIRECTIVE.sub(_table, markdown)


def _table(found: re.Match[str]) -> str:
    options = dict(re.findall(r'(\w+)="([^"]*)"', found["options"]))
    text = between(ROOT / found["file"], found["mark"])
    return chosen(text, rows=options.get("rows", ""), columns=options.get("columns", ""))


def between(file: Path, mark: str) -> str:
    """Returns what a file has between `<!-- mark -->` and `<!-- /mark -->`."""
    pieces = re.split(rf"<!-- /?{re.escape(mark)} -->", file.read_text())
    if len(pieces) != 3:
        raise ValueError(f"{file} has no single pair of marks {mark!r}")
    return pieces[1].strip()


def chosen(text: str, *, rows: str = "", columns: str = "") -> str:
    """Returns a Markdown text whose table has the chosen rows and columns only; at least one row has to be left."""
    lines = text.split("\n")
    table = [place for place, line in enumerate(lines) if line.startswith("|")]
    body = [place for place in table[2:] if re.search(rows, lines[place])]
    if not body:
        raise ValueError(f"no row of the table has {rows!r}")
    kept = set(table[:2] + body)
    lines = [line for place, line in enumerate(lines) if not line.startswith("|") or place in kept]
    return "\n".join(_cut(line, columns) if columns and line.startswith("|") else line for line in lines)


def _cut(line: str, columns: str) -> str:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return "|" + "|".join(cells[int(column) - 1] for column in columns.split(",")) + "|"

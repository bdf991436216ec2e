"""What the studies share: a result, and how it gets into the study's README.

A study is a folder with a README (the claim, the command, the result, the picture) and a `__main__.py` with a function
that returns a `Result`, run as `python -m experiments.studies.NAME` in the clone's folder. `publish` prints the table,
writes the figures beside the README and the table between its marks.
"""

import argparse
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from score_jax.plotting import save_figure

Row = Mapping[str, Any]


class Result(NamedTuple):
    """Rows of one table, figures by file name, and what must be said about the numbers: n, seed, time."""

    rows: Sequence[Row]
    figures: Mapping[str, Figure]
    conditions: str


def table(rows: Sequence[Row]) -> str:
    """Returns Markdown; numbers to four digits."""
    shown = lambda v: (f"{v:.4g}" if isinstance(v, float) else str(v)).replace("|", "\\|")
    texts = [map(shown, rows[0]), ["---"] * len(rows[0]), *[map(shown, row.values()) for row in rows]]
    return "\n".join(f"| {' | '.join(text)} |" for text in texts)


def publish(folder: Path, result: Result, seconds: float) -> None:
    """Prints the table, and writes figures and table into the study's folder."""
    text = f"{table(result.rows)}\n\n{result.conditions} {where(seconds)}"
    print(text)
    write(folder, text, result.figures)


def where(seconds: float) -> str:
    """Returns the time taken, machine and versions, as a sentence."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax"))
    return f"{seconds:.0f} s on {platform.machine()}, Python {platform.python_version()}, {versions}."


def write(folder: Path, text: str, figures: Mapping[str, Figure], name: str = "result") -> None:
    """Writes figures into the study's folder, and the text between the marks of that name in its README."""
    for file, figure in figures.items():
        print(f"  {save_figure(figure, folder / file)}")
    readme = folder / "README.md"
    page = readme.read_text()
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(page):
        raise ValueError(f"{readme} has no lines <!-- {name} --> and <!-- /{name} --> to put the table between")
    readme.write_text(marked.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page))
    print(f"  {readme}")


def main(file: str, study: Callable[[int], Result], description: str) -> None:
    """The command line of a study: `--seed`, and everything is written into its folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    start = time.perf_counter()
    result = study(seed)
    publish(Path(file).parent, result, time.perf_counter() - start)

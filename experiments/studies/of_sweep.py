"""Puts what a sweep found into the README of its study: the table between its marks, a figure beside it.

    python -m experiments.studies.of_sweep --out=sweeps/ablation_noise --study=ablation_noise --figure=NAME.png

The study is the sweep file and the words; everything else is the engine's.
"""

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from experiments.studies import study


def publish(out: Path, folder: Path, name: str, figures: Iterable[str]) -> None:
    """Puts a sweep's table between marks of the README in a study's folder, and figures beside it.

    Args:
      out: folder of the sweep.
      folder: of the study.
      name: of the marks.
      figures: of the sweep's figures/; after a colon, under which name.
    """
    study.write(folder, (out / "table.md").read_text(), {}, name=name)
    for figure in figures:
        file, _, new = figure.partition(":")
        shutil.copy(out / "figures" / file, folder / (new or file))


def main() -> None:
    """Publishes what the flags name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the sweep")
    parser.add_argument("--study", required=True, help="name of the study's folder")
    parser.add_argument("--name", default="result", help="marks of the table in the README")
    parser.add_argument("--figure", action="append", default=[], help="of the sweep's figures/, and under which name")
    given = parser.parse_args()
    publish(given.out, Path(__file__).parent / given.study, given.name, given.figure)


if __name__ == "__main__":
    main()

"""Puts what a sweep found into the README of its study: the table between its marks, a figure beside it.

    python -m experiments.studies.of_sweep --out=sweeps/ablation_noise --study=ablation_noise --figure=NAME.png

The study is the sweep file and the words; everything else is the engine's.
"""

import argparse
import shutil
from pathlib import Path

from experiments.studies import study


def main() -> None:
    """Publishes what the flags name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the sweep")
    parser.add_argument("--study", required=True, help="name of the study's folder")
    parser.add_argument("--name", default="result", help="marks of the table in the README")
    parser.add_argument("--figure", action="append", default=[], help="of the sweep's figures/, and under which name")
    given = parser.parse_args()
    folder = Path(__file__).parent / given.study
    study.write(folder, (given.out / "table.md").read_text(), {}, name=given.name)
    for figure in given.figure:
        file, _, name = figure.partition(":")
        shutil.copy(given.out / "figures" / file, folder / (name or file))


if __name__ == "__main__":
    main()

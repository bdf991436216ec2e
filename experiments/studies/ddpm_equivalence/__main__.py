"""Score matching with Langevin dynamics and denoising diffusion are one thing, measured part by part.

    python -m experiments.studies.ddpm_equivalence                  all parts, 8 minutes on 2 idle cores
    python -m experiments.studies.ddpm_equivalence --only a f       some of them
    python -m experiments.studies.ddpm_equivalence --full           part e alone, on Fashion-MNIST: 50 minutes

Each part's table goes between its marks in the README, its figures beside it.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.studies import study
from experiments.studies.ddpm_equivalence import coordinates, discretisation, identities, networks, objectives, samplers

FOLDER = Path(__file__).parent


# Each part is `seed -> Result`.
PARTS: dict[str, Callable[[int], study.Result]] = {
    "a": identities.measure,
    "b": objectives.measure,
    "c": discretisation.measure,
    "d": coordinates.measure,
    "e": networks.measure,
    "f": samplers.measure,
}


def publish(name: str, measure: Callable[[int], study.Result], seed: int, folder: Path = FOLDER) -> None:
    """Measures a part, prints it, and writes it into the study's folder with the time it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = measure(seed)
    cores = f"{(time.process_time() - cpu) / 60:.1f} core-minutes of CPU time,"
    text = f"{study.table(result.rows)}\n\n{result.conditions} {cores} {study.where(time.perf_counter() - wall)}"
    print(f"{name}\n{text}", flush=True)
    study.write(folder, text, result.figures, name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="part e alone, on Fashion-MNIST")
    parser.add_argument("--only", nargs="+", choices="abcdef", default="abcdef", metavar="PART", help="a to f")
    options = parser.parse_args()
    if options.full:
        publish("full", partial(networks.measure, full=True), options.seed)
        return
    for letter, measure in PARTS.items():
        if letter in options.only:
            publish(f"result {letter}", measure, options.seed)


if __name__ == "__main__":
    main()

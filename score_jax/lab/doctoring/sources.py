"""The data: those of a config, or without one the data sets that are found where they are looked for."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from score_jax import data as datasets
from score_jax.data import Source
from score_jax.lab import memory
from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding
from score_jax.types import InputError

KNOWN: Mapping[str, Callable[[], Source]] = {
    "digits": lambda: datasets.digits("test"),
    "fashion_mnist": lambda: datasets.fashion_mnist(split="test"),
    "mnist": lambda: datasets.mnist(split="test"),
    "cifar10": lambda: datasets.cifar10(split="test"),
}


def check_known_data(known: Mapping[str, Callable[[], Source]] = KNOWN) -> Iterator[Finding]:
    """Looks for the data sets that a config may name; one that is not there is a note, a damaged one is wrong."""
    for name, read in known.items():
        try:
            source = read()
        except InputError as error:
            missing = " is not here" in str(error)
            yield Finding(NOTE if missing else WRONG, f"data {name}", str(error), "" if missing else _ANEW)
            continue
        yield Finding(OK, f"data {name}", f"{len(source)} held-out examples of shape {source.shape}")
    yield _prepared(Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"))


_ANEW = "fetch its files anew, or give another folder, --config.data.root=FOLDER"


def _prepared(root: Path) -> Finding:
    there = sorted({path.parent.parent.name for path in root.glob("*/*/dataset_info.json")})
    return Finding(OK if there else NOTE, "data tfds", f"{', '.join(there) or 'no prepared copy'} in {root}")


def check_data(name: str, source: Source, said: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Looks at a config's training data: their number, size, first examples; and hands on what is said of them.

    Args:
      name: of the data set.
      source: of training.
      said: lines of `Experiment.summary`, of which warnings are notes.
    """
    what = "data"
    x = source.batch(np.arange(min(len(source), 256)))["x"]
    size = len(source) * int(np.prod(source.shape)) * x.dtype.itemsize
    yield Finding(OK, what, f"{name}: {len(source)} examples of shape {source.shape}, {memory.in_words(size)}")
    if x.min() == x.max():
        yield Finding(NOTE, what, f"the first {len(x)} examples are {x.min():g} everywhere: is it the right file?")
    for line in said:
        warning = line.startswith("warning: ")
        yield Finding(NOTE if warning else OK, what, line.removeprefix("warning: "))

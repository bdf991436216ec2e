"""One case: a reader's good files, one of them changed, laid out in a folder and read. Seed and number say which."""

import contextlib
import functools
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fuzz import guard
from tests.fuzz.readers import READERS, Reader

READ, REFUSED, WRONG = "read", "refused", "wrong"
_LONGEST = 1000  # characters of a message
ROUNDS = sum(reader.share for reader in READERS.values())


class Outcome(NamedTuple):
    """What became of a case: the reader's name, `READ`, `REFUSED` or `WRONG`, and what was said."""

    case: int
    reader: str
    state: str
    said: str = ""


@functools.cache
def _order() -> list[str]:
    """Readers in the order of cases, each as often as its share, well mixed."""
    names = [name for name, reader in READERS.items() for _ in range(reader.share)]
    return [str(name) for name in np.random.default_rng(0).permutation(names)]


def reader_of(case: int) -> str:
    """Returns the name of the reader that a case is for."""
    return _order()[case % len(_order())]


def lay(folder: Path, seed: int, case: int) -> None:
    """Writes the files of a case into a folder: always the same for the same seed and number."""
    reader, rng = READERS[reader_of(case)], np.random.default_rng([seed, case])
    original = reader.original()
    choices = [name for name in original if reader.mutation(name)]
    odd = choices[int(rng.integers(len(choices)))]
    change = reader.mutation(odd)
    assert change is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a zip archive with the same name twice
        changed = {**original, odd: change(rng, original[odd])}
    _write(folder, changed)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def warm() -> None:
    """Reads every reader's good files, which must succeed: what is imported late is imported then."""
    for name, reader in READERS.items():
        with _folder() as folder:
            _write(folder, reader.original())
            state, said = _read(reader, folder)
        if state != READ:
            raise AssertionError(f"{name}: the undamaged file is not read: {said}")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="score_jax_fuzz_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(seed: int, case: int) -> Outcome:
    """Returns what becomes of a case."""
    name = reader_of(case)
    with _folder() as folder:
        lay(folder, seed, case)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        peak = guard.Peak()
        try:
            with guard.watched(folder):
                state, said = _read(READERS[name], folder)
        except guard.Forbidden as error:
            state, said = WRONG, str(error)
    if state == REFUSED and (not said.isprintable() or len(said) > _LONGEST):
        state, said = WRONG, f"its message is no plain line: {said[:300]!r}"
    if peak.bytes() > guard.most_memory(size):
        state, said = WRONG, f"took {peak.bytes() / 2**20:.0f} MiB for {size} bytes"
    return Outcome(case, name, state, said)


def _read(reader: Reader, folder: Path) -> tuple[str, str]:
    """Reads what a folder holds; returns the state and what was said."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader.read(folder)
    except guard.Forbidden:
        raise
    except reader.raises as error:
        return REFUSED, str(error)
    except BaseException as error:
        return WRONG, f"{type(error).__name__}: {str(error)[:300]}"
    return READ, ""

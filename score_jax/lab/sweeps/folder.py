"""The folder of a sweep: sweep.json says which; runs/ holds the trainings, cells/ what became of each cell.

out/sweep.json                   the base settings and the cells
    cells/NAME.json              a cell: its run and evaluation, or why there is none
    runs/NAME/                   run folders, as `train` makes them
    cells.csv table.md table.tex figures/ report.html
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from score_jax.lab.sweeps.axes import Cell
from score_jax.training.checkpoint import config_differences
from score_jax.training.logging import write_json
from score_jax.types import InputError

_FILE, _LOCK = "sweep.json", ".lock"
_FREE = ("device",)  # settings of the base that a sweep may go on with changed


class Described(NamedTuple):
    """What sweep.json holds: the settings that all cells have but for their own, and the cells."""

    base: Mapping[str, Any]
    cells: Sequence[Cell]


def is_sweep(out: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (out / _FILE).is_file()


def read_sweep(out: Path) -> Described:
    """Returns what the sweep in a folder is.

    Raises:
      InputError: where there is none.
    """
    path = out / _FILE
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{out} is not the folder of a sweep: it has no {_FILE}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): it should describe a sweep") from error
    cells = found.get("cells") if isinstance(found, dict) else None
    whole = isinstance(cells, list) and all(isinstance(cell, dict) for cell in cells)
    if not whole or not isinstance(found.get("base"), dict):
        raise InputError(f"{path} should describe a sweep, an object with base and cells: restore it")
    return Described(found["base"], found["cells"])


def require_ours(out: Path, base: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Refuses a folder with other things in it, or of another sweep; one with some of the cells is gone on with."""
    odd = re.search(r"[\[*?\\]", str(out))
    if odd:
        raise InputError(f"{out} has {odd[0]} in its name, which Orbax takes for a pattern: give it another name")
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out={out} is a file: give a new or empty folder")
    if not is_sweep(out):
        others = [name for name in sorted(os.listdir(out)) if name != _LOCK and not name.startswith(f".{_FILE}")]
        if others:
            raise InputError(f"--out={out} holds {', '.join(others[:3])} but no {_FILE}: give a new or empty folder")
        return
    was = read_sweep(out)
    differences = config_differences(was.base, base, _FREE)
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(f"--out={out} is of another sweep ({'; '.join(differences[:3])}{more}): give another folder")
    kept = {json.dumps(cell, sort_keys=True) for cell in cells}
    lost = [cell for cell in was.cells if json.dumps(cell, sort_keys=True) not in kept]
    if lost:
        raise InputError(
            f"--out={out} is of another sweep: it has the cell {cell_words(lost[0])}, which this one has not "
            f"({len(lost)} of {len(was.cells)}): give another folder, or all of its cells and more"
        )


def require_same(out: Path, base: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Refuses, of a worker or job, another sweep than the folder's: a config that was edited since it was started."""
    was = read_sweep(out)
    differences = config_differences(was.base, base, _FREE)
    if differences or list(was.cells) != list(cells):
        changed = "; ".join(differences[:3]) or "other cells"
        raise InputError(f"the sweep in {out} was started with other settings ({changed}): start it again")


@contextlib.contextmanager
def claimed(out: Path, base: Mapping[str, Any], cells: Sequence[Cell]) -> Iterator[None]:
    """While the context lasts, the folder is this sweep's and of no other process.

    Raises:
      InputError: of another sweep's folder, or one that another process works in; it is not touched.
    """
    require_ours(out, base, cells)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / _LOCK) as free:
            if not free:
                raise InputError(f"another process runs the sweep in {out}: wait for it, or give another folder")
            require_ours(out, base, cells)  # it may have become another's before it was locked
            write_json(out / _FILE, {"base": base, "cells": list(cells)})
            yield
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (out, out / _LOCK):
            raise
        raise InputError(f"--out={out} cannot be written ({error.strerror}): give another folder") from error


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Locks a file while the context lasts, or until the process dies; tells whether it was free.

    Args:
      path: of the file.
      waiting: is called where it is not free, and then it is waited for; None goes on without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                yield False
                return
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield True


def run_folder(out: Path, run: str) -> Path:
    """Returns the folder of a run."""
    return out / "runs" / run


def write_record(out: Path, name: str, record: Mapping[str, Any]) -> None:
    """Writes what became of a cell."""
    (out / "cells").mkdir(exist_ok=True)
    write_json(out / "cells" / f"{name}.json", record)


def forget_record(out: Path, name: str) -> None:
    """Removes what was written of a cell."""
    (out / "cells" / f"{name}.json").unlink(missing_ok=True)


def read_record(out: Path, name: str) -> dict[str, Any]:
    """Returns what became of a cell; nothing of one that has not been come to."""
    return read_object(out / "cells" / f"{name}.json")


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; nothing where there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def cell_words(cell: Cell) -> str:
    """Returns "sde.name=vp seed=1"."""
    return " ".join(f"{key}={value}" for key, value in cell.items()) or "the base"

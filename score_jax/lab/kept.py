"""What an evaluation has done so far: parts in a folder, which goes when the whole is written.

Stopped at any moment and started again, what asks for the same parts goes on after the last whole one. They are of one
evaluation by one version of the code: parts of another are thrown away. Of several processes the first keeps them.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import npy
from score_jax.training import hosts
from score_jax.training.logging import write_json
from score_jax.types import InputError

_log = logging.getLogger(__name__)

_OF = "of.json"

Arrays = dict[str, np.ndarray]


class Kept:
    """Parts by name, each made once; kept in `folder`, or nowhere where that is None."""

    def __init__(self, folder: Path | None, conditions: Mapping[str, Any]):
        self._folder, self._conditions = folder, json.loads(json.dumps(conditions))
        if hosts.is_first() and folder is not None and folder.exists() and not self._is_ours():
            self.clear()

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns arrays by name: those that were kept under `name`, or what `make` returns, which is kept."""
        found = hosts.arrays_by_first(lambda: self._read(name))
        if found is None:
            found = make()
            self._keep(name, found)
        return found

    def has(self, name: str) -> bool:
        """Whether a part is there already."""
        return hosts.told_by_first(lambda: self._folder is not None and self._path(name).is_file())

    def clear(self) -> None:
        """Removes all parts, at once: what is left of a folder is never taken for one of other conditions."""
        if not hosts.is_first() or self._folder is None or not self._folder.exists():
            return
        going = self._folder.with_name(f"{self._folder.name}-{os.getpid()}-going")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(self._folder, going)
        shutil.rmtree(going, ignore_errors=True)

    def _is_ours(self) -> bool:
        assert self._folder is not None
        try:
            return bool(json.loads((self._folder / _OF).read_bytes()) == self._conditions)
        except FileNotFoundError:
            return True  # it comes before any part: another process has just made the folder
        except (OSError, ValueError, RecursionError):
            return False

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.npz"

    def _read(self, name: str) -> Arrays | None:
        if self._folder is None or not self._path(name).is_file():
            return None
        path = self._path(name)
        try:
            return {key: npy.entry(path, key) for key in npy.names(path)}
        except (InputError, OSError, ValueError, KeyError):
            _log.warning("%s is damaged: it is made again", path)
            return None

    def _keep(self, name: str, arrays: Arrays) -> None:
        if self._folder is None or not hosts.is_first():
            return
        path = self._path(name)
        draft = path.with_name(f".{path.name}-{os.getpid()}")  # another process may make the same
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / _OF).exists():
                write_json(self._folder / _OF, self._conditions)
            with draft.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(draft, path)
        except (OSError, InputError) as error:
            draft.unlink(missing_ok=True)
            _log.warning("%s cannot be kept (%s): stopped now, it would be made again", path, error)

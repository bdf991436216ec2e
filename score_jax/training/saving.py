"""What is written while training goes on, checkpoints in the background and records, and what if it cannot be.

A checkpoint that could not be written (the disk is full, say) leaves those before it as they are, and its own remains
are removed, so that it is never taken for one. Training then stops, or goes on, as it was told.

A run folder that was removed, moved or replaced meanwhile is found out before anything is written into it, and nothing
of it is made anew.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from score_jax.training import checkpoint, hosts, quiet
from score_jax.training.state import TrainState
from score_jax.types import InputError

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_log = logging.getLogger(__name__)

ON_ERROR = ("stop", "continue")
_UNKNOWN = -1
_POLL = 0.01  # s between two looks at a checkpoint that is being written


class NotWritten(InputError):
    """A checkpoint or a record could not be written; the message names it, the reason and the last good checkpoint."""


class Saving:
    """Writes checkpoints in the background, one at a time."""

    def __init__(self, manager: "ocp.CheckpointManager", config: Mapping[str, Any], on_error: str):
        self._manager, self._config, self._on_error = manager, config, on_error
        self._workdir = Path(manager.directory).parent
        self._begun = _written(self._workdir)
        self._writing: int | None = None
        self._failure: BaseException | None = None  # of a write, after which Orbax waits for others who wait for it

    def save(self, step: int, state: TrainState, position: Any, window: Any) -> None:
        """Starts writing a checkpoint when the one before is written.

        Raises:
          NotWritten: if one of the two could not be, unless training is to go on.
        """
        self.wait()
        options = {"config": self._config, "position": position, "window": window}

        def start() -> None:
            quiet.error_of_orbax()  # of an earlier write
            self._require_folder()
            _check_room(self._workdir, state)
            checkpoint.save_state(self._manager, step, state, **options)

        if self._tried(step, start):
            self._writing = step

    def check(self) -> None:
        """Says what became of a checkpoint if it is no longer being written; raises like `wait`."""
        if self._writing is not None and (self._has_failed() or not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Waits for the checkpoint that is being written.

        Raises:
          NotWritten: if it could not be, unless training is to go on.
        """
        step, self._writing = self._writing, None
        if step is not None:
            self._tried(step, self._finish)

    def _finish(self) -> None:
        while self._manager.is_saving_in_progress() and not self._has_failed():
            time.sleep(_POLL)
        if self._failure is not None:
            raise self._failure
        self._manager.wait_until_finished()
        self.check_folder()

    def _has_failed(self) -> bool:
        """Whether a write has failed in this process of several: a single one hears of it from Orbax, at once."""
        if hosts.total() > 1 and self._failure is None:
            self._failure = quiet.error_of_orbax()
        return self._failure is not None

    def check_folder(self) -> None:
        """Raises OSError in the first process if the folder is no longer that of the run; the others don't ask."""
        if hosts.is_first() and not self._is_there():
            raise self._gone()

    def is_there(self, what: str) -> bool:
        """Whether the folder is still that of the run; if not, tells like `failed` that `what` could not be written."""
        try:
            self._require_folder()
        except OSError as error:
            self.failed(what, error)
            return False
        return True

    def _require_folder(self) -> None:
        """Raises OSError in all processes if the first finds that the folder is no longer that of the run."""
        if not hosts.told_by_first(self._is_there):
            raise self._gone()

    def _gone(self) -> OSError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._workdir))

    def _is_there(self) -> bool:
        found = _written(self._workdir)
        return found is not None and (found == self._begun or _UNKNOWN in (found, self._begun))

    def close(self) -> None:
        """Closes the manager, but for one that would wait for processes which wait for this."""
        if self._failure is None:
            self._manager.close()

    def restore(self, like: TrainState, *, every: int) -> checkpoint.Restored:
        """Returns the newest checkpoint of a multiple of `every` steps; what is later is set aside, to be redone.

        Args:
          like: of `checkpoint.restore_state`.
          every: steps between those that count, if there are such.
        """
        restored = checkpoint.restore_state(self._manager, like, every=every)
        assert restored is not None  # it names what is damaged, where nothing is whole
        checkpoint.set_aside_after(self._workdir, restored.step)
        self._manager.reload()
        return restored

    def _tried(self, step: int, write: Callable[[], None]) -> bool:
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise all kinds
            checkpoint.remove_unfinished(self._workdir, step)
            self._remove_half_of_a_folder()
            self.failed(f"the checkpoint of step {step}", error)
            return False
        return True

    def failed(self, what: str, error: Exception) -> None:
        """Raises NotWritten, or warns if training is to go on: `what` could not be written."""
        stop = self._on_error == "stop" or self._failure is not None
        if stop:
            self.wait()
        found = f"{what} could not be written ({checkpoint.error_line(error)}): {self.last_good()}"
        if stop:
            raise NotWritten(f"{found}; mend that and start the same command again") from error
        _log.warning("%s; training goes on", found)

    def last_good(self) -> str:
        """Returns a clause that names the newest checkpoint."""
        if not self._is_there():
            return f"{self._workdir} was removed, moved or replaced, and the checkpoints with it"
        steps = checkpoint.steps(self._workdir)
        if not steps:
            return "no checkpoint had been written"
        return f"the last good checkpoint is {self._manager.directory / str(steps[0])}"

    def _remove_half_of_a_folder(self) -> None:
        """Removes the empty folders that a write makes of a path whose folder was removed meanwhile."""
        if hosts.is_first() and not self._is_there():
            with contextlib.suppress(OSError):  # of folders that are not empty, or not there
                for folder in (Path(self._manager.directory), self._workdir):
                    folder.rmdir()


def _written(workdir: Path) -> int | None:
    """The second in which a run's config.json was written, which tells the run from others; None where there is none.

    Inodes would not do: a file system that is mounted anew, or one over a network, may number its files anew.
    """
    try:
        return int((workdir / "config.json").stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # not to be reached at the moment: what is written next will tell
        return _UNKNOWN


@contextlib.contextmanager
def opened(manager: "ocp.CheckpointManager", config: Mapping[str, Any], on_error: str) -> Iterator[Saving]:
    """While the context lasts, checkpoints can be written; its end waits for the last, but not if a signal ends it."""
    saving = Saving(manager, config, on_error)
    try:
        yield saving
    except Exception:
        try:
            saving.wait()
        except NotWritten as also:
            _log.warning("%s", also)  # the error that came first is the one to raise
        saving.close()
        raise
    saving.wait()
    saving.close()


def _check_room(workdir: Path, state: TrainState) -> None:
    """Raises OSError before anything is written, if the disk has less room than the arrays take."""
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if hosts.told_by_first(lambda: shutil.disk_usage(workdir).free < needed):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

"""What no case may do: run a file's code, write or reach elsewhere, hang, or take memory out of all proportion.

Python tells an audit hook what it is about to do. Hooks stay for the rest of the process, so there is one, which looks
only while a case runs. What is imported late by a reader has to be imported before: then whatever is executed in a case
is the file's doing.
"""

import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax

SECONDS = 20  # of the processor; a case takes some 0.02
_RATIO, _ALLOWANCE = 250, 2**28  # of `data.bounded`, thrice its 64 MiB and what decoders take beside

_ACTIONS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen"),
    *("pickle.find_class", "shutil.unpack_archive", "webbrowser.open"),
)
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_INSTALLED = tuple({*sysconfig.get_paths().values(), str(Path(__file__).parents[2])})


class Forbidden(BaseException):
    """What a case did; no reader's `except Exception` stops it."""


class _Watch:
    folders: tuple[str, ...] = ()  # of the case, where it may write; none: no case runs
    seen: list[str] = []  # noqa: RUF012
    installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _Watch.folders:
        return
    found = _forbidden(event, arguments)
    if found:
        _Watch.seen.append(found)  # also where something swallows the exception
        raise Forbidden(found)


def _forbidden(event: str, arguments: tuple[Any, ...]) -> str:
    """What is forbidden of an event; empty: nothing."""
    if event in _ACTIONS:
        return f"{event} {str(arguments)[:80]}"
    if event == "exec":
        code: CodeType = arguments[0]
        return "" if code.co_filename.startswith((*_INSTALLED, "<frozen")) else f"exec of code of {code.co_filename}"
    if event == "open":
        path, mode, flags = arguments
        writes = bool(flags & _WRITING) if isinstance(flags, int) else bool(set(mode or "") & set("wax+"))
        return f"open {path} for writing" if writes and not _is_allowed(path) else ""
    if event in _CHANGES and not _is_allowed(arguments[0]):
        return f"{event} {arguments[0]}"
    return ""


def _is_allowed(path: Any) -> bool:
    if isinstance(path, int):  # a descriptor that is open already
        return True
    full = os.path.realpath(os.fsdecode(path))
    return full == os.devnull or f"{full}{os.sep}".startswith(_Watch.folders)


def _rang(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Forbidden(f"took more than {SECONDS} seconds")


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """While the context lasts, what is forbidden raises `Forbidden`: code, writing but into `folders`, and time."""
    if not _Watch.installed:
        sys.addaudithook(_hook)
        _Watch.installed = True
    _Watch.seen.clear()
    before = signal.signal(signal.SIGPROF, _rang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    kept = jax.config.values["jax_compilation_cache_dir"]  # of what a reader compiles
    allowed = [*folders, Path(kept)] if kept else folders
    _Watch.folders = tuple(f"{folder.resolve()}{os.sep}" for folder in allowed)
    try:
        yield
    finally:
        _Watch.folders = ()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if _Watch.seen:
        raise Forbidden(_Watch.seen[0])


def most_memory(size: int) -> int:
    """Returns the bytes that reading files of `size` together may take."""
    return _RATIO * size + _ALLOWANCE


class Peak:
    """The largest memory that the process had since this was made, above what it had then; 0 where that is not told."""

    def __init__(self):
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = _memory("VmRSS")

    def bytes(self) -> int:
        """Returns it."""
        return max(0, _memory("VmHWM") - self._start)


def _memory(name: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(name)), 0)

"""The clock, the locale and the number of files that may be open."""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from score_jax.lab.doctoring.finding import OK, WRONG, Finding

_FILES = 1024  # that checkpoints, data and JAX's caches have open together, with room to spare
_DAY = 86_400.0


def check_clock(now: float, written: float) -> Finding:
    """Looks whether the clock is behind: checkpoints and logs are compared by their times.

    Args:
      now: in seconds.
      written: when this code was written to the disk.
    """
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now + _DAY < written:
        return Finding(WRONG, "clock", f"{said}, before this code was installed", "sudo timedatectl set-ntp true")
    return Finding(OK, "clock", said)


def check_locale(files: str, terminal: str | None) -> Iterator[Finding]:
    """Looks whether names of files and what is printed may have letters such as σ.

    Args:
      files: encoding of names.
      terminal: encoding of what is printed.
    """
    odd = [name for name in (files, terminal or "utf-8") if not _can_say(name)]
    if odd:
        yield Finding(WRONG, "locale", f"{odd[0]} has no letters such as σ, → and é", "export PYTHONUTF8=1")
    else:
        yield Finding(OK, "locale", f"{files}")


def _can_say(encoding: str) -> bool:
    try:
        "σ→é×".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def check_open_files(soft: int, hard: int) -> Finding:
    """Looks how many files may be open at once, and how many could be."""
    unlimited = soft == resource.RLIM_INFINITY
    if unlimited or soft >= _FILES:
        return Finding(OK, "open files", "any number" if unlimited else f"up to {soft}")
    most = "unlimited" if hard == resource.RLIM_INFINITY else hard
    cure = f"ulimit -n {4096 if most == 'unlimited' else min(4096, int(hard))}"
    return Finding(WRONG, "open files", f"up to {soft}, where data and checkpoints may need {_FILES}", cure)


def all_of_surroundings() -> Iterator[Finding]:
    """Yields what there is to say of the process's surroundings."""
    yield check_clock(time.time(), Path(__file__).stat().st_mtime)
    yield from check_locale(sys.getfilesystemencoding(), getattr(sys.__stdout__, "encoding", None))
    yield check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))

"""Files that cost no more than they hold, whatever they claim.

A header can promise anything, and a compressed megabyte can unfold into a gigabyte of zeros. So promises are compared
with the size of the file before memory is asked for, and a stream ends with an error before it has given out more than
data are compressed from: data sets reach a ratio of about 120 (dSprites' black and white), deflate one of 1,032.
"""

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from score_jax.pickles import printable
from score_jax.types import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_RATIO, _ALLOWANCE = 250, 2**26
_PIECE = 2**20


class Readable(Protocol):
    """What is read from front to back."""

    def read(self, n: int, /) -> bytes: ...


def reason(error: Exception) -> str:
    """Returns why something failed, as part of one line: messages of libraries may quote the file at length."""
    return printable(" ".join(str(error).split()) or type(error).__name__)


def most(held: int) -> int:
    """Returns how many bytes of data a file of `held` bytes can be believed to hold."""
    return _RATIO * held + _ALLOWANCE


def require_plausible(promised: int, held: int) -> None:
    """Raises InputError where data of `promised` bytes are out of all proportion to the `held` of their file."""
    if promised > most(held):
        raise InputError(f"promises {promised} bytes in a file of {held}: refused")


def read_at_most(file: Readable, n: int) -> bytearray:
    """Reads up to n bytes; memory grows with what the file holds, not with n."""
    content = bytearray()
    while len(content) < n and (piece := file.read(min(n - len(content), _PIECE))):
        content += piece
    return content


class _Bounded:
    """A stream that raises InputError rather than give out more than `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file, self._left, self._limit = file, limit, limit

    def read(self, n: int, /) -> bytes:
        piece = self._file.read(min(n, _PIECE))
        self._left -= len(piece)
        if self._left < 0:
            raise InputError(f"unpacks to more than {self._limit} bytes, unlike any such data set: refused")
        return piece


@contextlib.contextmanager
def unpacked(path: str | os.PathLike[str], limit: int | None = None) -> Iterator[Readable]:
    """Opens a file to be read from front to back, unpacked if it is a gzip stream, which its first bytes tell.

    At the end of the context what is left of it is read too: only there is gzip's checksum, without which a flipped bit
    would pass for data.

    Args:
      path: of the file.
      limit: bytes that it may unpack to; None: 250 times its size, and 64 MiB.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError("is no file")
    with open(path, "rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
    with gzip.open(path, "rb") if compressed else open(path, "rb") as file:
        stream = _Bounded(file, most(path.stat().st_size) if limit is None else limit)  # type: ignore[arg-type]
        yield stream
        while compressed and stream.read(_PIECE):
            pass

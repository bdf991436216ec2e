"""NumPy's files, .npy and .npz: nothing in them is executed, mapped or believed before it is checked.

    .npy    magic, version, length of a header, the header (a dict's text), the numbers
    .npz    a zip archive of .npy files, as they are or deflated

A mapped file that is cut short while it is in use kills the process, without a word. So files are read: small ones
whole, large ones row by row when rows are asked for, where a short read is an error of one line.
"""

import ast
import math
import os
import struct
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_jax.data import bounded
from score_jax.types import InputError

MAGIC, ZIP_STARTS = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")
LONGEST = 2**14  # bytes that a header has at most, all told
_IN_MEMORY = 2**28  # bytes of a file that is read whole


class Header(NamedTuple):
    """What a .npy says of its numbers, which begin at byte `start`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: bounded.Readable) -> Header:
    """Reads the header of a .npy; `InputError` for one that is damaged or of anything but plain numbers and text."""
    try:
        magic = file.read(8)
        if magic[:6] != MAGIC or magic[6] not in (1, 2, 3):
            raise InputError("is no array as numpy.save writes it")
        start, form = (10, "<H") if magic[6] == 1 else (12, "<I")
        (length,) = struct.unpack(form, file.read(start - 8))
        text = file.read(min(length, LONGEST))
        if len(text) != length or start + length > LONGEST:
            raise InputError("is cut short within the header of an array, or has one unlike any of numpy.save")
        header = ast.literal_eval(text.decode())
        dtype, shape, fortran = np.dtype(header["descr"]), header["shape"], header["fortran_order"]
    except (ValueError, TypeError, LookupError, SyntaxError, MemoryError, RecursionError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("has a damaged header: no array as numpy.save writes it") from error
    if dtype.hasobject:
        raise InputError("holds Python objects, which only a pickle can read: refused; save plain numbers")
    sizes = type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or dtype.fields or dtype.subdtype or not dtype.itemsize or type(fortran) is not bool:
        raise InputError("holds records or has a damaged header; expected an array of plain numbers")
    return Header(dtype, shape, fortran, start + length)


def array_of(header: Header, content: bytes | bytearray | memoryview) -> np.ndarray:
    """Returns the array of the numbers `content`, in the machine's byte order; a view where that is its own."""
    if len(content) != header.nbytes:
        raise InputError(f"promises {header.nbytes} bytes for shape {header.shape} where {len(content)} are: damaged")
    flat = np.frombuffer(content, header.dtype) if header.nbytes else np.empty(0, header.dtype)
    return flat.astype(header.dtype.newbyteorder("="), copy=False).reshape(
        header.shape, order="F" if header.fortran else "C"
    )


@dataclass(frozen=True)
class Rows:
    """An array in a file, of which rows are read when asked for: `rows[indices]` is an array.

    Attributes:
      path: of the .npy file.
      size: of the file in bytes, which must stay.
      start: where the numbers begin.
      stored: their type in the file.
      shape: of the array.
    """

    path: Path
    size: int
    start: int
    stored: np.dtype
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Type of the rows, in the machine's byte order."""
        return self.stored.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, shape: tuple[int, ...]) -> "Rows":
        """Returns the same rows with another shape of one row."""
        return replace(self, shape=shape)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            found = self._empty(stop - start)
            places, pieces = np.array([start]), [found]
        else:
            found = self._empty(len(rows))
            places, pieces = rows, list(found)
        try:
            self._fill(places, pieces, found.shape[1])
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        values = found.reshape(-1).view(self.stored).reshape(-1, *self.shape[1:])
        return values.astype(self.dtype, copy=False)

    def _fill(self, places: np.ndarray, pieces: list[np.ndarray], step: int) -> None:
        """Reads into each piece what begins at the row of its place; a row has `step` bytes."""
        with open(self.path, "rb", buffering=0) as file:
            now = os.fstat(file.fileno()).st_size
            for place, piece in zip(places, pieces, strict=True):
                file.seek(self.start + int(place) * step)
                if now != self.size or file.readinto(piece.data) != piece.size:
                    raise InputError(f"{self.path}: had {self.size} bytes, now {now}: cut or changed while in use")

    def _empty(self, n: int) -> np.ndarray:
        """Room for n rows as bytes."""
        return np.empty((n, math.prod(self.shape[1:]) * self.stored.itemsize), np.uint8)


def read_npy(path: Path) -> np.ndarray | Rows:
    """Reads a .npy: whole up to 256 MiB, beyond that row by row when asked for."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = read_header(file)
        held = size - header.start
        if held != header.nbytes:
            raise InputError(f"promises {header.nbytes} bytes for shape {header.shape} where {held} are: damaged")
        if size <= _IN_MEMORY:
            return array_of(header, file.read(header.nbytes))
    if header.fortran:
        raise InputError("is in Fortran order and too large for that: np.save(path, np.ascontiguousarray(x)) mends it")
    return Rows(path, size, header.start, header.dtype, header.shape)


def names(path: Path) -> list[str]:
    """Returns what an .npz calls its arrays."""
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def entry(path: Path, name: str) -> np.ndarray:
    """Reads one array of an .npz; the checksum is verified."""
    with _archive(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise InputError(f"entry {name} is encrypted or compressed in another way than numpy.savez_compressed's")
        cure = f"unpack it if you trust it: np.save('{name}.npy', np.load(path)['{name}'])"
        try:
            bounded.require_plausible(info.file_size, path.stat().st_size)
        except InputError as error:
            raise InputError(f"entry {name} {error}; {cure}") from error
        try:
            with archive.open(info) as file:
                header = read_header(file)
                if header.nbytes + header.start != info.file_size:
                    raise InputError(f"promises {header.nbytes} bytes for shape {header.shape}, unlike the archive")
                return array_of(header, bounded.read_at_most(file, header.nbytes + 1))
        except InputError as error:
            raise InputError(f"entry {name} {error}") from error
        except Exception as error:  # damaged streams fail in any way
            raise InputError(f"entry {name} is damaged ({bounded.reason(error)})") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory fails in any way
        raise InputError(f"is a damaged zip archive, or cut short ({bounded.reason(error)})") from error

"""Zip archives with entries stored as they are: `torch.save`'s and `numpy.savez`'s. Nothing is decompressed."""

import io
import mmap
import os
import struct
import zipfile
import zlib

import numpy as np

from score_jax.data import npy
from score_jax.pickles import printable
from score_jax.types import InputError

ZIP_MAGIC = b"PK\x03\x04"


def mapped(path: str | os.PathLike[str]) -> mmap.mmap:
    """Returns the file, mapped into memory; `InputError` for an empty one."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError("is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def entries(data: mmap.mmap) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's directory; `InputError` for a damaged one, or where entries overlap."""
    try:
        with zipfile.ZipFile(data) as archive:  # type: ignore[call-overload]
            found = archive.infolist()
    except Exception as error:  # a damaged directory fails in any way
        raise InputError("is a damaged zip archive, or cut short: fetch the file again") from error
    if sum(info.compress_size for info in found) > len(data):
        raise InputError("is a zip archive with entries of more bytes than it has: damaged")
    return {info.filename: info for info in found}


def stored(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """Returns the bytes of an entry, checked against its sum."""
    name = printable(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise InputError(f"entry {name} is compressed or encrypted, unlike torch.save's and numpy.savez's: store it")
    header = data[info.header_offset :][:30]
    if info.header_offset < 0 or header[:4] != ZIP_MAGIC or len(header) < 30:
        raise InputError(f"entry {name} is not where the zip directory says: damaged")
    start = info.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))
    content = data[start : start + info.file_size]
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise InputError(f"entry {name} does not have the checksum the zip directory says: damaged, fetch it again")
    return content


def arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file of `numpy.savez` by name, as views of it, or None for another zip archive."""
    data = mapped(path)
    found = entries(data)
    if not found or not all(name.endswith(".npy") for name in found):
        return None
    return {n.removesuffix(".npy"): _array(n, stored(memoryview(data), info)) for n, info in found.items()}


def _array(name: str, content: memoryview) -> np.ndarray:
    try:
        header = npy.read_header(io.BytesIO(content[: npy.LONGEST]))
        return npy.array_of(header, content[header.start :])
    except InputError as error:
        raise InputError(f"entry {printable(name)} {error}") from error

"""PyTorch's files without PyTorch: the zip of today and the stream that was written before version 1.6.

    zip       NAME/data.pkl, a pickle in which tensors refer to storages by key; NAME/data/KEY, their bytes;
              NAME/byteorder. Entries are never compressed.
    stream    four pickles (a magic number, the protocol's, the machine's description, the object), a pickled list of
              storage keys, and for each key the number of elements (int64) and the elements, which are little-endian
              on any machine.

A tensor is a storage, an offset, sizes and strides, all counted in elements. The file is mapped, not read: tensors are
views of it once `Tensor.array` has checked that they lie inside their storage, so that a file can promise anything and
cost nothing. Pickles run in `pickles`, where they cannot call anything.
"""

import functools
import io
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from score_jax import pickles
from score_jax.interop import archives
from score_jax.pickles import Buildable, Named, OrderedDict, printable
from score_jax.types import InputError

_STREAM_MAGIC, _STREAM_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_HUGE = 2**48  # sizes beyond are damage, not data

_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}

Seekable: TypeAlias = mmap.mmap | io.BytesIO
Records: TypeAlias = Callable[[str], memoryview]  # the bytes of the storage of that key, checked


class Storage(NamedTuple):
    """`size` elements, from element `start`, of what the file holds under `key`."""

    records: Records
    key: str
    dtype: np.dtype
    size: int
    start: int = 0
    swapped: bool = False

    def array(self) -> np.ndarray:
        """Returns the elements `(size,)`, in this machine's byte order."""
        data, itemsize = self.records(self.key), self.dtype.itemsize
        stop = self.start + self.size
        if stop * itemsize > len(data):
            promised = f"{stop} elements of {itemsize} bytes"
            raise InputError(f"storage {printable(self.key)} has {len(data)} bytes where {promised} are promised")
        data = data[self.start * itemsize : stop * itemsize]
        if not self.swapped:
            return np.frombuffer(data, self.dtype)
        part = itemsize // 2 if self.dtype.kind == "c" else itemsize  # a complex number is two numbers
        return np.frombuffer(data, f"u{part}").byteswap().view(self.dtype)


class Tensor(NamedTuple):
    """A tensor of a file; none of it is read before `array`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a copy, which repeats what the strides repeat."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def array(self) -> np.ndarray:
        """Returns a read-only view of the file.

        Raises:
          InputError: for a tensor outside its storage, or a storage outside the file.
        """
        data = self.storage.array()
        if 0 in self.shape:
            return np.empty(self.shape, data.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= data.size:
            reach = f"shape {self.shape} with strides {self.strides} and offset {self.offset} reaches element {last}"
            raise InputError(f"{reach} of a storage of {data.size}")
        strides = [stride * data.itemsize for stride in self.strides]
        return np.ndarray(self.shape, data.dtype, data, self.offset * data.itemsize, strides)


def read_torch(path: str | os.PathLike[str], more: Mapping[str, Any] | None = None) -> Any:
    """Returns what `torch.save` was given, with a `Tensor` for each tensor; attributes of containers are left out.

    Args:
      path: of the file.
      more: what further names stand for, see `pickles.unpickle`.

    Raises:
      InputError: for anything but tensors, numbers, text and containers of them, or a damaged file.
    """
    data, table = archives.mapped(path), TORCH_TABLE | dict(more or {})
    return _read_zip(data, table) if data[:4] == archives.ZIP_MAGIC else read_stream(data, memoryview(data), table)


def is_stream(start: bytes) -> bool:
    """Returns whether a file of these first 32 bytes is a stream, whose first pickle is a magic number."""
    return start[:1] == b"\x80" and _STREAM_MAGIC.to_bytes(10, "little") in start[:32]


# The zip


def _read_zip(data: mmap.mmap, table: Mapping[str, Any]) -> Any:
    entries = archives.entries(data)
    pickled = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise InputError(f"is a zip archive with {len(pickled)} entries data.pkl; a file of torch.save has one")
    root = pickled[0].removesuffix("data.pkl")

    @functools.cache
    def record(name: str) -> memoryview:
        if root + name not in entries:
            raise InputError(f"has no entry {printable(root + name)}, which its pickle asks for")
        return archives.stored(memoryview(data), entries[root + name])

    order = bytes(record("byteorder")) if f"{root}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise InputError(f"has the byte order {order[:8]!r}, expected little or big")
    storages = functools.partial(_storage, lambda key: record(f"data/{key}"), swapped=order.decode() != sys.byteorder)
    return pickles.unpickle(io.BytesIO(record("data.pkl")), table, storages)


# The stream of 2019


def read_stream(
    data: Seekable, content: memoryview, table: Mapping[str, Any], *, steps: Iterator[int] | None = None
) -> Any:
    """Returns what a stream holds, given as a stream at its start and as its bytes; `steps` is a `pickles.budget`."""
    load = functools.partial(pickles.unpickle, steps=pickles.budget() if steps is None else steps)
    if content[:1] != b"\x80" or load(data, {}) != _STREAM_MAGIC:
        raise InputError(f"is not a file of torch.save: it starts with 0x{content[:4].hex()}")
    protocol, _ = load(data, {}), load(data, {})
    if protocol != _STREAM_PROTOCOL:
        raise InputError("is a stream of torch.save with a protocol other than 1001")
    declared: dict[str, Storage] = {}
    found: dict[str, memoryview] = {}

    def record(key: str) -> memoryview:
        if key not in found:
            raise InputError(f"has no storage {printable(key)}, which its pickle asks for")
        return found[key]

    def found_as(identity: Any) -> Storage | Named:
        if identity[0] == "module" and isinstance(identity[1], Named):
            return identity[1]  # a class of modules, with its source code behind
        return storage(identity)

    def storage(identity: Any) -> Storage:
        result = _storage(record, identity, swapped=sys.byteorder == "big")
        whole = Storage(record, result.key, result.dtype, identity[4])
        if declared.setdefault(result.key, whole)[2:4] != whole[2:4]:
            raise InputError(f"storage {printable(result.key)} is given two sizes or types")
        return result

    contents = load(data, table, found_as)
    for key in load(data, {}):
        if not isinstance(key, str) or key not in declared:
            raise InputError("lists a storage that no tensor uses: damaged")
        found[key] = _next_section(data, content, declared[key])
    return contents


def _next_section(data: Seekable, content: memoryview, storage: Storage) -> memoryview:
    """Returns the next storage of a stream. Early big-endian machines wrote its size, not its elements, their way."""
    size, start = data.read(8), data.tell()
    if size not in (storage.size.to_bytes(8, "little"), storage.size.to_bytes(8, "big")):
        raise InputError(
            f"storage {printable(storage.key)} does not have the {storage.size} elements promised: damaged"
        )
    stop = start + storage.size * storage.dtype.itemsize
    if stop > len(content):
        raise InputError(f"is cut short within storage {printable(storage.key)}: fetch the file again")
    data.seek(stop)
    return content[start:stop]


# What pickles of tensors name


def _storage(records: Records, identity: Any, *, swapped: bool) -> Storage:
    """Makes sense of ("storage", type, key, device, size), with (key, start, size) of a part of it behind, or None."""
    kind, dtype, key, _, size, *view = identity
    start, part = 0, size
    if view and view[0] is not None:
        _, start, part = view[0]
    if kind != "storage" or type(key) is not str or not isinstance(dtype, Named):
        raise TypeError("not a storage")
    if not isinstance(dtype.value, np.dtype):
        raise InputError(f"a storage has the type {dtype.name}, expected one of {', '.join(_DTYPES)}")
    start, part, _ = _integers((start, part, size))
    return Storage(records, key, dtype.value, part, start, swapped and dtype.value.itemsize > 1)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 32:
        raise TypeError("not a tensor")
    (start,) = _integers((offset,))
    tensor = Tensor(storage, start, _integers(shape), _integers(strides))
    if math.prod(max(n, 1) for n in tensor.shape) > _HUGE:
        raise InputError("a tensor has more elements than any file: damaged")
    return tensor


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("not a parameter")
    return data


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and 0 <= v < _HUGE for v in values):
        raise TypeError("not a tuple of sizes")
    return values


class _Dtype(Buildable):
    """Stands for numpy.dtype: a code such as "f8", and a byte order that comes as state."""

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        self.order = state[1]


def _scalar(dtype: Any, data: Any) -> Any:
    """Constructs a NumPy scalar as a Python number; the optimizers of some files hold them."""
    if not isinstance(dtype, _Dtype) or dtype.code not in _SCALARS or dtype.order not in ("<", ">", "=", "|"):
        raise TypeError("not a number")
    (number,) = np.frombuffer(data, np.dtype(dtype.code).newbyteorder(dtype.order))
    return number.item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into an old protocol: as Latin-1 text and a call that encodes it."""
    if encoding != "latin1":
        raise TypeError("not bytes")
    return text.encode("latin1")


_SCALARS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
TORCH_TABLE: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encode,
} | {f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()}

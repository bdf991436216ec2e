"""Writes files as torch.save does, out of names that only PyTorch could import."""

import copyreg
import io
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "V2": "BFloat16", "c8": "ComplexFloat", "c16": "ComplexDouble"}
KINDS |= {"i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte", "b1": "Bool"}


class Name(NamedTuple):
    """A class or function of the file's choosing."""

    module: str
    name: str

    def __call__(self):
        raise AssertionError("only written, never called")


class Call(NamedTuple):
    """What a name returns for arguments, as far as the reader is concerned, and then a state for it."""

    name: Name
    arguments: tuple
    state: Any = None


class New(NamedTuple):
    """An object of a class of that name, made without arguments, and a state for it."""

    name: Name
    state: Any


class Stored(NamedTuple):
    """A storage of 1-d `values`; `identity` replaces or extends the persistent id that torch.save gives it."""

    key: str
    values: np.ndarray
    identity: tuple | None = None

    def persistent_id(self) -> tuple:
        dtype = np.asarray(self.values).dtype
        kind = Name("torch", KINDS["V2" if dtype.name == "bfloat16" else dtype.str[1:]] + "Storage")
        return self.identity or ("storage", kind, self.key, "cpu", len(self.values))


def tensor(stored: Stored, offset: int, shape: tuple, strides: tuple, function: str = "_rebuild_tensor_v2") -> Call:
    rest = () if function == "_rebuild_tensor" else (False, Call(Name("collections", "OrderedDict"), ()))
    return Call(Name("torch._utils", function), (stored, offset, shape, strides, *rest))


def dense(key: str, array: np.ndarray) -> Call:
    strides = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    return tensor(Stored(key, array.ravel()), 0, array.shape, strides)


class _Pickler(pickle._Pickler):  # the one in Python lets names be written without importing them
    def persistent_id(self, obj):
        if isinstance(obj, Stored):
            self.storages[obj.key] = obj.values
            return obj.persistent_id()
        if (
            self.stream
            and isinstance(obj, Name)
            and obj.module.startswith("torch.nn.modules")
            and obj not in self.classes
        ):
            self.classes.add(obj)
            return ("module", obj, "container.py", "raise SystemExit(3)")  # once, with its source code
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save_reduce(obj.name, obj.arguments, state=obj.state, obj=obj)
        elif isinstance(obj, New):
            self.save_reduce(copyreg.__newobj__, (obj.name,), state=obj.state)
        else:
            super().save(obj, save_persistent_id)


def pickled(contents: Any, protocol: int = 2, stream: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    """Returns the pickle and the storages that it refers to."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=protocol)
    pickler.storages, pickler.stream, pickler.classes = {}, stream, set()
    pickler.dump(contents)
    return file.getvalue(), pickler.storages


def with_tensors(value: Any, keys) -> Any:
    """Returns the containers with a tensor for each array, in their order, which jax.tree.map changes."""
    if isinstance(value, dict):
        return {key: with_tensors(v, keys) for key, v in value.items()}
    if isinstance(value, list):
        return [with_tensors(v, keys) for v in value]
    return dense(str(next(keys)), value) if isinstance(value, np.ndarray) else value


def write_zip(path, contents: Any, *, order: str = "little", compression: int = zipfile.ZIP_STORED):
    data, storages = pickled(contents)
    entries = {"data.pkl": data, "byteorder": order.encode()}
    entries |= {f"data/{key}": in_order(values, order).tobytes() for key, values in storages.items()}
    return write_entries(path, entries, compression)


def write_entries(path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


def read_entries(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def write_stream(path, contents: Any, **options):
    path.write_bytes(stream(contents, **options))
    return path


def stream(contents: Any, *, little_endian: bool = True, size_format: str = "<q") -> bytes:
    data, storages = pickled(contents, stream=True)
    info = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, info)]
    sections = [struct.pack(size_format, len(v)) + v.tobytes() for _, v in sorted(storages.items())]
    return b"".join([*head, data, pickle.dumps(sorted(storages), 2), *sections])


def in_order(values: np.ndarray, order: str) -> np.ndarray:
    if order == "little" or values.dtype.itemsize == 1:
        return values
    if values.dtype.name == "bfloat16":
        return values.view(np.uint16).byteswap()
    return values.byteswap()

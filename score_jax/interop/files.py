"""Files of tensors, whichever kind they are, and the configs beside them.

    safetensors, numpy.savez, torch.save (zip and stream), a pickle of modules with their source code, or a JSON index
    {"weight_map": {name of a tensor: name of a file beside it}} of several of them.

A file's kind is read off its first bytes, an index's off its name. Nothing is decompressed, executed or believed before
it is checked; whatever is wrong with a file is an `InputError` of one line.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import yaml

from score_jax.interop import archives, persistence, strangers, torch_files
from score_jax.interop.torch_files import Tensor
from score_jax.pickles import printable
from score_jax.types import InputError

_DEEPEST, _MOST_KEYS = 50, 10_000  # of a config's sections: published ones have 3, and 60
# Strides can repeat one number for ever: copies of a file's tensors may be this much larger than the file.
_REPEATED, _ALLOWANCE = 4, 2**26


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name in front of what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


class Contents(NamedTuple):
    """What a checkpoint holds, its own config, empty where it has none, and how many bytes it is."""

    value: Any
    config: Mapping[str, Any]
    size: int


def read(path: str | os.PathLike[str]) -> Contents:
    """Returns what the file holds: of safetensors, numpy.savez and an index, a dict of arrays.

    Raises:
      InputError: for a file of another kind, a damaged one, or one that no source writes (`strangers`).
    """
    contents = _read_index(path) if Path(path).suffix == ".json" else _read_file(path)
    strangers.refuse(contents.value)
    return contents


def _read_file(path: str | os.PathLike[str]) -> Contents:
    with open(path, "rb") as file:
        start = file.read(32)
    size = os.stat(path).st_size
    if start[8:9] == b"{":
        arrays, remarks = _read_safetensors(path)
        return Contents(arrays, _remembered(remarks), size)
    strangers.refuse_kind(start)
    if start[:1] == b"\x80" and not torch_files.is_stream(start):
        return Contents(persistence.read_modules(path), {}, size)
    found = archives.arrays(path) if start[:4] == archives.ZIP_MAGIC else None
    return Contents(torch_files.read_torch(path, persistence.ALLOWED) if found is None else found, {}, size)


def _read_index(path: str | os.PathLike[str]) -> Contents:
    places = read_source_config(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError('is no index of a checkpoint: expected JSON with a "weight_map" of names of tensors and files')
    value: dict[str, Any] = {}
    size = 0
    for name in sorted(set(places.values())):
        shard = Path(path).parent / name
        if Path(name).name != name or not shard.is_file():
            raise InputError(f"needs its part {printable(name)}, which is not beside it: fetch it too")
        contents = _read_file(shard)
        found, expected = contents.value, {tensor for tensor, place in places.items() if place == name}
        if not isinstance(found, dict) or found.keys() != expected:
            strange = sorted(map(str, expected.symmetric_difference(found if isinstance(found, dict) else ())))
            raise InputError(f"does not agree with its part {printable(name)} on {printable(strange[0])}: of another?")
        value |= found
        size += contents.size
    return Contents(value, {}, size)


def _remembered(remarks: Mapping[str, str]) -> Mapping[str, Any]:
    """The config that `write` left in the header."""
    try:
        config = json.loads(remarks.get("config", "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError("has a config in its header that is no JSON") from error
    return config if isinstance(config, dict) else {}


def _read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise InputError(
            f"cannot be read as safetensors ({reason}): damaged, cut short or of an exotic type"
        ) from error


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Writes arrays as safetensors, with a config in the header."""
    dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(dense, path, metadata={"format": "pt", "config": json.dumps(config)})


def require_size(size: int, tensors: Mapping[str, Tensor | np.ndarray]) -> None:
    """Raises `InputError` where copies of the tensors would be much larger than the file of `size` they are from."""
    promised = sum(tensor.nbytes for tensor in tensors.values())
    if promised > _REPEATED * size + _ALLOWANCE:
        raise InputError(f"promises tensors of {promised} bytes in a file of {size}: refused")


def read_source_config(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> Mapping[str, Any]:
    """Returns a source's own config, a mapping of mappings, given as such or by the path of its JSON or YAML file."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return config
    with naming(config):
        text = Path(config).read_text(errors="replace")
        try:
            content = json.loads(text) if Path(config).suffix == ".json" else yaml.load(text, _Loader)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"is no JSON or YAML ({printable(' '.join(str(error).split()))})") from error
        if not isinstance(content, Mapping):
            raise InputError("holds no settings: expected sections such as data and model")
    return content


class _Loader(yaml.SafeLoader):
    """YAML of plain values, and the tag that argparse leaves on the configs which published code writes.

    Its scanner takes time of the square of a text's depth, and keys that are merged can double with every line: both
    are bounded.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Makes a node of what comes next in the text, and of what is in it."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.composer.ComposerError(problem=f"settings are nested more than {_DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Puts the keys of other mappings, `<<: *name`, into one."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise yaml.constructor.ConstructorError(problem=f"has more than {_MOST_KEYS} keys in one section")


_Loader.add_constructor(
    "tag:yaml.org,2002:python/object:argparse.Namespace", lambda loader, node: loader.construct_mapping(node, deep=True)
)

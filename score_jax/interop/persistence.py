"""PyTorch modules that were pickled with their source code, as data: the pickles that EDM and StyleGAN publish.

Python would execute the source code in such a file to make a module of it (`torch_utils.persistence`). Here the code is
text that nobody looks at; what is left of a module are its class's name, its attributes, and so its tensors and the
arguments that it was constructed with. In a plain pickle a tensor is a call that reads bytes, which are a stream of
torch.save in turn; in a file of torch.save, such as EDM's training-state-….pt, it is a tensor like any other.
"""

import functools
import io
import os
from collections.abc import Iterator
from typing import Any

from score_jax import pickles
from score_jax.interop import archives, torch_files
from score_jax.interop.torch_files import Storage, Tensor
from score_jax.pickles import Buildable, OrderedDict, printable
from score_jax.types import InputError


class Module(Buildable):
    """What a module was: `kind`, the name of its class, and its attributes."""

    kind = "Module"

    def __init__(self):
        self.attributes: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError("not the attributes of a module")
        self.attributes = state

    def part(self, name: str) -> dict[str, Any]:
        """Returns the attribute of that name, such as "_parameters", which is a dict or not there."""
        found = self.attributes.get(name, {})
        if not isinstance(found, dict):
            raise InputError(f"{printable(self.kind)}.{name} is no dict: damaged")
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that it was constructed with, as far as the file has them.

        Raises:
          InputError: for arguments without a name.
        """
        if self.attributes.get("_init_args"):
            raise InputError(f"{printable(self.kind)} was made with arguments without a name: give them as the config")
        return self.part("_init_kwargs")


def _persistent(meta: Any) -> Module:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise TypeError("not a pickled object of torch_utils.persistence")
    module = Module()
    module.kind = meta["class_name"]
    module.build(meta.get("state"))
    return module


def _storage(steps: Iterator[int], content: Any) -> Storage:
    """Reads the bytes of a storage; such a stream holds nothing but tensors, so nothing nests in it."""
    if not isinstance(content, bytes):
        raise TypeError("not bytes")
    found = torch_files.read_stream(io.BytesIO(content), memoryview(content), torch_files.TORCH_TABLE, steps=steps)
    if not isinstance(found, Storage):
        raise TypeError("not a storage")
    return found


def _set(members: Any = ()) -> set[str | int]:
    """Makes the sets of modules, which torch.save writes in a protocol without an instruction for them."""
    if not isinstance(members, list | tuple) or not all(isinstance(member, str | int) for member in members):
        raise TypeError("not text or integers")
    return set(members)


ALLOWED = {  # what a file of torch.save may name beside tensors
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch.nn.modules.container.ModuleDict": Module,
    "torch.nn.modules.container.ModuleList": Module,
    "torch.nn.modules.container.Sequential": Module,
    "dnnlib.util.EasyDict": OrderedDict,
    "__builtin__.set": _set,
    "builtins.set": _set,
}


def read_modules(path: str | os.PathLike[str]) -> Any:
    """Returns what was pickled, with a `Module` for each module and a `Tensor` for each tensor.

    Raises:
      InputError: for anything but modules, tensors, numbers, text and containers of them, or a damaged file.
    """
    steps = pickles.budget()  # a file could have the same bytes read for ever
    table = torch_files.TORCH_TABLE | ALLOWED | {"torch.storage._load_from_bytes": functools.partial(_storage, steps)}
    return pickles.unpickle(archives.mapped(path), table, steps=steps)


def state_dict(module: Module) -> dict[str, Tensor]:
    """Returns the module's parameters and buffers under PyTorch's names.

    Raises:
      InputError: for a module that is part of two others, of which a file could make endlessly many names.
    """
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, current = waiting.pop()
        tensors |= {f"{prefix}{name}": tensor for name, tensor in _own_tensors(current)}
        for name, child in current.part("_modules").items():
            if isinstance(child, Module):
                if id(child) in seen:
                    raise InputError(f"has the module {printable(f'{prefix}{name}')} in two places: damaged")
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))
    return tensors


def _own_tensors(module: Module) -> Iterator[tuple[str, Tensor]]:
    passing = module.attributes.get("_non_persistent_buffers_set")
    buffers = module.part("_buffers")
    left = {k: v for k, v in buffers.items() if not (isinstance(passing, set) and k in passing)}
    for name, tensor in [*module.part("_parameters").items(), *left.items()]:
        if isinstance(tensor, Tensor):
            yield name, tensor

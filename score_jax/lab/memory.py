"""Whether what is asked for can be in memory at all, by shapes alone: said before anything of the size is made.

Only what is certainly needed is counted: parameters with their gradient, average and Adam's two moments, or a device's
part of these where the state is cut, and the batches of a dispatch. Activations come on top, so what passes may still
be too large; what is refused could never run.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import jax

from score_jax.types import InputError

_COPIES = 5  # of the parameters in training: themselves, whole to be looked at; gradient, average, two moments


def available() -> int:
    """Returns the bytes of the largest memory that a program has here: a device's, or the machine's for a CPU."""
    told = jax.local_devices()[0].memory_stats() or {}
    return told.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(what: Mapping[str, int]) -> None:
    """Raises InputError, naming the parts and what they need, where their bytes are more than there are.

    Args:
      what: bytes of each part, by the settings that it depends on.
    """
    needed, here = sum(what.values()), available()
    if needed <= here:
        return
    parts = ", ".join(f"{in_words(size)} of {part}" for part, size in what.items())
    raise InputError(f"this needs at least {in_words(needed)} of memory ({parts}), and there are {in_words(here)}")


def in_words(size: int) -> str:
    """Returns "1.5 GiB" for a number of bytes."""
    exponent = min(int(math.log(max(size, 1), 1024)), 5)
    return f"{size / 1024**exponent:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][exponent]}"


def of_parameters(shapes: Any, parts: int = 1) -> int:
    """Returns the bytes that training needs on a device for parameters of these shapes, all but themselves in parts."""
    of_one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return of_one + (_COPIES - 1) * of_one // parts


def of_batches(shape: tuple[int, ...], batch_size: int, steps: int) -> int:
    """Returns the bytes of float32 examples of one `shape` in the batches of a dispatch of some steps."""
    return 4 * math.prod(shape) * batch_size * steps

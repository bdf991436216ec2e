"""Free space where runs, caches and drafts are written, against the size of a config's checkpoints."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding
from score_jax.lab.memory import in_words

_LITTLE = 2**30


def check_disk(
    places: Mapping[str, Path],
    needed: Mapping[str, int],
    free: Callable[[Path], int] = lambda p: shutil.disk_usage(p).free,
) -> Iterator[Finding]:
    """Looks how much space is left.

    Args:
      places: folders by what they are for; of one that is not there yet, the folder above counts.
      needed: bytes that will be written into some of these.
      free: bytes left on the disk of a folder.
    """
    for name, place in places.items():
        there = next(path for path in [place.absolute(), *place.absolute().parents] if path.is_dir())
        left, wanted = free(there), needed.get(name, 0)
        said = f"{name}: {in_words(left)} free at {place}"
        if left < wanted:
            said += f", and the checkpoints that are kept take {in_words(wanted)}"
            yield Finding(WRONG, "disk", said, f"df -h {there}; give another folder, or --config.training.keep_last=1")
        else:
            yield Finding(NOTE if left < _LITTLE else OK, "disk", said)

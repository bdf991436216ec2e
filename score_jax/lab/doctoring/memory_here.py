"""Memory of the machine, of its control group and of a device, against what a config needs at least."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding
from score_jax.lab.memory import in_words

_LITTLE = 2**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def of_meminfo(text: str) -> Mapping[str, int]:
    """Returns the bytes of /proc/meminfo's lines by name."""
    lines = [line.split() for line in text.splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) > 1 and line[1].isdecimal()}


def group_limit(texts: Mapping[str, str]) -> int | None:
    """Returns the limit of the control group by the texts of its files; None where there is none."""
    limits = [int(text) for text in (texts.get(name, "").strip() for name in _LIMITS) if text.isdecimal()]
    return min((limit for limit in limits if limit < 2**60), default=None)  # version 1 has a huge number for none


def check_memory(
    machine: Mapping[str, int], limit: int | None, needed: int | None, device: int | None
) -> Iterator[Finding]:
    """Looks whether memory is enough.

    Args:
      machine: of `of_meminfo`.
      limit: of the control group.
      needed: by the config's parameters in training, at least.
      device: of one accelerator; None of a CPU, which has the machine's.
    """
    total, free = machine.get("MemTotal", 0), machine.get("MemAvailable", 0)
    beside = f"; this container is ended above {in_words(limit)}" if limit is not None and limit < total else ""
    yield Finding(
        NOTE if free < _LITTLE or beside else OK, "memory", f"{in_words(free)} free of {in_words(total)}{beside}"
    )
    here = min(free, limit or free) if device is None else device
    if needed is None:
        return
    said = f"training needs at least {in_words(needed)} beside activations, and there are {in_words(here)}"
    cure = "--config.network.NAME.channels=… (fewer), or a device with more memory"
    yield Finding(WRONG, "memory", said, cure) if needed > here else Finding(OK, "memory", said)


def all_of_memory(needed: int | None, device: int | None) -> Iterator[Finding]:
    """Yields what there is to say of the memory here."""
    told = Path("/proc/meminfo")
    if not told.is_file():
        yield Finding(NOTE, "memory", "this system does not tell of it in /proc/meminfo")
        return
    texts = {name: Path(name).read_text() for name in _LIMITS if Path(name).is_file()}
    yield from check_memory(of_meminfo(told.read_text()), group_limit(texts), needed, device)

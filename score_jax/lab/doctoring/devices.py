"""What JAX sees of the devices that are there, and the variables that it heeds."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from score_jax.lab import memory
from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding

_FILES = {"cuda": ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"), "tpu": ("/dev/accel0", "/dev/vfio/0")}
_PLATFORMS = {"cuda": "gpu", "tpu": "tpu"}
_HEEDED = re.compile(r"XLA_\w+|JAX_\w+|LIBTPU_\w+|TPU_\w+|CUDA_VISIBLE_DEVICES|NVIDIA_TF32_OVERRIDE|TF_CPP_\w+")
_VIRTUAL = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


class SeenDevices(NamedTuple):
    """What JAX sees: its platform, the kinds of its devices, the memory of one, or why it sees none."""

    platform: str
    kinds: Sequence[str]
    memory: int | None
    error: str = ""


def accelerators(exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Returns the kinds of accelerators whose device files are there: "cuda", "tpu"."""
    return [kind for kind, files in _FILES.items() if any(exists(file) for file in files)]


def seen_by_jax() -> SeenDevices:
    """Starts JAX and returns what it sees."""
    try:
        devices = jax.devices()
    except Exception as error:  # JAX asserts where CUDA's plugin is absent, and plugins raise all kinds
        return SeenDevices("", (), None, " ".join(str(error).split())[:200] or type(error).__name__)
    told = jax.local_devices()[0].memory_stats() or {}
    return SeenDevices(devices[0].platform, [device.device_kind for device in devices], told.get("bytes_limit"))


def check_devices(seen: SeenDevices, there: Sequence[str], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Looks whether JAX sees the devices that are there.

    Args:
      seen: what it sees.
      there: kinds of accelerators that the machine has.
      environ: variables in force.
    """
    asked = environ.get("JAX_PLATFORMS", "")
    if seen.error:
        cure = "unset JAX_PLATFORMS" if asked else "pip install --upgrade --force-reinstall jax jaxlib"
        named = f" for JAX_PLATFORMS={asked}" if asked else ""
        yield Finding(WRONG, "devices", f"JAX finds no device{named}: {seen.error}", cure)
        return
    yield Finding(OK, "devices", _described(seen, environ))
    for kind in there:
        if seen.platform == _PLATFORMS[kind]:
            continue
        if asked and kind not in asked and _PLATFORMS[kind] not in asked:
            said = f"JAX_PLATFORMS={asked} keeps JAX from the device for {kind} that is there"
            yield Finding(NOTE, "devices", said, "unset JAX_PLATFORMS")
        elif environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") and kind == "cuda":
            yield Finding(NOTE, "devices", "CUDA_VISIBLE_DEVICES hides the GPUs", "unset CUDA_VISIBLE_DEVICES")
        else:
            said = f"a device for {kind} is there, and JAX sees {seen.platform} alone: plugin or driver do not work"
            yield Finding(WRONG, "devices", said, _CURES[kind])


_CURES = {
    "cuda": "nvidia-smi && pip install -e '.[cuda]'",  # the driver, then the plugin
    "tpu": "pip install -e '.[tpu]' && sudo lsof /dev/accel0",  # which only one process has at a time
}


def _described(seen: SeenDevices, environ: Mapping[str, str]) -> str:
    kinds = " and ".join(f"{seen.kinds.count(kind)} × {kind}" for kind in dict.fromkeys(seen.kinds))
    virtual = _VIRTUAL.search(environ.get("XLA_FLAGS", ""))
    beside = f", {virtual[1]} of them made by XLA_FLAGS of one machine's cores" if virtual and _is_cpu(seen) else ""
    size = f", {memory.in_words(seen.memory)} each" if seen.memory else ""
    return f"{seen.platform}: {kinds}{size}{beside}"


def _is_cpu(seen: SeenDevices) -> bool:
    return seen.platform == "cpu"


def check_variables(environ: Mapping[str, str]) -> Finding:
    """Lists the variables that JAX and XLA heed; what they set goes before the settings of `device`."""
    found = {name: value for name, value in sorted(environ.items()) if _HEEDED.fullmatch(name)}
    said = ", ".join(f"{name}={' '.join(value.split())[:120]}" for name, value in found.items())
    return Finding(OK, "variables", said or "none that JAX heeds")


def cpus(allowed: int, quota: str | None) -> Finding:
    """Says how many cores there are.

    Args:
      allowed: on which this process may run.
      quota: of the control group, "MICROSECONDS PERIOD" or "max PERIOD".
    """
    parts = (quota or "max").split()
    limit = int(parts[0]) / int(parts[1]) if len(parts) == 2 and parts[0].isdecimal() and int(parts[1]) else None
    if limit is not None and limit < allowed:
        return Finding(NOTE, "cores", f"{allowed}, of which the container may use {limit:.3g} at a time")
    return Finding(OK, "cores", f"{allowed}")


def all_of_devices() -> Iterator[Finding]:
    """Yields what there is to say of the devices here, after JAX has been started."""
    yield from check_devices(seen_by_jax(), accelerators(), os.environ)
    yield check_variables(os.environ)
    quota = Path("/sys/fs/cgroup/cpu.max")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield cpus(allowed, quota.read_text() if quota.is_file() else None)

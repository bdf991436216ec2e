"""How JAX uses its devices: precision of matrix products, determinism, memory, kept compilations.

JAX reads these once, when its first array is made, so `configure` is called before that. What the environment already
says is left alone: who sets a flag in XLA_FLAGS or an XLA_PYTHON_CLIENT_* variable means it. `in_force` tells what
holds.

Precision is that of float32 matrix products and convolutions. A device's default is its fastest: on NVIDIA GPUs from
Ampere on TF32, which keeps 10 bits of each factor, on TPUs bfloat16, which keeps 7; sums are float32. Networks train as
well with it. What has to be exact asks for more by itself, whatever is set here: the known densities and scores, the
steps of the adaptive integrator, metrics, distances, tables of noise levels.
"""

import mmap
import os
import pkgutil
import platform
import warnings
from importlib import metadata, util
from pathlib import Path
from typing import Any

import jax
import jaxlib

from score_jax.types import InputError

# Setting -> what JAX calls it
PRECISIONS = {"default": None, "bfloat16": "bfloat16", "tf32": "tensorfloat32", "float32": "float32"}
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Of XLA's two ways to convolve on a processor, YNNPACK's and Eigen's, the second is 1.1 to 3.2 times as fast on x86-64
# (benchmarks/convolutions.py), and is not what XLA takes by itself.
_CONVOLUTIONS = ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION")
# bfloat16 by oneDNN, on processors with units for it: 1.6 times as fast, forward and in training
# (benchmarks/README.md, "Beside PyTorch"); float32 is as fast forward and 4 % slower in training.
_ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_NOT_KEPT = "Error writing persistent compilation cache entry .*MemoryError: std::bad_alloc"
_HOST_DEVICES = "--xla_force_host_platform_device_count"
_VARIABLES = ("XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_PLATFORMS")
NO_CACHE = "none"


def configure(
    *,
    matmul_precision: str = "default",
    deterministic: bool = False,
    preallocate: bool = True,
    memory_fraction: float = 0.75,
    compile_cache: str = "",
) -> None:
    """Sets what JAX's backend starts with; to be called before the first array is made.

    Args:
      matmul_precision: of float32 matrix products and convolutions: "default", "bfloat16", "tf32" or "float32".
      deterministic: on NVIDIA GPUs, operations whose sums are always added in one order and no trials of which kernel
        is fastest: what a resumed run needs to be bit-identical there. CPUs and TPUs are deterministic as they are.
      preallocate: take the share `memory_fraction` of a GPU's memory at once, which spares time and fragmentation;
        without, memory is taken as it is needed, which leaves the rest to other processes.
      memory_fraction: at most this share of a GPU's memory.
      compile_cache: folder that keeps compiled programs between processes; empty: $JAX_COMPILATION_CACHE_DIR or
        ~/.cache/score_jax; "none": nothing is kept.

    Raises:
      InputError: of a precision that does not exist or a share out of (0, 1].
    """
    if matmul_precision not in PRECISIONS:
        raise InputError(
            f"device.matmul_precision {matmul_precision!r} does not exist: choose one of {', '.join(PRECISIONS)}"
        )
    if not 0 < memory_fraction <= 1:
        raise InputError(f"device.memory_fraction is a share above 0 and up to 1, got {memory_fraction}")
    if deterministic:
        _add_flag(_DETERMINISTIC)
    option, kind = _CONVOLUTIONS
    if option not in os.environ.get("XLA_FLAGS", "") and _computes_on_x86() and _jaxlib_knows(option, kind):
        _add_flag(f"--{option}=-{kind}")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", str(preallocate).lower())
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{memory_fraction:g}")
    if PRECISIONS[matmul_precision]:
        jax.config.update("jax_default_matmul_precision", PRECISIONS[matmul_precision])
    _keep_compilations(compile_cache)


def choose_products(dtype: str) -> None:
    """Lets XLA take what is fastest on this processor for networks of that kind, before the first array is made.

    Args:
      dtype: network.dtype; "bfloat16" is multiplied by oneDNN, on x86-64 with units for it and without an accelerator.
        XLA cannot write down such programs, so that the compile cache has none: they are compiled at every start.
    """
    if dtype == "bfloat16" and _has_bfloat16_units() and _computes_on_x86() and _jaxlib_knows(_ONEDNN):
        _add_flag(f"--{_ONEDNN}=true")
        # What JAX would say of each of them, which reads as if memory had run out
        warnings.filterwarnings("ignore", _NOT_KEPT)


def _has_bfloat16_units(listed: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux lists them; elsewhere it isn't known."""
    return listed.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(listed.read_text().split())


def _add_flag(flag: str) -> None:
    """Adds one of XLA's flags, unless the environment says something of it."""
    given = os.environ.get("XLA_FLAGS", "")
    if flag.split("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()


def _computes_on_x86() -> bool:
    """Whether this processor is what computes: x86-64, and no accelerator's plugin is there or it isn't asked for."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    plugins = util.find_spec("jax_plugins")
    paths = plugins.submodule_search_locations if plugins else None
    found = [*metadata.entry_points(group="jax_plugins"), *pkgutil.iter_modules(paths or ())]
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not (found or util.find_spec("libtpu"))


def _jaxlib_knows(*words: str) -> bool:
    """Whether all words are in jaxlib's code: a process whose XLA_FLAGS have others is ended by XLA."""
    for library in Path(jaxlib.__file__).parent.glob("*jax_common*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            if all(code.find(word.encode()) >= 0 for word in words):
                return True
    return False


def _keep_compilations(folder: str) -> None:
    if folder == NO_CACHE:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if folder or not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        path = Path(folder).expanduser() if folder else Path.home() / ".cache" / "score_jax"
        jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a start has a hundred small programs


def use_virtual_devices(n: int) -> None:
    """Lets JAX start with n devices, all of them this machine's processor: for programs that are compiled for a mesh.

    Args:
      n: how many; whatever XLA_FLAGS says of their number is replaced.
    """
    others = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(_HOST_DEVICES)]
    os.environ["XLA_FLAGS"] = " ".join([*others, f"{_HOST_DEVICES}={n}"])
    jax.config.update("jax_platforms", "cpu")


def require_device() -> None:
    """Starts JAX; raises InputError where it finds no device of the platform that the environment asks for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where CUDA's plugin is absent
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"JAX finds no device for JAX_PLATFORMS={asked!r}: install what it needs (pip install -e '.[cuda]' or "
            f"'.[tpu]'), or set JAX_PLATFORMS= to take what is there{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f" ({lines[0]})" if lines else ""


def in_force() -> dict[str, Any]:
    """Returns the settings that this process runs with: environment variables and JAX's own, where they are set."""
    variables = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    jax_says = jax.config.values
    return variables | {
        "matmul_precision": jax_says["jax_default_matmul_precision"] or "default",
        "compile_cache": jax_says["jax_compilation_cache_dir"] if jax_says["jax_enable_compilation_cache"] else None,
        "enable_x64": jax_says["jax_enable_x64"],
    }

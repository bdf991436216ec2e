"""What accelerators are said to do: published peaks, memory and bandwidths, of one device.

    PUBLISHED["h100"].peak("float32", "default")    # FLOP/s of products, dense: 4.947e14, by TF32

Peaks are those of dense products (NVIDIA's data sheets give twice that, of sparse ones). Memory is what the sheet says
in 10⁹ bytes, a little less than there is. `sends` is what a device sends to others of its node or slice, all links in
one direction: half of what sheets call the bidirectional bandwidth. Between nodes a network is slower by far.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_jax.lab.memory import available
from score_jax.types import InputError


class Accelerator(NamedTuple):
    """Figures of one device.

    Attributes:
      name: what it is called.
      bfloat16: FLOP/s of dense products of bfloat16.
      tf32: of float32 of device.matmul_precision tf32.
      float32: of full float32.
      default: which of these float32 is multiplied by where no precision is asked for.
      memory: bytes.
      bandwidth: of its memory, bytes/s.
      sends: bytes/s to the other devices.
      shared: whether a process takes device.memory_fraction of it, as of GPUs.
      source: of these figures.
    """

    name: str
    bfloat16: float
    tf32: float
    float32: float
    default: str
    memory: float
    bandwidth: float
    sends: float
    shared: bool
    source: str

    def unit(self, dtype: str, precision: str) -> str:
        """Returns by what products are computed: "bfloat16", "tf32" or "float32".

        Args:
          dtype: network.dtype.
          precision: device.matmul_precision.
        """
        if dtype == "bfloat16":
            return "bfloat16"
        return self.default if precision in ("default", "bfloat16") else precision

    def peak(self, dtype: str, precision: str) -> float:
        """Returns FLOP/s of products of these settings."""
        return {"bfloat16": self.bfloat16, "tf32": self.tf32, "float32": self.float32}[self.unit(dtype, precision)]


def _gpu(name: str, peaks: tuple[float, float, float], memory: float, bandwidth: float, sends: float) -> Accelerator:
    """Of TFLOP/s in bfloat16, TF32 and float32, GB, GB/s and GB/s."""
    bfloat16, tf32, float32 = (peak * 1e12 for peak in peaks)
    rest = (memory * 1e9, bandwidth * 1e9, sends * 1e9, True, "data sheet")
    return Accelerator(name, bfloat16, tf32, float32, "tf32", *rest)


def _tpu(name: str, bfloat16: float, memory: float, bandwidth: float, sends: float) -> Accelerator:
    """A TPU multiplies bfloat16 alone: precision tf32 takes three such products, float32 six."""
    peaks = (bfloat16 * 1e12, bfloat16 * 1e12 / 3, bfloat16 * 1e12 / 6)
    return Accelerator(
        name, *peaks, "bfloat16", memory * 1e9, bandwidth * 1e9, sends * 1e9, False, "Cloud TPU documentation"
    )


PUBLISHED = {
    # NVIDIA V100 SXM2 32 GB data sheet; neither bfloat16 nor TF32: both are computed in float32. NVLink 300 GB/s
    "v100": _gpu("NVIDIA V100 SXM2 32 GB", (15.7, 15.7, 15.7), 32, 900, 150),
    # NVIDIA A100 data sheet. NVLink 600 GB/s
    "a100-40gb": _gpu("NVIDIA A100 SXM4 40 GB", (312, 156, 19.5), 40, 1555, 300),
    "a100": _gpu("NVIDIA A100 SXM4 80 GB", (312, 156, 19.5), 80, 2039, 300),
    # NVIDIA H100 Tensor Core GPU architecture white paper, SXM5. NVLink 900 GB/s
    "h100": _gpu("NVIDIA H100 SXM5 80 GB", (989.4, 494.7, 66.9), 80, 3350, 450),
    # NVIDIA H200 data sheet: the H100's processor with more memory
    "h200": _gpu("NVIDIA H200 SXM5 141 GB", (989.4, 494.7, 66.9), 141, 4800, 450),
    # NVIDIA Ada GPU architecture white paper; of products summed in float32. PCIe 4.0 × 16
    "rtx-4090": _gpu("NVIDIA GeForce RTX 4090", (165.2, 82.6, 82.6), 24, 1008, 32),
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Links: 2400, 1600, 4800 and 3200 Gbit/s a chip
    "tpu-v4": _tpu("TPU v4", 275, 32, 1200, 300),
    "tpu-v5e": _tpu("TPU v5e", 197, 16, 819, 200),
    "tpu-v5p": _tpu("TPU v5p", 459, 95, 2765, 600),
    "tpu-v6e": _tpu("TPU v6e", 918, 32, 1640, 400),
}
HERE = "cpu"


def accelerator(name: str, devices: int) -> Accelerator:
    """Returns the figures of an accelerator; of "cpu", measured, those of a share of this machine.

    Args:
      name: one of `PUBLISHED`, or "cpu".
      devices: how many share this machine.

    Raises:
      InputError: of a name that is none.
    """
    if name == HERE:
        return _this_machine(devices)
    if name not in PUBLISHED:
        raise InputError(f"--device={name} is not known: choose one of {', '.join([*PUBLISHED, HERE])}")
    return PUBLISHED[name]


def _this_machine(devices: int) -> Accelerator:
    peak, bandwidth = gemm_peak() / devices, copy_bandwidth() / devices
    where = f"this machine's processor ({os.cpu_count()} cores), 1/{devices} of it"
    return Accelerator(
        where, peak, peak, peak, "float32", available() / devices, bandwidth, bandwidth, False, "measured here"
    )


def gemm_peak(size: int = 1024) -> float:
    """Returns FLOP/s of a product of square matrices here, the best of five."""
    matrix = jnp.ones((size, size))
    return 2 * size**3 / _shortest(jax.jit(lambda x: x @ x), matrix)


def copy_bandwidth(size: int = 2**25) -> float:
    """Returns bytes/s that are read and written here, of an array too large for a cache."""
    array = jnp.ones(size // 4, jnp.float32)
    return 2 * size / _shortest(jax.jit(lambda x: x + 1), array)


def _shortest(program: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(program(x))
        times.append(time.perf_counter() - start)
    return min(times[1:])

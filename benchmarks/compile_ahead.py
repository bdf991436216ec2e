"""Compiles every network family's programs for an accelerator that is not there: do they, and what do they need?

    python benchmarks/compile_ahead.py --target=tpu-v5e    # needs libtpu:       pip install libtpu
    python benchmarks/compile_ahead.py --target=h100       # needs JAX for CUDA: pip install 'jax[cuda13]'

XLA compiles for a description of a device, so this shows what a device would refuse, how much memory a train step and
a sampling call take at each batch size, and whether anything in them goes back to the host. It runs nothing: it says
nothing of speed or of numbers, and what a GPU's library chooses on the spot, kernels and their workspace, is not in it.
Memory is XLA's account: arguments, results and temporaries. Rows are written to --json as they come; what is there is
not compiled again.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from checks import peers, programs, throughput
from checks.item import Row, Scale
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from timing import table

from score_jax import training

# The H100 SXM as CUDA reports it: what XLA asks of a GPU before it compiles for it.
_H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  platform_version: "Compute Capability 9.0a"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
TARGETS: dict[str, Callable[[], Any]] = {
    "tpu-v5e": lambda: topologies.get_topology_desc("v5e:2x2", "tpu").devices[0],
    "h100": lambda: topologies.get_topology_desc(platform="cuda", target_config=_H100, topology="1x1x1").devices[0],
}
BATCHES = {"adm": (16, 32), **dict.fromkeys(("ddpm", "ddpmpp", "ncsnpp", "edm", "ncsn", "ncsnv2"), (128, 256))}
_STEPS = 4
# What a compiled program would wait for the host with
_HOST = re.compile(r"\b(infeed|outfeed|send|recv|SendToHost|RecvFromHost|xla_python\w*callback)\b")


def cells(names: list[str], tiny: bool) -> Iterator[tuple[str, str, int]]:
    """Yields family, dtype and batch size."""
    for dtype in ("bfloat16", "float32"):
        for name in names:
            for batch in (4,) if tiny else BATCHES[name][: None if dtype == "bfloat16" else 1]:
                yield name, dtype, batch


def compile_cell(device: jax.Device, name: str, dtype: str, batch: int, tiny: bool) -> Row:
    """Compiles the train step and the sampling call of a family."""
    peer = peers.PEERS[name](tiny, dtype=peers.DTYPES[dtype])
    placement, values = training.make_placement(devices=[device]), peers.variables(peer)
    there = partial(_placed, sharding=SingleDeviceSharding(device))
    state, batches = peers.state(peer, values), peers.batches(peer, batch)
    step = programs.compiled(peers.train_step(peer, peers.model(peer, values), placement), *_shapes((state, batches)))
    args = there((jax.random.key(0), peers.model(peer, values)))
    draw = programs.compiled(jax.jit(peers.draw(peer, batch, _STEPS)), *args)
    return {
        "family": name,
        "dtype": dtype,
        "batch": batch,
        "train step, GiB": step.memory / 2**30,
        "sampling, GiB": draw.memory / 2**30,
        "waits for the host": "yes" if any(_HOST.search(p.call.as_text() or "") for p in (step, draw)) else "no",
        "compiling both, s": step.compile_seconds + draw.compile_seconds,
    }


def compile_attention(device: jax.Device) -> Iterator[Row]:
    """Compiles forward and gradient of one attention layer, ours and cuDNN's fused one, in bfloat16."""
    for name, (shape, how) in throughput.attentions(Scale(tiny=False)).items():
        if how == "jax.nn":
            continue
        qkv = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=SingleDeviceSharding(device)),) * 3
        program = programs.compiled(jax.jit(throughput.attention_gradient(how)), *qkv)
        yield {"attention": name, "batch": shape[0], "forward and gradient, GiB": program.memory / 2**30}


def _shapes(tree: Any) -> Any:
    return jax.eval_shape(lambda tree: tree, tree)


def _placed(tree: Any, sharding: Any) -> Any:
    """The shapes of a tree, on a device that is not there."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), _shapes(tree))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True, help="what to compile for")
    parser.add_argument("--only", nargs="+", choices=BATCHES, default=list(BATCHES), help="families")
    parser.add_argument("--attention", action="store_true", help="one layer of attention, in place of the families")
    parser.add_argument("--tiny", action="store_true", help="small networks: to see that it runs")
    parser.add_argument("--json", type=Path, help="file of the families' rows")
    options = parser.parse_args()
    device = TARGETS[options.target]()
    rows = list(compile_attention(device)) if options.attention else compile_families(device, options)
    print(f"{table(rows)}\n\n{device.device_kind}, compiled for and not run; jax {jax.__version__}")


def compile_families(device: Any, options: argparse.Namespace) -> list[Row]:
    """Compiles what is not in the file of rows yet, and adds it there."""
    path = options.json
    rows = json.loads(path.read_text()) if path and path.exists() else []
    there = {(row["family"], row["dtype"], row["batch"]) for row in rows}
    for cell in cells(options.only, options.tiny):
        if cell in there:
            continue
        rows.append(compile_cell(device, *cell, tiny=options.tiny))
        if path:
            path.write_text(json.dumps(rows, indent=1) + "\n")
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()

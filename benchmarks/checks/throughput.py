"""Stage "throughput": images a second of training and sampling, and what decides them.

Training is the project's own step; where the loop is measured, the project's own loop too, with loading, transfer,
logging and a last checkpoint. The share of the peak is the operations of a step, as XLA counts them, over those that
this device makes in a large matrix product of the same kind, measured in the same run.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from checks import peers, programs
from checks.families import Sampling, Timed, Training
from checks.item import Item, Row, Scale
from score_jax import training
from score_jax.networks.attention import attend
from score_jax.training.logging import read_jsonl

NETWORKS = ("ddpm", "ddpmpp", "ncsnpp", "edm")
# What float32 products are made of: TF32 exists on NVIDIA GPUs only, elsewhere it is what the device has instead.
PRECISIONS = {"bfloat16": "default", "TF32": "tensorfloat32", "float32": "highest"}
_CALLS = 10  # steps of a sampling call


def items(scale: Scale) -> list[Item]:
    """Returns the items, what says most first."""
    batch = 4 if scale.tiny else 128
    networks, kinds = (("ddpm",), ("bfloat16",)) if scale.tiny else (NETWORKS, tuple(PRECISIONS))
    nets = list(itertools.product(kinds, networks))
    layouts = itertools.product(("NHWC", "NCHW"), kinds)
    tried = [
        *((f"matrix product, {kind}", _product, (kind,)) for kind in kinds),
        *((f"training {name}, {kind}, batch {batch}", _train, (name, kind, batch)) for kind, name in nets),
        *((f"sampling {name}, {kind}, batch {batch}", _sample, (name, kind, batch)) for kind, name in nets),
        *((f"loop, {k} steps a dispatch", _loop, (k, batch)) for k in ((1,) if scale.tiny else (1, 8, 32))),
        *((f"attention, {name}", _attention, (name,)) for name in attentions(scale)),
        *((f"convolution, {layout}, {kind}", _convolution, (layout, kind)) for layout, kind in layouts),
        *((f"largest batch of {name}", _largest, (name,)) for name in networks),
    ]
    return [Item(name, partial(_named, name, measure, *args, scale)) for name, measure, args in tried]


def _named(name: str, measure: Callable[..., Row], *args: Any) -> Row:
    """A row of the stage's table, which has one set of columns."""
    columns = ("images/s", "ms", "TFLOP/s", "share of peak", "memory, GiB", "compiling, s", "note")
    return {"what": name, **dict.fromkeys(columns, ""), **measure(*args)}


def _of_program(timed: Timed, images: int, peak: float | None = None) -> Row:
    """The columns of a program whose call makes `images` images."""
    program, made = timed.program, timed.program.flops / timed.seconds
    columns = {
        "images/s": images / timed.seconds,
        "ms": 1e3 * timed.seconds,
        "TFLOP/s": made / 1e12,
        "memory, GiB": program.memory / 2**30,
        "compiling, s": program.compile_seconds,
    }
    return columns | ({"share of peak": made / peak} if peak else {})


def _timed(function: Callable[..., Any], args: tuple[Any, ...], scale: Scale) -> Timed:
    """Compiles a function and times its calls on the same arguments."""
    program = programs.compiled(jax.jit(function), *args)
    return Timed(program, 1 / programs.rate(lambda: program.call(*args), scale.seconds))


@cache
def _peak(kind: str, scale: Scale) -> float:
    """Operations a second of a large matrix product; those of float32 without any shortcut for "float32"."""
    n = 256 if scale.tiny else 8192
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) for i in range(2))
    with jax.default_matmul_precision(PRECISIONS[kind]):
        timed = _timed(jnp.matmul, (a, b), scale)
    return 2 * n**3 / timed.seconds


def _product(kind: str, scale: Scale) -> Row:
    return {"TFLOP/s": _peak(kind, scale) / 1e12, "share of peak": 1.0}


def _peer(name: str, kind: str, scale: Scale, **options: Any) -> peers.Peer:
    return peers.PEERS[name](scale.tiny, dtype=peers.DTYPES["bfloat16" if kind == "bfloat16" else "float32"], **options)


def _train(name: str, kind: str, batch: int, scale: Scale) -> Row:
    with jax.default_matmul_precision(PRECISIONS[kind]):
        step = Training(_peer(name, kind, scale), batch)
    return _of_program(step.timed(scale.seconds), batch, _peak(kind, scale))


def _sample(name: str, kind: str, batch: int, scale: Scale) -> Row:
    peer = _peer(name, kind, scale)
    with jax.default_matmul_precision(PRECISIONS[kind]):
        program, seconds = Sampling(peer, batch, _CALLS).timed(scale.seconds)
    calls = peers.calls(peer, _CALLS)
    # Operations are of one step of the loop, whose body XLA counts once.
    columns = _of_program(Timed(program, seconds / (len(peer.grid(_CALLS)) - 1)), batch, _peak(kind, scale))
    return columns | {"images/s": batch * calls / seconds, "ms": 1e3 * seconds / calls, "note": "of a network call"}


class _Images:
    """Endless batches as a loader yields them, made once: the loop is measured, not the reading of files."""

    def __init__(self, batches: dict[str, Any]):
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return self._batches

    def get_state(self) -> dict[str, Any]:
        """The position; there is none."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a position."""


def _loop(k: int, batch: int, scale: Scale) -> Row:
    """k steps a dispatch: the project's loop against the bare step, launched again and again on the same batches."""
    peer = _peer("ddpm", "bfloat16", scale)
    step = Training(peer, batch, k)
    bare = k * programs.rate(step, scale.seconds)
    steps = k * max(3, int(3 * scale.seconds * bare / k))
    images = _Images(peers.batches(peer, batch, k))
    state = peers.state(peer, peers.variables(peer))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        training.train(
            state, step.program.call, images, workdir=folder, config={"benchmark": k}, placement=step.placement,
            steps=steps, steps_per_dispatch=k, log_every=k, checkpoint_every=steps, progress=False,
        )  # fmt: skip
        whole = time.perf_counter() - start
        rates = [r["examples_per_second"] for r in read_jsonl(Path(folder) / "metrics.jsonl")]
    looped = len(rates[1:]) / sum(1 / r for r in rates[1:]) / batch
    more = f"{bare / looped:.3f} of the bare step's time; {steps} steps with start and checkpoint {whole:.1f} s"
    return {"images/s": batch * looped, "ms": 1e3 / looped, "note": more}


def attentions(scale: Scale) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes (B, N, heads, d) of attention: 16×16 with heads of 128, the largest that cuDNN takes, and ADM's 32×32."""
    shapes = {"16×16, 2 heads of 128": (128, 256, 2, 128), "32×32, 6 heads of 64": (32, 1024, 6, 64)}
    shapes = {"4×4, 2 heads of 8": (2, 16, 2, 8)} if scale.tiny else shapes
    return {f"{name}, {how}": (shape, how) for name, shape in shapes.items() for how in ("ours", "jax.nn", "cudnn")}


def _attention(name: str, scale: Scale) -> Row:
    """Forward and gradient of one layer in bfloat16: ours, `jax.nn.dot_product_attention`, and cuDNN's."""
    shape, how = attentions(scale)[name]
    if how == "cudnn" and jax.default_backend() != "gpu":
        return {"note": "NVIDIA GPUs only"}
    qkv = tuple(jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    return _of_program(_timed(attention_gradient(how), qkv, scale), shape[0])


def attention_gradient(how: str) -> Callable[..., Any]:
    """Returns `(q, k, v) -> gradients` of attention as it is computed by "ours", "jax.nn" or "cudnn"."""
    compute = {
        "ours": attend,
        "jax.nn": jax.nn.dot_product_attention,
        "cudnn": partial(jax.nn.dot_product_attention, implementation="cudnn"),
    }[how]
    gradient = jax.grad(lambda qkv: (compute(*qkv).astype(jnp.float32) ** 2).sum())
    return lambda *qkv: gradient(qkv)


def _convolution(layout: str, kind: str, scale: Scale) -> Row:
    """Forward and gradients of a 3×3 convolution of 128 channels on 32×32 pixels."""
    batch, side, channels = (2, 8, 8) if scale.tiny else (128, 32, 128)
    shape = {"N": batch, "H": side, "W": side, "C": channels}
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    x = jax.random.normal(jax.random.key(0), tuple(shape[axis] for axis in layout), dtype)
    w = jax.random.normal(jax.random.key(1), (3, 3, channels, channels), dtype)

    def loss(x, w):
        h = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=(layout, "HWIO", layout))
        return (h.astype(jnp.float32) ** 2).sum()

    with jax.default_matmul_precision(PRECISIONS[kind]):
        timed = _timed(jax.grad(loss, (0, 1)), (x, w), scale)
    return _of_program(timed, batch, _peak(kind, scale))


def _largest(name: str, scale: Scale) -> Row:
    """The largest power of two whose train step in bfloat16 fits the device by XLA's account of it, and is then run."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return {"note": "this device does not say how much memory it has"}
    peer, limit, batch = _peer(name, "bfloat16", scale), stats["bytes_limit"], 256
    step = Training(peer, batch)
    while step.program.memory * 2 < 0.95 * limit:
        batch *= 2
        del step
        step = Training(peer, batch)
    return _of_program(step.timed(scale.seconds), batch, _peak("bfloat16", scale)) | {"note": f"batch {batch}"}

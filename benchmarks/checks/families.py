"""Stage "families": a training step and a sampling call of every network family, in float32 and bfloat16.

float32 is the device's default: TF32 products on NVIDIA GPUs from Ampere on, bfloat16 ones on TPUs.
"""

from functools import partial
from typing import Any, NamedTuple

import jax

from checks import peers, programs
from checks.item import Item, Row, Scale
from checks.programs import Program
from score_jax import training

_STEPS = 4  # of a sampling call


def items(scale: Scale) -> list[Item]:
    """Returns an item for each family and dtype, the first of every family before the second; tiny, two of them."""
    pairs = [(name, dtype) for dtype in ("bfloat16", "float32") for name in peers.PEERS]
    if scale.tiny:
        pairs = [("ddpm", "bfloat16"), ("ncsnpp", "float32")]  # a CPU compiles each for twenty seconds
    return [Item(f"{name}, {dtype}", partial(_family, name, dtype, scale)) for name, dtype in pairs]


def _family(name: str, dtype: str, scale: Scale) -> Row:
    peer = peers.PEERS[name](scale.tiny, dtype=peers.DTYPES[dtype])
    batch = 4 if scale.tiny else 16 if name == "adm" else 64
    step, draw = Training(peer, batch), Sampling(peer, batch, _STEPS)
    updated, drawn = step.timed(0.0), draw.timed(0.0)
    return {
        "family": name,
        "dtype": dtype,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(step.state.params)),
        "batch": batch,
        "step, ms": 1e3 * updated.seconds,
        "compiling it, s": step.program.compile_seconds,
        "its memory, GiB": step.program.memory / 2**30,
        "network call, ms": 1e3 * drawn.seconds / peers.calls(peer, _STEPS),
        "compiling the sampler, s": draw.program.compile_seconds,
        "finite": programs.is_finite((step.state, draw())) and int(step.state.failures) == 0,
    }


class Timed(NamedTuple):
    """A program and how long a call takes."""

    program: Program
    seconds: float


class Training:
    """A compiled train step with its state on the device: each call makes `steps` updates on the same batches."""

    def __init__(self, peer: peers.Peer, batch: int, steps: int = 1):
        values = peers.variables(peer)
        self.placement = training.make_placement(devices=jax.devices()[:1])
        self.state = training.place(peers.state(peer, values), self.placement)
        self.batches = training.put_batches(peers.batches(peer, batch, steps), self.placement.mesh)
        step = peers.train_step(peer, peers.model(peer, values), self.placement)
        self.program = programs.compiled(step, self.state, self.batches)

    def __call__(self) -> Any:
        self.state, report = self.program.call(self.state, self.batches)
        return report

    def timed(self, seconds: float) -> Timed:
        """Returns the time of a call, in windows of so many seconds."""
        return Timed(self.program, 1 / programs.rate(self, seconds))


class Sampling:
    """A compiled sampling call of some steps, with its model on the device."""

    def __init__(self, peer: peers.Peer, batch: int, steps: int):
        self._model, self._key = jax.device_put(peers.model(peer, peers.variables(peer))), jax.random.key(0)
        self.program = programs.compiled(jax.jit(peers.draw(peer, batch, steps)), self._key, self._model)

    def __call__(self) -> jax.Array:
        return self.program.call(self._key, self._model)

    def timed(self, seconds: float) -> Timed:
        """Returns the time of a call, in windows of so many seconds."""
        return Timed(self.program, 1 / programs.rate(self, seconds))

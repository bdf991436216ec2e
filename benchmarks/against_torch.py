"""The same networks on the same processor in PyTorch and in score_jax: forward pass, training, sampling, peak memory.

    pip install -e '.[peers]'
    python benchmarks/against_torch.py --json FILE

They are diffusers' `UNet2DModel` of 6,472,195 parameters (32×32×3, widths 64, 128, 128, two blocks a level, attention
at 16×16) and NCSN of 7,638,657 (28×28×1, 64 features, ten levels; `ncsn_in_torch`). `score_jax.interop` loads their
weights, and outputs are compared before anything is timed. PyTorch runs eagerly and channels last, which on a CPU is
its faster layout; bfloat16 is its autocast. Training is forward pass, squared error, backward pass, clipping of the
gradient's norm and Adam on a batch of 32. XLA's options are those that the commands set (`backend.configure` and, in a
process of its own for bfloat16, `backend.choose_products`), threads those that both take by themselves. Samples are 8
at a time, by diffusers' schedulers and by ours: 50 steps of DDIM, 18 of Heun, the first 50 of 1,000 ancestral steps;
and of NCSN by annealed Langevin dynamics, 5 steps at each of the ten levels; as images × network calls a second.

Both take turns, and the ratio is the median over the pairs: above 1, score_jax is faster. Of each, the peak memory of
three training steps in float32 is that of a fresh process beyond what it held with the network loaded.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, UNet2DModel
from memory import peak_mib
from ncsn_in_torch import NCSN
from timing import Row, alternate, child, compare, main, peak, prepared, seconds

from score_jax import arrays, backend, interop, sampling
from score_jax.lab.planning.flops import flops
from score_jax.sampling import grids
from score_jax.score import ScoreModel

BATCH, SAMPLES = 32, 8
_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
_KINDS = {"f32": jnp.float32, "bf16": jnp.bfloat16}
_GRIDS = {  # name: how many steps, of how many
    "50 steps of DDIM": (50, 50),
    "18 steps of Heun": (18, 18),
    "50 of 1,000 ancestral steps": (50, 1000),
}
_SCHEDULERS = dict(zip(_GRIDS, (DDIMScheduler, HeunDiscreteScheduler, DDPMScheduler), strict=True))
_SAMPLERS = dict(zip(_GRIDS, (sampling.ddim, sampling.heun, sampling.ancestral), strict=True))
_LEVELS, _EACH, _STEP_SIZE = np.geomspace(1, 0.01, 10), 5, 2e-5  # of NCSN: as published, but for 100 steps each

InTorch = Callable[[Any], Callable[[], int]]  # of a peer: what draws, and returns how often it called the network
InJax = Callable[[ScoreModel], tuple[Callable[[], jax.Array], int]]


class Peer(NamedTuple):
    """A network in PyTorch, how its output is had, where its weights lie and of what kind, and what it is given."""

    network: torch.nn.Module
    output: Callable[[Any], torch.Tensor]
    path: Path
    source: str
    shape: tuple[int, ...]
    conditions: int

    def batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns images, what is to be predicted of them, and timesteps or indices of levels."""
        rng = np.random.default_rng(0)
        x, eps = rng.normal(size=(2, BATCH, *self.shape)).astype(np.float32)
        return x, eps, rng.integers(0, self.conditions, BATCH)


def unet(folder: Path) -> Peer:
    """Returns diffusers' network, written as diffusers does with a DDPM scheduler beside it, where it isn't yet."""
    if not folder.exists():
        torch.manual_seed(0)
        UNet2DModel(**_CONFIG).save_pretrained(folder / "unet")
        DDPMScheduler().save_pretrained(folder / "scheduler")
    network = UNet2DModel.from_pretrained(folder / "unet").train().to(memory_format=torch.channels_last)
    return Peer(network, lambda found: found.sample, folder, "diffusers", (32, 32, 3), 1000)


def ncsn(path: Path) -> Peer:
    """Returns NCSN, written as its published checkpoints are."""
    torch.manual_seed(0)
    network = NCSN(64, 1, len(_LEVELS))
    torch.save([network.state_dict()], path)
    network = network.to(memory_format=torch.channels_last)
    return Peer(network, lambda found: found, path, "ncsn", (28, 28, 1), len(_LEVELS))


def cast(kind: str) -> AbstractContextManager:
    """Returns PyTorch's way to compute in that precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Returns NHWC images as PyTorch has them, in its faster layout."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def in_torch(peer: Peer, kind: str) -> tuple[Callable[[], torch.Tensor], Callable[[], float]]:
    """Returns a forward pass and a training step of a copy of the network."""
    network = copy.deepcopy(peer.network)
    x, eps, conditions = peer.batch()
    inputs, targets, given = channels_first(x), channels_first(eps), torch.from_numpy(conditions)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4)

    def forward() -> torch.Tensor:
        with torch.inference_mode(), cast(kind):
            return peer.output(network(inputs, given))

    def train() -> float:
        adam.zero_grad()
        with cast(kind):
            loss = torch.nn.functional.mse_loss(peer.output(network(inputs, given)).float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        return loss.item()

    return forward, train


def in_jax(peer: Peer, kind: str) -> tuple[Callable[[], jax.Array], int, Callable[[], jax.Array], int]:
    """Returns the same, compiled, each with its operations."""
    module, variables = interop.load(peer.path, source=peer.source)
    module = module.clone(dtype=_KINDS[kind])
    x, eps, given = map(jnp.asarray, peer.batch())
    apply, of_apply = prepared(jax.jit(module.apply), variables, x, given)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))

    @partial(jax.jit, donate_argnums=0)
    def step(state):
        params, moments = state

        def loss(params):
            return jnp.mean((module.apply({**variables, "params": params}, x, given).astype(jnp.float32) - eps) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    params = jax.tree.map(jnp.copy, variables["params"])
    held = [(params, optimizer.init(params))]
    compiled, of_step = prepared(step, held[0])

    def train() -> jax.Array:
        held[0], loss = compiled(held[0])
        return loss

    return lambda: apply(variables, x, given), of_apply, train, of_step


def schedule_in_torch(peer: Peer, name: str) -> Callable[[], int]:
    """Returns what draws samples by one of diffusers' schedulers and returns how often it called the network."""
    (first, steps), scheduler, network = _GRIDS[name], _SCHEDULERS[name](), peer.network

    def draw() -> int:
        scheduler.set_timesteps(steps)
        ts = scheduler.timesteps if first == steps else scheduler.timesteps[:first]
        x = torch.randn(SAMPLES, 3, 32, 32).contiguous(memory_format=torch.channels_last) * scheduler.init_noise_sigma
        with torch.inference_mode():
            for t in ts:
                x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
        return len(ts)

    return draw


def schedule_in_jax(model: ScoreModel, name: str) -> tuple[Callable[[], jax.Array], int]:
    """Returns the same as one compiled program, and its calls."""
    (first, steps), shape = _GRIDS[name], (SAMPLES, 32, 32, 3)
    ts = grids.uniform(model.sde, steps + 1)[: first + 1]

    @jax.jit
    def draw(key, model):
        x = model.sde.prior_sample(key, shape)
        return sampling.sample(key, _SAMPLERS[name](model.sde, model), x, ts)

    keys = arrays.example_keys(jax.random.key(0), SAMPLES)
    return lambda: draw(keys, model), first * _SAMPLERS[name](model.sde, model).calls


def annealed_in_torch(peer: Peer) -> Callable[[], int]:
    """Returns what draws samples of NCSN by annealed Langevin dynamics, and returns how often it called the network."""

    def draw() -> int:
        x = torch.rand(SAMPLES, 1, 28, 28)
        with torch.inference_mode():
            for level, sigma in enumerate(_LEVELS):
                given = torch.full((SAMPLES,), level)
                step = _STEP_SIZE * float(sigma / _LEVELS[-1]) ** 2
                for _ in range(_EACH):
                    x = x + step / 2 * peer.network(x, given) + step**0.5 * torch.randn_like(x)
        return len(_LEVELS) * _EACH

    return draw


def annealed_in_jax(model: ScoreModel) -> tuple[Callable[[], jax.Array], int]:
    """Returns the same as one compiled program, and its calls."""
    ts = grids.levels(model.sde, _LEVELS)

    @jax.jit
    def draw(key, model):
        x = jax.random.uniform(key[0], (SAMPLES, 28, 28, 1))
        sampler = sampling.annealed_langevin(model.sde, model, step_size=_STEP_SIZE, n_steps=_EACH)
        return sampling.sample(key, sampler, x, ts)

    keys = arrays.example_keys(jax.random.key(0), SAMPLES)
    return lambda: draw(keys, model), len(_LEVELS) * _EACH


SCHEDULES = {name: (partial(schedule_in_torch, name=name), partial(schedule_in_jax, name=name)) for name in _GRIDS}
ANNEALED = {"NCSN, annealed Langevin": (annealed_in_torch, annealed_in_jax)}


def row(
    what: str, theirs: Callable[[], Any], ours: Callable[[], Any], units: tuple[int, int], least: float, pairs: int
) -> Row:
    """Times both in turns.

    Args:
      what: for the table.
      theirs: a run in PyTorch.
      ours: the same here.
      units: images, times calls, of one run of each.
      least: seconds that one of our units would take at the speed of products of matrices.
      pairs: how many turns.
    """
    ours(), theirs()
    a, b, ratio = compare(*alternate(lambda: seconds(theirs) / units[0], lambda: seconds(ours) / units[1], pairs))
    rates = {"PyTorch, images/s": 1 / a, "score_jax, images/s": 1 / b, "ratio": ratio}
    return {"what": what, **rates, "share of products": least / b}


def passes(peer: Peer, kind: str, prefix: str, pairs: int, of_products: float) -> Iterator[Row]:
    """Rows of forward pass and training."""
    (forward, train), (our_forward, of_forward, our_train, of_train) = in_torch(peer, kind), in_jax(peer, kind)
    least = [operations / BATCH / of_products for operations in (of_forward, of_train)]
    expected = forward().float().permute(0, 2, 3, 1).numpy()
    error = np.abs(np.asarray(our_forward()) - expected).max() / np.abs(expected).max()
    assert error < {"f32": 1e-4, "bf16": 0.1}[kind], f"the networks differ by {error:.1e}"
    yield row(f"{prefix}forward {kind}", forward, our_forward, (BATCH, BATCH), least[0], pairs)
    yield row(f"{prefix}train {kind}", train, our_train, (BATCH, BATCH), least[1], pairs)


def draws(peer: Peer, by: Mapping[str, tuple[InTorch, InJax]], pairs: int, of_products: float) -> Iterator[Row]:
    """Rows of sampling."""
    model, (x, _, given) = interop.score_model(peer.path, source=peer.source), peer.batch()
    forward = jax.make_jaxpr(model.apply)(model.variables, x, given, None, None)
    least = flops(forward) / BATCH / of_products
    for name, (in_torch, in_jax) in by.items():
        theirs, (ours, calls) = in_torch(peer), in_jax(model)
        yield row(f"{name}, f32", theirs, ours, (SAMPLES * theirs(), SAMPLES * calls), least, pairs)


def speeds(folder: Path, quick: bool) -> Iterator[Row]:
    """Rows of forward pass and training, then of sampling, of one network after the other."""
    (pairs, samplings), of_products = (1, 1) if quick else (7, 3), peak()
    first, second = unet(folder / "unet"), ncsn(folder / "ncsn.pth")
    yield from passes(first, "f32", "", pairs, of_products)
    yield from child(__file__, "bf16", str(folder), str(pairs))["rows"]
    yield from draws(first, SCHEDULES, samplings, of_products)
    yield from passes(second, "f32", "NCSN, ", pairs, of_products)
    yield from draws(second, ANNEALED, samplings, of_products)


def in_a_process(what: str, folder: str, pairs: str = "") -> Row:
    """Runs in a fresh process: the rows of bfloat16, whose options of XLA are others, or the memory of training."""
    if what != "bf16":
        return memory_of_training(what, folder)
    backend.choose_products("bfloat16")
    return {"rows": list(passes(unet(Path(folder) / "unet"), "bf16", "", int(pairs), peak()))}


def memory_of_training(library: str, folder: str) -> Row:
    """Returns the peak memory of three training steps, beyond that of the process with its network."""
    peer = unet(Path(folder) / "unet")
    if library == "torch":
        before, train = peak_mib(), in_torch(peer, "f32")[1]
    else:
        interop.load(peer.path, source=peer.source)
        before, train = peak_mib(), in_jax(peer, "f32")[2]
    for _ in range(3):
        float(train())
    return {"MiB": peak_mib() - before}


def measure(quick: bool) -> Row:
    """Returns rows, and of each its ratio by name."""
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for found in speeds(Path(name), quick):
            rows.append(found)
            print(*found.values(), flush=True)  # a quarter of an hour's work, of which something may fail
        theirs, ours = (child(__file__, library, name)["MiB"] for library in ("torch", "score_jax"))
    named = {
        r["what"]: {"torch": r["PyTorch, images/s"], "score_jax": r["score_jax, images/s"], "ratio": r["ratio"]}
        for r in rows
    }
    memory = {"torch": theirs, "score_jax": ours, "ratio": ours / theirs}
    return {"rows": rows, **named, "peak memory of training, MiB": memory}


if __name__ == "__main__":
    main(measure, __doc__, in_a_process)

"""The same network on the same processor in PyTorch and in score_jax: forward pass, training, sampling, peak memory.

    pip install -e '.[peers]'
    python benchmarks/against_torch.py --json FILE

The network is diffusers' `UNet2DModel` of 6,472,195 parameters (32×32×3, widths 64, 128, 128, two blocks a level,
attention at 16×16); `score_jax.interop` loads its weights, and outputs are compared before anything is timed. PyTorch
runs it eagerly and channels last, which on a CPU is its faster layout; bfloat16 is its autocast. Training is forward
pass, squared error, backward pass, clipping of the gradient's norm and Adam on a batch of 32. XLA's options are those
that the commands set (`backend.configure`). Samples are 8 at a time, by diffusers' schedulers and by ours: 50 steps of
DDIM, 18 of Heun, the first 50 of 1,000 ancestral steps, as images × network calls a second.

Both take turns, and the ratio is the median over the pairs: above 1, score_jax is faster. Of each, the peak memory of
three training steps in float32 is that of a fresh process beyond what it held with the network loaded.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, UNet2DModel
from memory import peak_mib
from timing import Row, alternate, child, compare, main, seconds

from score_jax import arrays, backend, interop, sampling
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


def saved(folder: Path) -> UNet2DModel:
    """Makes the network and writes it, with a DDPM scheduler beside it, as diffusers does."""
    torch.manual_seed(0)
    network = UNet2DModel(**_CONFIG)
    network.save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return network.to(memory_format=torch.channels_last)


def images(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images, what is to be predicted of them, and timesteps."""
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(2, n, 32, 32, 3)).astype(np.float32)
    return x, eps, rng.integers(0, 1000, n)


def cast(kind: str) -> AbstractContextManager:
    """Returns PyTorch's way to compute in that precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Returns NHWC images as PyTorch has them, in its faster layout."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def in_torch(network: UNet2DModel, kind: str) -> tuple[Callable[[], torch.Tensor], Callable[[], float]]:
    """Returns a forward pass and a training step of a copy of the network."""
    network = copy.deepcopy(network)
    x, eps, ts = images(BATCH)
    inputs, targets, steps = channels_first(x), channels_first(eps), torch.from_numpy(ts)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4)

    def forward() -> torch.Tensor:
        with torch.inference_mode(), cast(kind):
            return network(inputs, steps).sample

    def train() -> float:
        adam.zero_grad()
        with cast(kind):
            loss = torch.nn.functional.mse_loss(network(inputs, steps).sample.float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        return loss.item()

    return forward, train


def in_jax(folder: Path, kind: str) -> tuple[Callable[[], jax.Array], Callable[[], jax.Array]]:
    """Returns the same, compiled."""
    module, variables = interop.load(folder, source="diffusers")
    module = module.clone(dtype=_KINDS[kind])
    x, eps, ts = map(jnp.asarray, images(BATCH))
    apply = jax.jit(module.apply).lower(variables, x, ts).compile()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))

    @partial(jax.jit, donate_argnums=0)
    def step(state):
        params, moments = state

        def loss(params):
            return jnp.mean((module.apply({**variables, "params": params}, x, ts).astype(jnp.float32) - eps) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    params = jax.tree.map(jnp.copy, variables["params"])
    held = [(params, optimizer.init(params))]
    compiled = step.lower(held[0]).compile()

    def train() -> jax.Array:
        held[0], loss = compiled(held[0])
        return loss

    return lambda: apply(variables, x, ts), train


def schedule_in_torch(network: UNet2DModel, kind: str, name: str) -> Callable[[], int]:
    """Returns what draws samples by one of diffusers' schedulers and returns how often it called the network."""
    (first, steps), scheduler = _GRIDS[name], _SCHEDULERS[name]()

    def draw() -> int:
        scheduler.set_timesteps(steps)
        ts = scheduler.timesteps if first == steps else scheduler.timesteps[:first]
        x = torch.randn(SAMPLES, 3, 32, 32).contiguous(memory_format=torch.channels_last) * scheduler.init_noise_sigma
        with torch.inference_mode(), cast(kind):
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


def row(what: str, theirs: Callable[[], Any], ours: Callable[[], Any], units: tuple[int, int], pairs: int) -> Row:
    """Times both in turns; `units` are the images, times calls, of one run of each."""
    ours(), theirs()
    a, b, ratio = compare(*alternate(lambda: seconds(theirs) / units[0], lambda: seconds(ours) / units[1], pairs))
    return {"what": what, "PyTorch, images/s": 1 / a, "score_jax, images/s": 1 / b, "ratio": ratio}


def speeds(folder: Path, quick: bool) -> Iterator[Row]:
    """Rows of forward pass and training, then of sampling."""
    network, pairs = saved(folder), 1 if quick else 7
    for kind in _KINDS:
        (forward, train), (our_forward, our_train) = in_torch(network, kind), in_jax(folder, kind)
        expected = forward().float().permute(0, 2, 3, 1).numpy()
        error = np.abs(np.asarray(our_forward()) - expected).max() / np.abs(expected).max()
        assert error < {"f32": 1e-4, "bf16": 0.1}[kind], f"the networks differ by {error:.1e}"
        yield row(f"forward {kind}", forward, our_forward, (BATCH, BATCH), pairs)
        yield row(f"train {kind}", train, our_train, (BATCH, BATCH), pairs)
    model = interop.score_model(folder, source="diffusers")
    for name in _GRIDS:
        ours, calls = schedule_in_jax(model, name)
        theirs = schedule_in_torch(network, "f32", name)
        yield row(f"{name}, f32", theirs, ours, (SAMPLES * theirs(), SAMPLES * calls), 1 if quick else 3)


def memory_of_training(library: str, folder: str) -> Row:
    """Runs in a fresh process: peak memory of three training steps, beyond that of the process with its network."""
    if library == "torch":
        network = UNet2DModel.from_pretrained(Path(folder) / "unet").to(memory_format=torch.channels_last)
        before, train = peak_mib(), in_torch(network, "f32")[1]
    else:
        interop.load(folder, source="diffusers")
        before, train = peak_mib(), in_jax(Path(folder), "f32")[1]
    for _ in range(3):
        float(train())
    return {"MiB": peak_mib() - before}


def measure(quick: bool) -> Row:
    """Returns rows, and of each its ratio by name."""
    with tempfile.TemporaryDirectory() as name:
        rows = list(speeds(Path(name), quick))
        theirs, ours = (child(__file__, library, name)["MiB"] for library in ("torch", "score_jax"))
    named = {
        r["what"]: {"torch": r["PyTorch, images/s"], "score_jax": r["score_jax, images/s"], "ratio": r["ratio"]}
        for r in rows
    }
    memory = {"torch": theirs, "score_jax": ours, "ratio": ours / theirs}
    return {"rows": rows, **named, "peak memory of training, MiB": memory}


if __name__ == "__main__":
    backend.configure()
    main(measure, __doc__, memory_of_training)

"""Stage "torch": the same networks in PyTorch, side by side in one run.

The train step of PyTorch does what ours does: grey levels to numbers, flips, noise, the network with dropout, gradient,
clipping, Adam, the parameters' average. It is channels-last, compiled (`torch.compile`, but for tiny networks), and
under autocast for bfloat16; TF32 is on, as it is in JAX. The network call is one of sampling, without a gradient.

Both are timed in turns and the ratio is the median over the pairs: above 1, score_jax is faster. Where diffusers is
installed its `UNet2DModel` of DDPM's configuration has an item of its own.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from timing import alternate, compare

from checks import peers, programs
from checks.families import Training
from checks.item import Item, Row, Scale
from checks.throughput import NETWORKS

KINDS = ("bfloat16", "float32")
_DECAY = 0.9999


def items(scale: Scale) -> list[Item]:
    """Returns the items; without PyTorch all are left out."""
    names = ("ddpm",) if scale.tiny else NETWORKS
    pairs = itertools.product(KINDS, names)
    own = [Item(f"{name}, {kind}", partial(_compared, name, kind, scale), ("torch",)) for kind, name in pairs]
    theirs = partial(_compared, "ddpm", "bfloat16", scale, diffusers=True)
    return [*own, Item("ddpm of diffusers, bfloat16", theirs, ("torch", "diffusers"))]


def _compared(name: str, kind: str, scale: Scale, diffusers: bool = False) -> Row:
    peer = peers.PEERS[name](scale.tiny, dtype=peers.DTYPES[kind])
    batch = 4 if scale.tiny else 128
    values = peers.variables(peer)
    their_step, their_call = _in_torch(_network(peer, values, diffusers), peer, batch, kind, scale)
    our_step, our_call = _in_jax(peer, values, batch)
    pairs, seconds = 3, scale.seconds
    measure = lambda call: lambda: 1 / programs.rate(call, seconds, windows=1)
    ours, theirs, step = compare(*alternate(measure(our_step), measure(their_step), pairs))
    call_ours, call_theirs, call = compare(*alternate(measure(our_call), measure(their_call), pairs))
    return {
        "network": f"{name}{' of diffusers' * diffusers}",
        "kind": kind,
        "batch": batch,
        "train, PyTorch, images/s": batch / theirs,
        "train, score_jax, images/s": batch / ours,
        "train, ratio": 1 / step,
        "call, PyTorch, images/s": batch / call_theirs,
        "call, score_jax, images/s": batch / call_ours,
        "call, ratio": 1 / call,
    }


def _in_jax(peer: peers.Peer, values: Any, batch: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a train step and a network call, compiled, to be called again and again."""
    x = jnp.zeros((batch, *peer.shape))
    cond = jnp.ones(batch)
    program = programs.compiled(jax.jit(peer.module.apply), jax.device_put(values), x, cond)
    on_device = jax.device_put(values)
    return Training(peer, batch), lambda: program.call(on_device, x, cond)


def _network(peer: peers.Peer, values: Any, diffusers: bool) -> Any:
    if not diffusers:
        from checks import torch_networks

        network = torch_networks.unet(peer.module.clone(dtype=None), peer.shape[-1])
        torch_networks.load(network, values)
        return network
    return _of_diffusers(peer)


def _of_diffusers(peer: peers.Peer) -> Any:
    """The `UNet2DModel` of the same widths, as diffusers' own DDPM checkpoint of CIFAR-10 has it."""
    from diffusers import UNet2DModel
    from torch import nn

    module = peer.module
    levels = range(len(module.multipliers))
    network = UNet2DModel(
        sample_size=peer.shape[0],
        layers_per_block=module.blocks,
        block_out_channels=tuple(module.channels * m for m in module.multipliers),
        down_block_types=tuple("AttnDownBlock2D" if i in module.attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in module.attention else "UpBlock2D" for i in reversed(levels)),
        norm_num_groups=min(32, module.channels // module.group_channels),
        attention_head_dim=None,
        dropout=module.dropout,
    )

    class Sample(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, cond):
            return self.network(x, cond).sample

    return Sample()


def _in_torch(
    network: Any, peer: peers.Peer, batch: int, kind: str, scale: Scale
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a train step and a network call of a module, waiting for the device at their end."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    network = network.to(device, memory_format=torch.channels_last)
    average = [p.detach().clone() for p in network.parameters()]
    adam = torch.optim.Adam(network.parameters(), lr=2e-4, fused=device == "cuda")
    compiled = network if scale.tiny else torch.compile(network)
    cast = partial(torch.autocast, device, torch.bfloat16, enabled=kind == "bfloat16")
    images = torch.from_numpy(peers.batches(peer, batch)["x"][0]).permute(0, 3, 1, 2).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def step():
        network.train()
        x0 = images.float() / 127.5 - 1
        x0 = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, x0.flip(3), x0)
        t, eps = torch.rand(batch, device=device), torch.randn_like(x0)
        alpha = (1 - t).view(-1, 1, 1, 1)
        x = (alpha * x0 + (1 - alpha**2).sqrt() * eps).contiguous(memory_format=torch.channels_last)
        with cast():
            loss = ((compiled(x, 999 * t).float() - eps) ** 2).mean() / 2
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        torch._foreach_lerp_(average, list(network.parameters()), 1 - _DECAY)
        wait()

    x = torch.zeros(batch, *images.shape[1:], device=device).contiguous(memory_format=torch.channels_last)
    cond = torch.ones(batch, device=device)

    def call():
        network.eval()
        with torch.no_grad(), cast():
            compiled(x, cond)
        wait()

    return step, call

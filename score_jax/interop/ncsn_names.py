"""What `ermongroup/ncsn` and `ermongroup/ncsnv2` call the arrays of their networks, and how they lay them out."""

import functools
import re

import jax
import jax.numpy as jnp

from score_jax.interop.mapping import Entry, shapes
from score_jax.networks import NCSN, NCSNv2
from score_jax.networks.refinenet import LAYOUTS

# Names of layers here and there. {i}, {j}, {k} are numbers that the source has too, {I} and {J} those it counts from 1;
# {s} and {r} are stages and blocks of the head, which the source numbers {S} and {R}.
_LAYERS = [
    ("in", "begin_conv"),
    ("norm", "normalizer"),
    ("out", "end_conv"),
    ("stage_{s}_{k}/norm_{j}", "res{S}.{k}.normalize{J}"),
    ("stage_{s}_{k}/conv_{j}", "res{S}.{k}.conv{J}"),
    ("stage_{s}_{k}/shortcut", "res{S}.{k}.shortcut"),
    ("refine_{r}/adapt_{k}/{kind}_{i}_{j}", "refine{R}.adapt_convs.{k}.{I}_{J}_{kind}"),
    ("refine_{r}/fuse/{kind}_{i}", "refine{R}.msf.{kind}s.{i}"),
    ("refine_{r}/pool/{kind}_{i}", "refine{R}.crp.{kind}s.{i}"),
    ("refine_{r}/out/{kind}_{i}_{j}", "refine{R}.output_convs.{I}_{J}_{kind}"),
]
_NUMBERS = {
    "base": (["1", "2", "3", "4"], ["1", "2", "3", "4"]),
    "deeper": (["1", "2", "3", "4", "5"], ["1", "2", "3", "4", "5"]),
    "deepest": (["1", "2", "3", "31", "4", "5"], ["1", "2", "31", "3", "4", "5"]),
}
_ARRAYS = {  # name here: name there, axes here, axes there
    "kernel": ("weight", "HWIO", "OIHW"),
    "bias": ("bias", "O", "O"),
    "gamma": ("gamma", "1C", "C"),
    "alpha": ("alpha", "1C", "C"),
    "beta": ("beta", "1C", "C"),
    "embedding": ("embed.weight", "LC", "LC"),
    "sigmas": ("sigmas", "L", "L"),
}


@functools.lru_cache(maxsize=4)
def ncsn_entries(module: NCSN | NCSNv2) -> tuple[Entry, ...]:
    """Returns the names of every array of the network, here and in the source."""

    def entry(path: tuple[str, ...], shape: tuple[int, ...]) -> Entry:
        _, *layer, array = path
        name, ours, theirs = _ARRAYS[array]
        prefix = f"{_layer_name('/'.join(layer), module.depth)}." if layer else ""
        return Entry(path, shape, prefix + name, ours, theirs)

    image = jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32)
    return tuple(entry(*item) for item in shapes(module, image, jnp.zeros(1)).items())


def _layer_name(layer: str, depth: str) -> str:
    (stages, blocks), layout = _NUMBERS[depth], LAYOUTS[depth]
    for ours, theirs in _LAYERS:
        found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[a-z]+|\\d)", ours), layer)
        if found:
            numbers = {k: int(v) for k, v in found.groupdict().items() if v.isdigit()}
            from_one = {k.upper(): n + 1 for k, n in numbers.items() if k in "ij"}
            renumbered = {"S": stages[numbers.get("s", 0)], "R": blocks[numbers.get("r", 0)]}
            # Where a stage halves the size, the source's convolution is part of a module that takes means after it.
            halves = layer.endswith(("_0/conv_1", "_0/shortcut")) and layout.stages[numbers["s"]].halves
            return theirs.format(**found.groupdict(), **from_one, **renumbered) + (".conv" if halves else "")
    raise KeyError(layer)

"""What the devices of a compiled program exchange: its collectives, read from the text of the program.

An operand of b bytes on each of n devices that take part makes each of them send, in a ring,

    all-reduce  2b(n − 1)/n    all-gather  b(n − 1)    reduce-scatter, all-to-all  b(n − 1)/n    collective-permute  b

What a loop contains counts as often as the loop runs, where the compiler knows that, and else once; of a branch the
side that has more. Where gradients are reduced and cut, XLA's backend for CPUs has an all-reduce, of which each device
keeps its part, in place of a reduce-scatter.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
_SHAPE = re.compile(r"\b[a-z]+(\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_PARTITIONS = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")


class Collective(NamedTuple):
    """A collective of a program.

    Attributes:
      kind: of `KINDS`.
      operand: bytes on one device.
      devices: how many exchange with each other.
      times: how often a run of the program has it.
    """

    kind: str
    operand: int
    devices: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a run of the program, by the module's formulas."""
        n, moved = self.devices, self.operand * self.times
        factor = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1, "collective-permute": 1}
        return moved * factor.get(self.kind, (n - 1) / n)


class _Instruction(NamedTuple):
    result: str
    kind: str
    rest: str  # operands and attributes


_Computation: TypeAlias = dict[str, _Instruction]


def collectives(text: str) -> list[Collective]:
    """Returns the collectives among several devices of a program's `jax.jit(f).lower(…).compile().as_text()`."""
    computations, entry = _parsed(text)
    everyone = math.prod(int(n) for n in _PARTITIONS.findall(text.split("\n", 1)[0]))
    return [one for one in _within(computations, entry, everyone) if one.devices > 1]


def operand_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Returns the bytes of the operands on a device in a run of the program, by kind of collective."""
    total: Counter[str] = Counter()
    for one in found:
        total[one.kind] += one.operand * one.times
    return dict(total)


def _parsed(text: str) -> tuple[dict[str, _Computation], str]:
    """The computations by name, and the name of the first that runs."""
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            current = computations.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[1]] = _Instruction(*found.groups()[1:])
    return computations, entry


def _within(computations: Mapping[str, _Computation], name: str, everyone: int) -> list[Collective]:
    found: list[Collective] = []
    computation = computations.get(name, {})
    for instruction in computation.values():
        kind = instruction.kind.removesuffix("-start")
        if kind in KINDS:
            found.append(Collective(kind, _operand(computation, instruction), _devices(instruction.rest, everyone)))
            continue
        trips = _TRIPS.search(instruction.rest)
        for called in _CALLED.findall(instruction.rest):
            inner = _within(computations, called, everyone)
            found += [one._replace(times=one.times * int(trips[1] if trips else 1)) for one in inner]
        branches = re.findall(r"[\w.\-]+", " ".join(map(" ".join, _BRANCHES.findall(instruction.rest))))
        sides = [_within(computations, branch, everyone) for branch in branches]
        found += max(sides, key=lambda side: sum(one.sent for one in side), default=[])
    return found


def _operand(computation: _Computation, instruction: _Instruction) -> int:
    names = re.findall(r"%([\w.\-]+)", instruction.rest.partition("), ")[0])
    return sum(_bytes(computation[name].result) for name in names if name in computation)


def _bytes(shapes: str) -> int:
    """Of arrays, or of a tuple of them: "(f32[8,16]{1,0}, pred[])"."""
    width = lambda bits: (int(bits or 8) + 7) // 8  # a pred has no number
    size = lambda dims: math.prod(int(n) for n in dims.split(",") if n)
    return sum(width(bits) * size(dims) for bits, dims in _SHAPE.findall(shapes))


def _devices(rest: str, everyone: int) -> int:
    """How many devices a collective is among, by its first group, which is written in one of three ways."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'?([\w.]+)'?=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"[\w.]+", named[2]) if axis in sizes)
    if "source_target_pairs" in rest:
        return 2
    return everyone

"""A plan in words, with what is exact, what is a compiler's account and what is an estimate."""

import math

from score_jax.lab.memory import in_words
from score_jax.lab.planning.planned import Costs

_LAUNCHES = 1e-3  # seconds: what launching a step's hundreds of kernels may take
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def lines(plan: Costs, option: str) -> list[str]:
    """Returns the lines of a plan.

    Args:
      plan: what is told.
      option: the setting that rematerialises.
    """
    return [*_what(plan), *_memory(plan, option), *_step(plan), *_there(plan), *_fits(plan)]


def in_thousands(value: float, unit: str) -> str:
    """Returns "1.5 TFLOP" for a number of a unit."""
    exponent = min(max(int(math.log10(max(value, 1)) // 3), 0), len(_PREFIXES) - 1)
    return f"{value / 1000**exponent:.3g} {_PREFIXES[exponent]}{unit}"


def duration(seconds: float) -> str:
    """Returns seconds in the unit that suits them."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _row(name: str, value: str, note: str = "") -> str:
    return f"  {name:24} {value:>12}  {note}".rstrip()


def _what(plan: Costs) -> list[str]:
    batch = plan.needs.batch_size
    micro = f", in {plan.accumulation} micro-batches" if plan.accumulation > 1 else ""
    return [
        plan.summary,
        f"mesh data {plan.mesh['data']} × fsdp {plan.mesh['fsdp']}: {plan.devices} device(s), batch {batch:,}, "
        f"{batch // plan.devices:,} on each{micro}; {plan.parameters:,} parameters",
    ]


def _memory(plan: Costs, option: str) -> list[str]:
    memory = plan.needs.memory
    dispatch = f"{plan.steps_per_dispatch} step(s) a dispatch"
    compiled = "as XLA compiles for a CPU; another compiler's differ"
    rows = [
        "",
        "memory of a device",
        _row("parameters", in_words(memory.parameters), "exact, as all down to the batches"),
        _row("their average", in_words(memory.average)),
        _row("optimizer", in_words(memory.optimizer)),
        _row("step, key", in_words(memory.others)),
        _row("batches", in_words(memory.batches), dispatch),
        _row("temporaries", in_words(memory.temporaries), compiled),
        _row("together", in_words(memory.needed)),
    ]
    rows.append(f"  alive at once as traced, before a compiler fuses: {in_words(plan.alive)}")
    if plan.alive_otherwise is None:
        return [*rows, "  this network has no option to compute activations again (remat)"]
    flag = f"--config.{option}={not plan.rematerialised}"
    return [*rows, f"  with {flag}: {in_words(plan.alive_otherwise)} (XLA's compiler for CPUs undoes it, others don't)"]


def _step(plan: Costs) -> list[str]:
    flops, rows = plan.needs.flops, ["", "a step"]
    rows.append(_row("products", in_thousands(flops, "FLOP"), f"{in_thousands(flops / plan.devices, 'FLOP')} a device"))
    for kind, found in plan.needs.exchanged.items():
        rows.append(
            _row(kind, in_words(int(found.operands)), f"of each device, which sends {in_words(int(found.sent))}")
        )
    return rows if plan.needs.exchanged else [*rows, _row("exchanged", "nothing")]


def _there(plan: Costs) -> list[str]:
    on, seconds = plan.on, plan.seconds
    device = on.accelerator
    peak = f"{in_thousands(on.peak, 'FLOP/s')} of {on.unit}"
    return [
        "",
        f"on {device.name}: an estimate, nothing was run there",
        f"  {peak}, memory of {in_thousands(device.memory, 'B')} at {in_thousands(device.bandwidth, 'B/s')}, "
        f"{in_thousands(device.sends, 'B/s')} to others ({device.source})",
        _row(
            "a step",
            duration(seconds.step),
            f"{duration(seconds.products)} of products at {on.utilisation:g} of the peak (reading and writing the "
            f"state alone {duration(seconds.state)}), {duration(seconds.exchange)} of exchange"
            + (", and kernels' launches, which take longer" if seconds.step < _LAUNCHES else ""),
        ),
        _row("examples/s", f"{plan.needs.batch_size / seconds.step:,.4g}"),
        _row("the training", duration(plan.hours * 3600), f"{plan.steps:,} steps"),
    ]


def _fits(plan: Costs) -> list[str]:
    on = plan.on
    of = f" × {on.share:g}, device.memory_fraction," if on.share < 1 else ","
    limit = f"{in_words(int(on.limit))} ({in_words(int(on.accelerator.memory))}{of} less a reserve of {on.reserve:g})"
    needed = in_words(plan.needs.memory.needed)
    rows = ["", f"batch {plan.needs.batch_size:,} {'fits' if plan.fits else 'does not fit'}: {needed} of {limit}"]
    if not plan.largest:
        cure = "more devices along fsdp, a smaller network, or an accelerator with more memory"
        return [*rows, f"no batch fits, which takes {cure}"]
    whole = ", all examples at once," if plan.largest == plan.most and plan.most > plan.needs.batch_size else ""
    return [
        *rows,
        f"largest batch found to fit: {plan.largest:,}{whole} with {in_words(plan.largest_needed)}, compiled",
    ]

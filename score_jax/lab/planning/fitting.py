"""The largest batch that a memory holds: found on a line through known sizes, then tried.

What a step needs is affine in the batch, a + b·B: state and gradient don't depend on it, all else is a part for every
example. Compilers depart from that a little, so what the line says counts only once it was compiled.
"""

from collections.abc import Callable, Mapping

_TRIES = 4


def largest_batch(
    needed: Callable[[int], int], limit: float, *, known: Mapping[int, int], parts: int, most: int
) -> int:
    """Returns the largest batch found that needs at most `limit` bytes; 0 where not even the smallest does.

    Args:
      needed: batch -> bytes; asked for a few times, as it takes long.
      limit: bytes there are.
      known: bytes of two batches, or more.
      parts: what a batch is a multiple of: devices × micro-batches.
      most: what it is no larger than.
    """
    found = dict(known)
    for _ in range(_TRIES):
        too_large = [batch for batch, size in found.items() if size > limit]
        below = min([most, *(batch - 1 for batch in too_large)])
        batch = int(max(min(on_line(found, limit), below), parts if below >= parts else 0)) // parts * parts
        if not batch or (batch in found and found[batch] <= limit):
            break
        found[batch] = needed(batch)
        if found[batch] <= limit:
            break
    return max((batch for batch, size in found.items() if size <= limit), default=0)


def on_line(known: Mapping[int, int], limit: float) -> float:
    """Returns the batch that needs `limit` bytes on the line through the two largest that are known."""
    (small, low), (large, high) = sorted(known.items())[-2:]
    if high <= low:
        return float("inf")
    return small + (limit - low) * (large - small) / (high - low)

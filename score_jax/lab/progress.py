"""How far something long is: a bar on a terminal, elsewhere a line now and then with the time that is left."""

import sys
import time

from tqdm import tqdm

from score_jax.training import hosts

_SECONDS = 30.0  # between lines


class Counted:
    """Shows how many of `total` are done; those of an earlier process take no time.

    Args:
      what: is done, "sampling".
      total: how many.
      unit: of what, "sample".
      quiet: show nothing.
    """

    def __init__(self, what: str, total: int, unit: str, *, quiet: bool = False):
        quiet = quiet or not hosts.is_first()
        self._bar = tqdm(desc=what, total=total, unit=unit, disable=True if quiet else None, dynamic_ncols=True)
        self._lines = self._bar.disable and not quiet
        self._what, self._total, self._done, self._new = what, total, 0, 0
        self._start = self._told = time.monotonic()

    def add(self, n: int, *, earlier: bool = False) -> None:
        """Counts n more, made now or `earlier`."""
        self._done, self._new = self._done + n, self._new + (0 if earlier else n)
        self._bar.update(n)
        now = time.monotonic()
        if self._lines and self._new and self._done < self._total and now - self._told > _SECONDS:
            self._told = now
            left = tqdm.format_interval((now - self._start) / self._new * (self._total - self._done))
            print(f"{self._what}: {self._done:,} of {self._total:,}, {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

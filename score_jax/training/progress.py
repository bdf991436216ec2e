"""How far a run is, on stderr: a bar on a terminal, elsewhere a plain line for every record."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows steps `start` to `total`; nothing unless `shown`."""

    def __init__(self, start: int, total: int, *, shown: bool):
        # disable=None leaves the bar out where there is no terminal.
        self._bar = tqdm(total=total, initial=start, unit="step", disable=None if shown else True, dynamic_ncols=True)
        self._lines = shown and self._bar.disable
        self._total, self._last = total, (start, time.perf_counter())

    def dispatched(self, step: int, loss: float, rate: float) -> None:
        """Moves the bar."""
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} examples/s", refresh=False)
        self._bar.update(step - self._bar.n)

    def recorded(self, step: int, loss: float, rate: float) -> float:
        """Writes the line, where there is no bar; returns the seconds that are left, at the speed since the last."""
        (before, since), self._last = self._last, (step, time.perf_counter())
        seconds = (self._total - step) * (self._last[1] - since) / (step - before)
        if self._lines:
            left = tqdm.format_interval(seconds)
            line = f"step {step}/{self._total}, loss {loss:.4f}, {rate:.0f} examples/s, {left} left"
            print(line, file=sys.stderr, flush=True)
        return seconds

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

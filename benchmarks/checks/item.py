"""What a stage consists of: named items, each a function that measures and returns a row of the stage's table."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Item(NamedTuple):
    """One thing to try: `run()` returns its row, or raises; it is left out where a package of `needs` is absent."""

    name: str
    run: Callable[[], Row]
    needs: tuple[str, ...] = ()


class Scale(NamedTuple):
    """How large everything is.

    Attributes:
      tiny: for a CPU: small networks, few repetitions.
      fashion_mnist: folder of its four files, where they are not in the usual places.
    """

    tiny: bool
    fashion_mnist: Path | None = None

    @property
    def seconds(self) -> float:
        """How long a window of a measurement lasts."""
        return 0.05 if self.tiny else 1.0


def absent(*packages: str) -> list[str]:
    """Returns those of `packages` that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]

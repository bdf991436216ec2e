"""What TensorStore never releases (0.1.86): the names in every JSON that it answers.

Orbax (0.12) asks it twice: for its counters around every write, to log them, 40 KB a checkpoint; and for the place of
each array, which is what it was given, 0.6 KB an array and checkpoint. Both are answered here. They are private to
Orbax: where they are elsewhere, memory grows by so much.
"""

import contextlib
from typing import Any


def mend() -> None:
    """Lets Orbax ask TensorStore for nothing that it knows or only logs."""
    with contextlib.suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils as orbax

        orbax.get_tensorstore_raw_bytes = lambda direction: 0
        if not isinstance(orbax.ts, _But):
            orbax.ts = _But(orbax.ts, KvStore=_But(orbax.ts.KvStore, Spec=_Place))


class _Place(dict[str, Any]):
    """A place as JSON, which TensorStore takes as it takes a `KvStore.Spec`."""

    def to_json(self) -> dict[str, Any]:
        """Returns what it was given: TensorStore adds nothing to the places that Orbax writes to."""
        return dict(self)


class _But:
    """A module or class but for some of its attributes."""

    def __init__(self, other: Any, **own: Any):
        self._other = other
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)

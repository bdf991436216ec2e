"""What TensorStore never releases (0.1.86): the names in every JSON that it answers.

Orbax (0.12) asks it twice: for its counters around every write, to log them, 40 KB a checkpoint; and for the place of
each array, which is what it was given, 0.6 KB an array and checkpoint. Both are answered here. They are private to
Orbax: where they are elsewhere, memory grows by so much.
"""

import contextlib
from types import ModuleType, SimpleNamespace
from typing import Any


def mend() -> None:
    """Lets Orbax ask TensorStore for nothing that it knows or only logs."""
    with contextlib.suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.get_tensorstore_raw_bytes = lambda direction: 0
        if not isinstance(tensorstore_utils.ts, _Tensorstore):
            tensorstore_utils.ts = _Tensorstore(tensorstore_utils.ts)


class _Place:
    """In place of a `KvStore.Spec`, of which Orbax only asks what it is of, or to open it."""

    def __init__(self, spec: dict[str, Any]):
        self._spec = spec

    def to_json(self) -> dict[str, Any]:
        """Returns what it was given: TensorStore adds nothing to the places that Orbax writes to."""
        return self._spec


class _Tensorstore:
    """The module `tensorstore`, but for how places are described."""

    def __init__(self, module: ModuleType):
        self._module = module
        opened = lambda place, **how: module.KvStore.open(place.to_json(), **how)
        self.KvStore = SimpleNamespace(Spec=_Place, open=opened)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

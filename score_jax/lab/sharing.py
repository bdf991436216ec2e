"""What experiments of equal settings share: data that were read, programs that were compiled."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


class Shared:
    """Makes each thing once, for those that ask for it with equal settings; of an experiment of its own, once for it.

    A compiled function closes over what the settings chose, so it serves every experiment whose settings are equal in
    what it was made of: a sweep's seeds train by one program.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Any] = {}

    def once(self, what: str, of: Mapping[str, Any], make: Callable[[], _T]) -> _T:
        """Returns `make()`, or what it returned for the same.

        Args:
          what: its name.
          of: the settings that it depends on, as JSON can hold them.
          make: makes it.
        """
        key = what, json.dumps(of, sort_keys=True, default=str)
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

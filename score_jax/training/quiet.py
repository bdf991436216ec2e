"""What Orbax and TensorStore print beside what they raise: every write told in a dozen lines, every error twice.

Nothing of anyone else's is kept back, and the root logger is left as it is.
"""

import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ERRORS: deque[BaseException] = deque(maxlen=1)


def orbax() -> None:
    """Keeps back what Orbax logs through absl and asyncio, and what is printed of a write beside one that failed."""
    logging.getLogger("absl").addFilter(_is_not_by_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_of_orbax)
    if not hasattr(sys.unraisablehook, "without_closed_loops"):
        sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


def error_of_orbax() -> BaseException | None:
    """Returns the newest error of a write in the background, and forgets it.

    Of several processes Orbax lets the one whose write failed wait for the others, and the others for it, up to 20
    minutes, before it raises anything; it is logged at once.
    """
    return _ERRORS.pop() if _ERRORS else None


def _is_not_by_orbax(record: logging.LogRecord) -> bool:
    by_orbax = "orbax" in Path(record.pathname).parts
    if by_orbax and record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1]:
        _ERRORS.append(record.exc_info[1])
    return not by_orbax


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """asyncio tells of a task whose error nobody has asked for: by its path, or by the place that raised it."""
    raised = [frame.filename for frame in traceback.extract_tb(record.exc_info[2])] if record.exc_info else []
    return not any("orbax" in text for text in (record.getMessage(), *raised))


def _without_closed_loops(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """TensorStore reports the end of each write to an event loop that the first failure has closed."""

    def hook(found: Any) -> None:
        if found.object is not None or str(found.exc_value) != "Event loop is closed":
            shown(found)

    hook.without_closed_loops = True  # type: ignore[attr-defined]
    return hook

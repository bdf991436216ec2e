"""SIGTERM and SIGINT while a run trains: the first is noted, for a checkpoint to be written; a second ends it at once.

What is ignored (SIGINT of a script's background jobs) stays ignored. A handler that the caller had set is called once
the checkpoint is written. Python allows handlers in the main thread only: no signal stops a training in another.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence

from score_jax.training import hosts

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def noted() -> Iterator[list[signal.Signals]]:
    """Collects the first SIGTERM or SIGINT while the context lasts; a second one raises what ends the program."""
    caught: list[signal.Signals] = []

    def note(number: int, frame: object) -> None:
        del frame
        if caught:
            raise _ending(number)
        caught.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # None is a handler set outside Python, which could not be restored.
    taken = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in taken:
            signal.signal(number, note)
        yield caught
    except Exception as error:
        if caught:  # what failed is told, and the program ends all the same
            raise _ending(caught[0], f"stopped by {caught[0].name}, after: {error}") from error
        raise
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def agreed(caught: Sequence[signal.Signals]) -> int:
    """Returns the number of a signal that any process caught, or 0: all have to stop at the same dispatch."""
    return hosts.any_of(caught[0] if caught else 0)


def end_if_any(caught: Sequence[signal.Signals], step: int) -> None:
    """Ends the program as a signal would have, if any process caught one; the handler it had before comes first.

    Raises:
      KeyboardInterrupt: of SIGINT, with a line that says where the run stopped.
      SystemExit: of SIGTERM likewise, with code 143.
    """
    number = agreed(caught)
    if not number:
        return
    handler = signal.getsignal(number)
    if caught and callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
    said = f"stopped by {signal.Signals(number).name} at step {step}; the same command goes on from there"
    _log.info(said)
    raise _ending(number, said)


def _ending(number: int, *said: str) -> BaseException:
    if number == signal.SIGINT:
        return KeyboardInterrupt(*said)
    exiting = SystemExit(*said)
    exiting.code = 128 + number  # as a shell reports a signal
    return exiting

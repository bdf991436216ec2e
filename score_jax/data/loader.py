"""Batches in random order, for ever, from a position that can be saved.

The examples of all epochs form one endless sequence: epoch e contributes permutation(N, seed, e). Batch number `step`
is rows [step·B, (step+1)·B) of that sequence, across epoch borders, so every example comes exactly once an epoch,
nothing is dropped, and the step alone determines the batch: saving the position is saving a number, restoring it takes
no replay, and it doesn't depend on how many steps are handed out together nor on the number of processes.

grain does the prefetching, at the granularity of whole hand-outs: its items are steps, each gathered by one vectorised
`source.batch`. With one example an item, its shuffle alone takes 4.5 µs an example, more than training on one takes.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from score_jax.data.order import permutation
from score_jax.data.source import Source
from score_jax.types import InputError

_log = logging.getLogger(__name__)

_ENDLESS = 2**62


class Loader:
    """An endless iterator of shuffled batches with a position that can be saved and restored.

    Yields stacks of k successive batches for a `lax.scan` over k train steps, as dictionaries: "x" `(k, B, *S)`,
    "label" `(k, B)` int32 if the source has classes, and "index" `(k, B)` uint32: the row's place in the endless
    sequence modulo 2³², from which per-example keys can be folded.

    Args:
      source: the examples.
      batch_size: B of one step, over all processes.
      steps_per_batch: k; the order doesn't depend on it.
      seed: determines the order.
      rows: which of the B rows of each batch to give out, all by default: a process's own, of `sharding.own_rows`.
      num_threads: threads that gather; more than one pays off where the source decodes files.
      prefetch: hand-outs gathered ahead.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        steps_per_batch: int = 1,
        seed: int = 0,
        rows: Sequence[int] | np.ndarray | None = None,
        num_threads: int = 1,
        prefetch: int = 2,
    ):
        if batch_size < 1 or steps_per_batch < 1:
            raise InputError(f"batch_size={batch_size}, steps_per_batch={steps_per_batch}; expected at least 1")
        chosen = np.arange(batch_size) if rows is None else np.asarray(rows)
        if chosen.ndim != 1 or not chosen.size or chosen.min() < 0 or chosen.max() >= batch_size:
            raise InputError(f"rows of a batch of {batch_size} are 0 to {batch_size - 1}, got {rows}")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed={seed}; expected 0 or more")
        self._source = source
        self._identity = {"seed": seed, "batch_size": batch_size, "examples": len(source)}
        self._rows = chosen
        self._steps_per_batch = steps_per_batch
        self._read = {"num_threads": num_threads, "prefetch_buffer_size": prefetch}
        self._epoch_order = lru_cache(maxsize=2)(lambda epoch: permutation(len(source), seed, epoch))
        self._step = 0
        self._batches: Any = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        self._batches = self._batches or self._prefetched()
        try:
            batch = next(self._batches)
        except Exception:
            self.close()  # the next call starts again at the same position, with nothing skipped
            raise
        self._step += self._steps_per_batch
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position (steps given out) and what it refers to, all plain integers."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to a position, so that the next batch is the one that followed it.

        With another number of examples (an unreadable one was removed, new ones have come) the order is a new one from
        there on, which a warning says. Raises `InputError` if the position belongs to another seed or batch size.
        """
        other = {name: int(state[name]) for name in self._identity if int(state[name]) != self._identity[name]}
        before = other.pop("examples", None)
        if before is not None:
            _log.warning(
                "the data have %d examples and had %d when this position was saved: going on with these in a new order",
                self._identity["examples"],
                before,
            )
        if other:
            mine = {name: self._identity[name] for name in other}
            raise InputError(
                f"the saved data position belongs to {other}, this loader has {mine}; resume with the same settings"
            )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops the prefetching; the position stays, and iterating on starts it again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _prefetched(self) -> Any:
        import grain  # deferred: a second

        steps = grain.MapDataset.range(self._step, _ENDLESS, self._steps_per_batch)
        return iter(steps.map(self._gather).to_iter_dataset(grain.ReadOptions(**self._read)))

    def _gather(self, step: int) -> dict[str, np.ndarray]:
        steps = step + np.arange(self._steps_per_batch)
        places = steps[:, None] * self._identity["batch_size"] + self._rows
        try:
            flat = self._source.batch(self._examples(places.ravel()))
        except (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration) as ending:
            # In a thread that reads ahead these mean nothing, and handed on they would end the program without a word.
            raise InputError(f"the data cannot be read: what reads them ended by {ending!r}") from ending
        batch = {name: value.reshape(places.shape + value.shape[1:]) for name, value in flat.items()}
        return {**batch, "index": places.astype(np.uint32)}

    def _examples(self, places: np.ndarray) -> np.ndarray:
        """Which example stands at each place of the endless sequence."""
        epochs, rows = np.divmod(places, len(self._source))
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._epoch_order(int(epoch))[rows[here]]
        return rows


def batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields all of `source` once, in order, in single batches `(B, ...)`; the last holds what remains."""
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected at least 1")
    for start in range(0, len(source), batch_size):
        indices = np.arange(start, min(start + batch_size, len(source)))
        yield {**source.batch(indices), "index": indices.astype(np.uint32)}

"""A checkpoint while it is being written: what Orbax calls a temporary path."""

import asyncio
import os
from pathlib import Path

import orbax.checkpoint as ocp

from score_jax.training import digests


class Unfinished(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint that is being written, under another name than its own."""

    async def finalize(self) -> None:
        """Writes the digests of its files once all are there, and then only lets it take its name."""
        final, written = self.get_final(), self.get()
        if not final.name.isdecimal():  # an item of a checkpoint
            await super().finalize()
            return
        self._final_path = whole = written.with_name(f"{written.name}-whole")
        await super().finalize()
        await asyncio.to_thread(digests.write_digests, Path(whole))
        os.rename(whole, final)
        self._final_path = final

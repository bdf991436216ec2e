"""The cache of compiled programs: whether its folder can be written, its size, and a round trip through it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from score_jax.lab import memory
from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding

_HIT = "/jax/compilation_cache/cache_hits"
_ANOTHER = "--config.device.compile_cache=FOLDER"


def compile_folder() -> Path | None:
    """Returns the folder in force; None where nothing is kept."""
    told = jax.config.values
    folder = told["jax_compilation_cache_dir"] if told["jax_enable_compilation_cache"] else None
    return Path(folder) if folder else None


def hits(folder: Path) -> tuple[int, int]:
    """Compiles a program twice with a cache in a folder; returns files that the first wrote, and hits of the second."""
    counted: list[str] = []

    def count(event: str, **_: object) -> None:
        counted.append(event)

    with _cached_in(folder):
        _compile()
        written = sum(path.is_file() for path in folder.rglob("*"))
        jax.monitoring.register_event_listener(count)
        try:
            jax.clear_caches()  # of this process, so that the program is looked for in the folder
            _compile()
        finally:
            with contextlib.suppress(AttributeError, ValueError):  # of a JAX that can't forget listeners
                jax.monitoring.unregister_event_listener(count)
    return written, counted.count(_HIT)


def _compile() -> None:
    jax.jit(lambda x: jnp.sin(x) * 7 + x).lower(jnp.ones(3)).compile()


@contextlib.contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Has JAX keep every program, however small, in a folder."""
    now = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_enable_compilation_cache": True,
    }
    before = {name: jax.config.values[name] for name in now}
    try:
        for name, value in now.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def check_compile_cache(folder: Path | None, round_trip: Callable[[Path], tuple[int, int]] = hits) -> Iterator[Finding]:
    """Looks at the cache's folder, and whether what is compiled once is found there the second time.

    Args:
      folder: of the cache.
      round_trip: what `hits` is.
    """
    what = "compile cache"
    if folder is None:
        yield Finding(NOTE, what, "off: every command compiles all its programs anew", "--config.device.compile_cache=")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=folder) as inside:
            written, found = round_trip(Path(inside))
    except OSError as error:
        cure = f"chmod u+rwx {folder}, or {_ANOTHER}"
        yield Finding(WRONG, what, f"{folder} cannot be written ({error.strerror or error})", cure)
        return
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if not written or not found:
        lost = "a compiled program was not kept" if not written else "a kept program was compiled again"
        yield Finding(WRONG, what, f"{lost} in {folder}: every command would compile anew", f"rm -r {folder}")
        return
    yield Finding(OK, what, f"{folder}: {len(sizes)} files, {memory.in_words(sum(sizes))}; compiled once, found again")
    empty = sum(size == 0 for size in sizes)
    if empty:
        yield Finding(NOTE, what, f"{empty} empty files, as a full disk leaves them", f"find {folder} -empty -delete")

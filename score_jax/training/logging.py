"""Where the numbers of a run go: metrics.jsonl always, TensorBoard and Weights & Biases where asked for.

A record is a mapping of names to numbers, or to mappings of numbers such as `{"loss_by_sigma": {"0.01": 0.49}}`.
A logger is two functions; it is made by a factory `(workdir, start) -> Logger`, where `start` is the step training
goes on from (0: anew). What was logged after that step belongs to work that was lost and is about to be repeated, so it
is removed: no step appears twice.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from score_jax import backend
from score_jax.training import hosts
from score_jax.types import InputError

_log = logging.getLogger(__name__)

Record: TypeAlias = Mapping[str, Any]

_PACKAGES = ("score-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "grain")


def _no_picture(step: int, name: str, path: Path) -> None:
    del step, name, path


class Logger(NamedTuple):
    """`write(step, record)`, `close()`, and `picture(step, name, path)` of a PNG file, which may do nothing."""

    write: Callable[[int, Record], None]
    close: Callable[[], None]
    picture: Callable[[int, str, Path], None] = _no_picture


LoggerFactory: TypeAlias = Callable[[Path, int], Logger]


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file holds the old content or the new, whenever the process dies.

    Raises:
      InputError: where it cannot be written.
    """
    _replace(path, (json.dumps(content, indent=2, default=_plain) + "\n").encode())


def write_text(path: Path, content: str) -> None:
    """Writes a text likewise: the file holds the old or the new, whenever the process dies."""
    _replace(path, content.encode(errors="backslashreplace"))  # a surrogate, which JSON can hold and no file


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(f"{path} cannot be written ({error.strerror})") from error


def _plain(value: Any) -> Any:
    """Gives JSON numpy's and JAX's numbers and arrays, and paths."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics file; lines that are none, as one cut off in writing, are left out."""
    return [record for line in path.read_bytes().splitlines(keepends=True) if (record := _record(line))]


def _record(line: bytes) -> dict[str, Any] | None:
    """The record that a line holds, or None."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def jsonl(workdir: Path, start: int) -> Logger:
    """Appends `{"step": ..., **record}` lines to `workdir/metrics.jsonl`, having cut off those behind `start`.

    Lines that are no records are left out, and then the file as it was is kept in `damaged/`.

    Raises:
      InputError: where it cannot be written.
    """
    path = workdir / "metrics.jsonl"
    try:
        _cut_off(path, start)
        file = path.open("ab", buffering=0)  # a killed run keeps what it reported
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from error

    def write(step: int, record: Record) -> None:
        line = (json.dumps({"step": step, **record}, default=_plain) + "\n").encode()
        end = os.fstat(file.fileno()).st_size
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            os.truncate(path, end)  # half a line would spoil the next
            raise

    return Logger(write, file.close)


def _cut_off(path: Path, start: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records = [(line, _record(line)) for line in lines]
    odd = [number for number, (_, record) in enumerate(records[:-1], 1) if record is None]  # the last: cut off
    if odd and start:
        kept = path.parent / "damaged" / f"{path.stem}-{start}{path.suffix}"
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(path, kept)
        _log.warning("line %d of %s is no record and left out; the file as it was is %s", odd[0], path, kept)
    _replace(path, b"".join(line for line, record in records if record and record["step"] <= start))


def _scalars(record: Record, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
            yield prefix + name, float(value)


def tensorboard(workdir: Path, start: int) -> Logger:
    """Writes scalars for TensorBoard to `workdir/tensorboard`; needs tensorboardX."""
    from PIL import Image  # deferred, as all that few runs need

    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "logging to TensorBoard needs tensorboardX: pip install 'score-jax[tensorboard]', or leave it out"
        ) from error
    writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def write(step: int, record: Record) -> None:
        for name, value in _scalars(record):
            writer.add_scalar(name, value, step)

    def picture(step: int, name: str, path: Path) -> None:
        writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    return Logger(write, writer.close, picture)


def wandb(project: str, config: Record | None = None) -> LoggerFactory:
    """Returns a factory that logs to the Weights & Biases project; a resumed run goes on in the same place."""

    def open_run(workdir: Path, start: int) -> Logger:
        try:
            import wandb as client
        except ImportError as error:
            raise InputError(
                "logging to Weights & Biases needs wandb: pip install 'score-jax[wandb]', or leave it out"
            ) from error
        name = workdir / "wandb_run.txt"
        known = _wandb_id(name) if start and name.exists() else None
        run = client.init(project=project, dir=str(workdir), config=dict(config or {}), id=known, resume="allow")
        name.write_text(f"{run.id}\n")
        return Logger(
            lambda step, record: run.log(dict(_scalars(record)), step=step),
            run.finish,
            lambda step, name, path: run.log({name: client.Image(str(path))}, step=step),
        )

    return open_run


def _wandb_id(path: Path) -> str:
    text = path.read_bytes().decode(errors="replace").strip()
    if not re.fullmatch(r"[\w-]{1,128}", text):
        raise InputError(f"{path} should hold the id of a Weights & Biases run, not {text[:40]!r}: mend or remove it")
    return text


def combine(loggers: Sequence[Logger]) -> Logger:
    """Returns a logger that hands every record to all of `loggers`."""

    def write(step: int, record: Record) -> None:
        for logger in loggers:
            logger.write(step, record)

    def close() -> None:
        for logger in loggers:
            logger.close()

    def picture(step: int, name: str, path: Path) -> None:
        for logger in loggers:
            logger.picture(step, name, path)

    return Logger(write, close, picture)


def open_loggers(factories: Sequence[LoggerFactory], workdir: Path, start: int) -> Logger:
    """Opens `metrics.jsonl` and `factories` on the first host; the other hosts' records go nowhere."""
    if not hosts.is_first():
        return combine([])
    opened = [factory(workdir, start) for factory in (jsonl, *factories)]
    for logger in opened:
        if not isinstance(logger, Logger):
            raise InputError(f"a logger must be a training.logging.Logger, got {type(logger).__name__}")
    return combine(opened)


def environment(seed: int | None = None) -> dict[str, Any]:
    """Returns what a run depends on besides its config: versions, devices and their settings, git revision, seed."""
    return {
        "command": sys.argv,
        "devices": [device.device_kind for device in jax.devices()],
        "backend": jax.default_backend(),
        "settings": backend.in_force(),
        "processes": jax.process_count(),
        "revision": revision(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "python": platform.python_version(),
        "seed": seed,
    }


def last_environment(workdir: Path, start: int) -> dict[str, Any]:
    """Returns what was written last by the parts of a run before step `start`; empty if it cannot be read."""
    steps = {int(path.stem.split("-")[1]): path for path in workdir.glob("environment-*.json")}
    earlier = [step for step in steps if step < start]
    try:
        told = json.loads((steps[max(earlier)] if earlier else workdir / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


_ROUNDING = ("XLA_FLAGS", "matmul_precision", "enable_x64")


def rounded_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what of two environments lets the same computation round otherwise, each as "name now, was before"."""
    if not before:
        return []
    old, new = (
        {
            "devices": ", ".join(sorted(set(told.get("devices", ())))),
            **told.get("packages", {}),
            **{name: told.get("settings", {}).get(name) for name in _ROUNDING},
        }
        for told in (before, now)
    )
    changed = [name for name in new if new[name] != old.get(name)]
    return [f"{name} {new[name] or 'none'}, was {old.get(name) or 'none'}" for name in changed]


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def revision() -> str:
    """Returns which code of this package runs, as it was the first time it is asked for: what is imported stays so.

    The commit of the checkout it is imported from, with a hash of what was edited, "1a2b…+changes-3c4d5e6f"; else the
    version that is installed.
    """
    commit = _git("rev-parse", "HEAD") if _git("ls-files", __file__) else None
    if not commit:
        return f"score-jax {_version('score-jax')}"
    changes = _git("diff", "HEAD")
    return commit + (f"+changes-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")


def _git(*command: str) -> str | None:
    here = Path(__file__).parent
    try:
        ran = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if ran.returncode else ran.stdout.strip()

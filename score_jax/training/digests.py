"""The digest of every file of a checkpoint, in `sha256.json`: Orbax misses flipped bits and some missing files."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

_FILE = "sha256.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_own_digest(files: Any) -> dict[str, Any]:
    return {"files": files, "sha256": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}


def write_digests(checkpoint: Path) -> None:
    """Writes the digests of all files in a folder, and that of the list of them, into the folder."""
    files = {str(path.relative_to(checkpoint)): _sha256(path) for path in checkpoint.rglob("*") if path.is_file()}
    (checkpoint / _FILE).write_text(json.dumps(_with_own_digest(files), sort_keys=True))


def check_digests(checkpoint: Path) -> None:
    """Raises ValueError naming a file of a checkpoint that is not as it was written."""
    digests = None
    with contextlib.suppress(
        FileNotFoundError, NotADirectoryError, ValueError, RecursionError
    ):  # as deep as none is written
        digests = json.loads((checkpoint / _FILE).read_bytes())
    if not isinstance(digests, dict) or digests != _with_own_digest(digests.get("files")):
        raise ValueError(f"{_FILE} is missing or damaged")
    for name, digest in digests["files"].items():
        if not (checkpoint / name).is_file() or _sha256(checkpoint / name) != digest:
            raise ValueError(f"{name} is missing or damaged")

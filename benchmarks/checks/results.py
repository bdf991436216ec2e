"""What a check of a device found: kept in results.json after every item, and shown in table.md."""

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from timing import table

from checks.item import Row

START = "start"  # of a stage: what fails before any of its items
# What must be the same for results to stand beside each other.
_SAME = ("device", "platform", "devices", "versions", "networks", "flags")


class Results:
    """The results in a folder, those of an earlier call included.

    For each stage there are rows of what was done, what failed and what was left out with why, and the names of all
    items there are.
    """

    def __init__(self, folder: Path, environment: Row):
        """Opens or makes the folder; ends the command where it holds results of another device or other versions."""
        self.folder = folder
        self._lock = threading.Lock()  # stages may run side by side
        self._path = folder / "results.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._content: Row = {"environment": environment, "stages": {}}
        if self._path.exists():
            self._content["stages"] = self._earlier(environment)
        self._save()

    def _earlier(self, environment: Row) -> Row:
        try:
            content = json.loads(self._path.read_text())
            before, stages = content["environment"], content["stages"]
        except (ValueError, KeyError, TypeError):
            raise SystemExit(f"error: {self._path} is no result of this command: give another --out") from None
        other = [name for name in _SAME if before.get(name) != environment.get(name)]
        if other:
            raise SystemExit(
                f"error: {self._path} is of another {other[0]}, {before.get(other[0])!r} where this is "
                f"{environment.get(other[0])!r}: give another --out"
            )
        return stages

    def _save(self) -> None:
        for path, text in ((self._path, json.dumps(self._content, indent=1)), (self.folder / "table.md", self.page())):
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(text + "\n")
            os.replace(draft, path)

    def _stage(self, stage: str) -> Row:
        kinds: Row = {"items": [], "done": {}, "failed": {}, "left_out": {}}
        return self._content["stages"].setdefault(stage, kinds)

    def _put(self, stage: str, kind: str, name: str, value: Any) -> None:
        with self._lock:
            found = self._stage(stage)
            for other in ("done", "failed", "left_out"):
                found[other].pop(name, None)
            found[kind][name] = value
            self._save()

    def begin(self, stage: str) -> None:
        """Forgets that a stage could not start: it is tried again."""
        with self._lock:
            self._stage(stage)["failed"].pop(START, None)

    def expect(self, stage: str, items: Sequence[str]) -> None:
        """Notes which items a stage has."""
        with self._lock:
            self._stage(stage)["items"] = list(items)
            self._save()

    def add(self, stage: str, name: str, row: Row) -> None:
        """Notes a result."""
        self._put(stage, "done", name, row)

    def fail(self, stage: str, name: str, why: str) -> None:
        """Notes a failure."""
        self._put(stage, "failed", name, why)

    def leave_out(self, stage: str, name: str, why: str) -> None:
        """Notes what cannot be tried here."""
        self._put(stage, "left_out", name, why)

    def done(self, stage: str) -> list[str]:
        """Returns the names of what need not be tried again."""
        return list(self._stage(stage)["done"])

    def failed(self, stages: Iterable[str]) -> list[str]:
        """Returns what failed, as `stage: name: why`."""
        return [f"{stage}: {name}: {why}" for stage in stages for name, why in self._stage(stage)["failed"].items()]

    def left(self, stage: str) -> list[str]:
        """Returns what was not tried yet."""
        found = self._stage(stage)
        tried = {*found["done"], *found["failed"], *found["left_out"]}
        return [name for name in found["items"] if name not in tried]

    def heading(self) -> str:
        """Returns in a few lines what the results are of."""
        shown = dict(self._content["environment"])
        versions = ", ".join(f"{k} {v}" for k, v in shown.pop("versions").items() if v)
        missing = ", ".join(shown.pop("absent")) or "nothing"
        lines = [f"{name}: {value}" for name, value in shown.items() if value != ""]
        return "\n".join([*lines, f"versions: {versions}", f"absent: {missing}", f"results: {self.folder}"])

    def summary(self, stage: str) -> str:
        """Returns a stage's state in a line, and its failures."""
        found = self._stage(stage)
        numbers = [f"{len(found['done'])} done", f"{len(found['failed'])} failed", f"{len(found['left_out'])} left out"]
        begun = [f"{len(self.left(stage))} not tried yet"] if found["items"] else ["not begun"]
        return "\n".join(
            [f"{stage}: {', '.join(numbers + begun)}", *(f"  failed: {line}" for line in self.failed([stage]))]
        )

    def closing(self, stages: Sequence[str], seconds: float) -> str:
        """Returns what was left, and where the results are."""
        left = {stage: self.left(stage) for stage in stages}
        unbegun = [stage for stage in stages if not self._stage(stage)["items"] and not self._stage(stage)["failed"]]
        lines = [f"  {stage}: {_counted(names)}" for stage, names in left.items() if names]
        lines += [f"  {stage}: not begun" for stage in unbegun]
        rest = ["left for the same command again:", *lines] if lines else ["nothing is left"]
        return "\n".join([f"{seconds:.0f} s", *rest, f"the table: {self.folder / 'table.md'}"])

    def page(self) -> str:
        """Returns everything as Markdown."""
        parts = ["    " + self.heading().replace("\n", "\n    ")]
        for stage, found in self._content["stages"].items():
            rows = _tests(found) if stage == "tests" else list(found["done"].values())
            parts += [f"## {stage}", *([table(_filled(rows))] if rows else [])]
            parts += [f"Failed: {name}: {why}" for name, why in found["failed"].items()]
            parts += [f"Left out: {'; '.join(names)}: {why}" for why, names in _by_reason(found["left_out"]).items()]
            if left := self.left(stage):
                parts.append(f"Not tried yet: {_counted(left)}")
        return "\n\n".join(parts)


def _by_reason(left_out: dict[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, why in left_out.items():
        grouped[why].append(name)
    return grouped


def _counted(names: Sequence[str]) -> str:
    """Names in a line; those of one test with different parameters once, with their number."""
    counts = Counter(name.split("[")[0] for name in names)
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())


def _filled(rows: Sequence[Row]) -> list[Row]:
    """Rows with the columns of all, empty where a row has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _tests(found: Row) -> list[Row]:
    """A row for each test function: how many passed, and the comparison that came nearest to its bound."""
    functions: dict[str, list[Row]] = defaultdict(list)
    for name, row in found["done"].items():
        functions[name.split("[")[0]].append(row)
    return [_test(name, rows, found["failed"]) for name, rows in functions.items()]


def _test(name: str, rows: Sequence[Row], failed: Row) -> Row:
    compared = {what: pair for row in rows for what, pair in row["errors"].items()}
    nearest = max(compared, key=lambda what: compared[what][0] / (compared[what][1] or 1), default=None)
    error, bound = compared[nearest] if nearest else ("", "")
    broken = sum(other.split("[")[0] == name for other in failed)
    row = {"test": name.replace("::", ", "), "passed": len(rows), "failed": broken}
    return row | {"nearest to its bound": nearest or "", "error": error, "bound": bound}

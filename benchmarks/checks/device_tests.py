"""Stage "tests": the tests of tests/device, which compare this device with the CPU, one by one.

They run in one pytest session whose progress is told as it goes, so that a stage that is cut short goes on with the
tests that were left. What a test recorded of its comparisons, measured error and bound, is part of its row.
"""

import json
import os
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent.parent.parent / "tests" / "device"


class _Teller:
    """A pytest plugin: leaves out what is done, and tells what is there, begun, passed, failed and skipped.

    Tiny, it takes the first item alone of each test.
    """

    def __init__(self, tell: Callable[..., None], done: Container[str], tiny: bool):
        self._tell, self._done, self._tiny = tell, done, tiny

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self._tiny:
            items[:] = {item.nodeid.split("[")[0]: item for item in reversed(items)}.values()
        names = [_name(item.nodeid) for item in items]
        items[:] = [item for item, name in zip(items, names, strict=True) if name not in self._done]
        self._tell(items=names)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(start=_name(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = _name(report.nodeid)
        if report.failed:
            self._tell(failed=name, why=_last_line(report.longreprtext))
        elif report.skipped:
            self._tell(left_out=name, why=str(report.longrepr[2]).removeprefix("Skipped: "))
        elif report.when == "call":
            self._tell(done=name, row={"test": name, "errors": _comparisons(report.user_properties)})


def _name(nodeid: str) -> str:
    return nodeid.split("/")[-1]


def _comparisons(properties: list[tuple[str, Any]]) -> dict[str, tuple[float, float]]:
    """Measured error and bound of each comparison that a test recorded (tests/device/compare.py)."""
    found = [json.loads(value) for name, value in properties if name == "comparison"]
    return {one["name"]: (one["error"], one["bound"]) for one in found}


def _last_line(text: str) -> str:
    """The line of a failure's report that says what was wrong."""
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors or text.strip().splitlines() or [""])[0]


def run(tell: Callable[..., None], done: Container[str], tiny: bool) -> None:
    """Runs the tests that are not `done`, in this process, which has no other use for JAX.

    The process ends with pytest's code where they could not be run, as of a test file that cannot be imported.
    """
    os.environ["SCORE_JAX_DEVICE_TESTS"] = "1"
    import pytest

    code = pytest.main([str(_FOLDER), "-q", "-p", "no:cacheprovider"], plugins=[_Teller(tell, done, tiny)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(code)

"""What a check finds: a line for a person, and the command that mends what is wrong."""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

OK, NOTE, WRONG = "ok", "note", "wrong"
_LONGEST = 400  # characters of an error


class Finding(NamedTuple):
    """A line.

    Attributes:
      state: `OK`, `NOTE` (worth knowing, nothing has to be done) or `WRONG`.
      what: was looked at.
      found: in words.
      cure: the command that mends it, of what is wrong.
    """

    state: str
    what: str
    found: str
    cure: str = ""


def findings_of(what: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Returns what a check finds; one that raises has found that."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what libraries say meanwhile
            return list(check())
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:_LONGEST]
        return [Finding(WRONG, what, f"could not be looked at: {type(error).__name__}: {said}", "report this line")]


def in_lines(findings: Sequence[Finding]) -> str:
    """Returns a line for each finding, and below what is wrong the command that mends it."""
    return "\n".join(line for finding in findings for line in _lines(finding))


def _lines(finding: Finding) -> list[str]:
    said = f"{finding.state:6}{finding.what:20}{finding.found}"
    return [said, *([f"{'':26}→ {finding.cure}"] if finding.cure else [])]

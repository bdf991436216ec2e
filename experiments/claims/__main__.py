"""Measures the textbook's claims about score matching and writes them down in docs/claims.md.

    python -m experiments.claims                  all of them, a few minutes on 2 cores
    python -m experiments.claims --only A4 B1     some of them; the page is left alone unless --page is given

Prints one line a claim: statement, what was measured, what was expected, verdict. Exit code 1 if any fails.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from experiments.claims import Claim, failures, line, page, select
from score_jax.types import InputError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "claims.md"


def measure(ids: list[str], seed: int) -> list[Claim]:
    """Runs the claims named (all for none), printing each as it is done."""
    checks, claims = select(ids), []
    for i, check in enumerate(checks, 1):
        print(f"[{i:2}/{len(checks)}] {check.id} ", end="", flush=True)
        start = time.perf_counter()
        claim = check(seed)
        claims.append(claim)
        print(f"{claim.verdict} {time.perf_counter() - start:5.1f} s  {line(claim)}")
        for failure in failures(claim):
            print(f"        not as expected: {failure}")
    return claims


def require_writable(path: Path) -> None:
    """Makes the page's folder, or says in one line why the page cannot be written, before minutes are spent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("a").close()
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"--page {path} cannot be written: {error.strerror}; choose another path") from error


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        "python -m experiments.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="claims to run, such as A4 B1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws (default 0)")
    parser.add_argument("--page", type=Path, help=f"where to write the page (default, without --only: {PAGE.name})")
    options = parser.parse_args(argv)
    path = options.page or (None if options.only else PAGE)
    start = time.perf_counter()
    try:
        if path is not None:
            require_writable(path)
        claims = measure(options.only, options.seed)
        if path is not None:
            path.write_text(page(claims, options.seed))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    held = sum(claim.verdict == "holds" for claim in claims)
    where = f"; written to {path}" if path is not None else ""
    print(f"{held} of {len(claims)} claims hold, {time.perf_counter() - start:.0f} s{where}")
    return 0 if held == len(claims) else 1


if __name__ == "__main__":
    sys.exit(main())

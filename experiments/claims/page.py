"""The page of claims in Markdown, and the line a claim gets on the terminal."""

import platform
from importlib.metadata import version

from .claim import Claim, Measurement

SECTIONS = {
    "A": "Score and score matching",
    "B": "Denoising score matching",
    "C": "Langevin dynamics",
    "D": "Noise levels (NCSN, NCSNv2)",
    "E": "Score matching is denoising diffusion",
    "F": "Conditional generation",
}

HEADER = """# Claims

The statements that lecture notes and papers on score matching repeat, each checked with numbers against an exact
density. This page is written by

    python -m experiments.claims

with seed {seed} ({versions}); `tests/test_claims.py` runs the same functions. {verdicts}

Everything is measured through the package's public functions in double precision, and compared with a closed form or
a quadrature that does not use the package. "exact" means that no random draws are involved; otherwise the last column
says how many. A tolerance of a number that is a mean of draws is 4 standard errors. A row that begins with "wrong
form" evaluates a formula often met with in its place: it must miss the right value, and its verdict is "fails".
"""


def line(claim: Claim) -> str:
    """Returns statement, first measurement and how many more there are, on one line."""
    first, more = claim.measurements[0], len(claim.measurements) - 1
    return f"{claim.statement} | {first.what}: measured {first.measured:.6g}, expected {first.target}; {more} more"


def row_verdict(measurement: Measurement) -> str:
    """Returns "holds" or "fails" of the statement in the row: a wrong form that misses "fails", as it should."""
    return "holds" if measurement.holds != (measurement.relation == "wrong") else "fails"


def failures(claim: Claim) -> list[str]:
    """Returns a line for every measurement that is not as it should be."""
    return [f"{m.what}: measured {m.measured:.6g}, expected {m.target}" for m in claim.measurements if not m.holds]


def page(claims: list[Claim], seed: int) -> str:
    """Returns the whole page."""
    held = sum(claim.verdict == "holds" for claim in claims)
    packages = ", ".join(f"{name} {version(name)}" for name in ("score-jax", "jax", "numpy", "scipy"))
    header = HEADER.format(
        seed=seed,
        versions=f"Python {platform.python_version()}, {packages}",
        verdicts=f"{held} of {len(claims)} claims hold.",
    )
    parts = [header]
    for letter, title in SECTIONS.items():
        section = [entry(claim) for claim in claims if claim.id.startswith(letter)]
        parts += [f"## {letter}. {title}\n", *section] if section else []
    return "\n".join(parts)


def entry(claim: Claim) -> str:
    """Returns statement, equation and table of one claim."""
    equation = "\n".join(f"    {row}" for row in claim.equation.splitlines())
    rows = "\n".join(
        f"| {cell(m.what)} | {m.measured:.6g} | {m.target} | {row_verdict(m)} | {m.source} |"
        for m in claim.measurements
    )
    table = "| what | measured | expected | verdict | from |\n|---|---|---|---|---|\n" + rows
    return f"### {claim.id}: {claim.verdict}\n\n{claim.statement}\n\n{equation}\n\n{table}\n"


def cell(text: str) -> str:
    """Escapes the bars of a formula for a Markdown table."""
    return text.replace("|", "\\|")

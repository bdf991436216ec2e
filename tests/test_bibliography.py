"""Every work that a docstring of the package cites is in docs/bibliography.md, and nothing else is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "bibliography.md").read_text()
LINK = r"https://(arxiv\.org/abs/\d{4}\.\d{5}|doi\.org/10\.\S+|\S+)"

# "Ho et al. 2020", "Song & Ermon 2019", "Chan, Golub & LeVeque 1983", "Vincent 2011", "Dormand & Prince (1980)"
_NAME = r"[^\W\d_a-z][\w’-]*[^\W\d_](?:-[^\W\d_]+)*"
_CITED = re.compile(rf"((?:{_NAME}, )*{_NAME}(?: & {_NAME}| et al\.)?) \(?((?:19\d|20[0-2])\d)\b(?!-)")


def citations(text: str) -> Iterator[str]:
    """Yields "Name Year" of every citation in a text; the letter of 2021b is no part of it."""
    text = re.sub(r"(\b(?:19|20)\d\d)[a-z]\b", r"\1", " ".join(text.split()))
    for names, year in _CITED.findall(text):
        yield f"{names} {year}"


def cited() -> dict[str, list[str]]:
    """Returns the files that cite a work, by "Name Year"."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "score_jax").rglob("*.py")):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
        for citation in citations("\n\n".join(ast.get_docstring(node) or "" for node in nodes)):
            found.setdefault(citation, []).append(str(path.relative_to(ROOT)))
    return found


def entries(page: str) -> list[tuple[str, str]]:
    """Returns "Name Year" and the rest of each entry of a page, in its order."""
    return re.findall(r"^- \*\*(.+?)\*\* (.+)$", page, re.MULTILINE)


def missing(found: dict[str, list[str]], page: str) -> dict[str, list[str]]:
    """Returns what is cited and has no entry."""
    known = {name for name, _ in entries(page)}
    return {citation: files for citation, files in found.items() if citation not in known}


def test_every_citation_of_a_docstring_has_an_entry():
    found = cited()
    assert len(found) > 80  # else the expression finds nothing
    assert missing(found, PAGE) == {}


def test_every_entry_is_cited():
    found = cited()
    assert [name for name, _ in entries(PAGE) if name not in found] == []


def test_a_citation_without_an_entry_is_found():
    """Of the page without an entry, and of years and names that are not its own."""
    without = PAGE.replace("**Song & Ermon 2019**", "**Song & Ermon 2018**")
    assert list(missing(cited(), without)) == ["Song & Ermon 2019"]
    wrong = ["Hyvarinen 2005", "Ho & Jain 2020", "Song et al. 2018b"]
    assert list(missing({name: [] for name in citations(f"as in ({'; '.join(wrong)})")}, PAGE)) == [
        "Hyvarinen 2005",
        "Ho & Jain 2020",
        "Song et al. 2018",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(Song et al. 2021b, eq. 3)", ["Song et al. 2021"]),
        ("of Song & Ermon\n    2019 (algorithm 2) and Hyvärinen 2005", ["Song & Ermon 2019", "Hyvärinen 2005"]),
        ("Dormand & Prince (1980)", ["Dormand & Prince 1980"]),
        ("(Chan, Golub & LeVeque 1983).", ["Chan, Golub & LeVeque 1983"]),
        ("Jolicoeur-Martineau et al. 2020", ["Jolicoeur-Martineau et al. 2020"]),
        ("Lopez-Paz & Oquab 2017; Ho et al. 2020's (β from 1e-4)", ["Lopez-Paz & Oquab 2017", "Ho et al. 2020"]),
        ("InceptionV3 of 2015, pt_inception-2015-12-05-6726825d.pth", []),
    ],
)
def test_citations_are_read(text, expected):
    assert list(citations(text)) == expected


def test_entries_are_whole_in_order_and_linked():
    for section in PAGE.split("\n## ")[1:]:
        names = [name for name, _ in entries(section)]
        assert names == sorted(names, key=lambda name: (_plain(name), name)), section.split("\n")[0]
    listed = [line for line in PAGE.splitlines() if line.startswith("- ")]
    assert len(listed) == len(entries(PAGE)) == len(set(entries(PAGE)))
    for name, rest in entries(PAGE):
        linked = re.match(rf"\[[^\]]+\]\({LINK}\), ", rest)
        assert linked or name == "McCarthy 1966", f"{name}: expected [title](https://…), venue"


def _plain(name: str) -> str:
    """The name and year as they are sorted: "et al." behind nothing else, accents as no accents."""
    return name.replace("ń", "n").replace("ä", "a").lower()

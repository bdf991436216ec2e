"""Papers that docstrings cite, "Song et al. 2021", as links to their entry of the bibliography."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = "bibliography.md"
_AUTHOR = r"[A-ZÀ-Ž][\w’'-]+"
CITED = re.compile(rf"({_AUTHOR}(?:(?:, {_AUTHOR})* & {_AUTHOR}| et al\.)?),?\s+\(?((?:19|20)\d\d)\b")
_ENTRY = re.compile(r"^- \*\*([^*]+ \d{4})\*\*", re.MULTILINE)
_TAG = re.compile(r"(<[^>]*>)")
_CLOSED = ("a", "code", "pre", "h1", "h2", "h3", "title", "script", "svg")  # whose text is left alone


def entries() -> set[str]:
    """Returns what the bibliography has, as it is cited."""
    return set(_ENTRY.findall((ROOT / "docs" / PAGE).read_text()))


def cited(text: str) -> set[str]:
    """Returns the citations in a text, "Author Year"."""
    return {f"{author} {year}" for author, year in CITED.findall(" ".join(text.split()))}


def slug(key: str) -> str:
    """Returns the anchor of an entry."""
    return re.sub(r"\W+", "-", key.lower()).strip("-")


def on_page_markdown(markdown: str, page: Any, **_) -> str:
    """Gives the entries of the bibliography their anchors."""
    if page.file.src_uri != PAGE:
        return markdown
    seen: set[str] = set()

    def anchored(entry: re.Match[str]) -> str:
        new = entry[1] not in seen
        seen.add(entry[1])
        return f'- <span id="{slug(entry[1])}"></span>**{entry[1]}**' if new else entry[0]

    return _ENTRY.sub(anchored, markdown)


def on_page_content(html: str, page: Any, **_) -> str:
    """Links the citations of a page, outside code, headings and other links."""
    if page.file.src_uri in (PAGE, "changelog.md"):
        return html
    target = posixpath.relpath("bibliography.html", posixpath.dirname(page.file.dest_uri) or ".")
    return linked(html, target, entries())


def linked(html: str, target: str, known: set[str]) -> str:
    """Returns a page whose citations of known papers are links."""
    depth, parts = 0, _TAG.split(html)
    for place, part in enumerate(parts):
        if part.startswith("<"):
            name = re.match(r"</?(\w+)", part)
            closed = name is not None and name[1] in _CLOSED and not part.endswith("/>")
            depth += (-1 if part.startswith("</") else 1) * closed
        elif not depth:
            parts[place] = _linked(part, target, known)
    return "".join(parts)


def _linked(text: str, target: str, known: set[str]) -> str:
    def link(found: re.Match[str]) -> str:
        key = f"{found[1].replace('&amp;', '&')} {found[2]}"
        key = " ".join(key.split())
        return f'<a href="{target}#{slug(key)}">{found[0]}</a>' if key in known else found[0]

    return re.sub(CITED.pattern.replace(" & ", " (?:&|&amp;) ").replace(" et al", r"\s+et\s+al"), link, text)

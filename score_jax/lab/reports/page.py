"""A page of HTML in one file: no network, no script, light and dark; all that is put into it is escaped here.

Names and reasons come from folders, which may be a stranger's: text goes through `text`, pictures are PNG files put
in as they are, and the page forbids everything but these and its own style.
"""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 8_000_000  # bytes of a picture

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2126; --soft: #5b6470; --line: #d9dde2;
  --panel: #f6f7f9; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b5568f; --c4: #b37a00; --c5: #2f86b8;
  --c6: #6b5bd0; --c7: #6f7680; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171a; --ink: #e7eaed; --soft: #9aa4af; --line: #353b42; --panel: #1c2024;
    --c0: #56b4e9; --c1: #ff8c42; --c2: #35c79b; --c3: #e29ac4; --c4: #f0b93a; --c5: #8fd0f5;
    --c6: #a99cf5; --c7: #aab2bb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 20px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.3em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2em 0 0.5em; }
h3 { font-size: 0.95rem; margin: 0 0 0.4em; overflow-wrap: anywhere; }
p, li { overflow-wrap: anywhere; max-width: 80ch; }
.soft, figcaption { color: var(--soft); font-size: 0.86rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 0.6em 0; }
table { border-collapse: collapse; font-size: 0.88rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wide { white-space: normal; min-width: 12em; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; }
th { background: var(--panel); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.tiles { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
figure { margin: 0; padding: 12px; border: 1px solid var(--line); border-radius: 6px; min-width: 0; }
figure img { width: 100%; height: auto; display: block; background: #ffffff; image-rendering: pixelated; }
figure img.smooth { image-rendering: auto; }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none; } svg .rule { stroke: var(--line); stroke-width: 1; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 14px; padding: 0; margin: 6px 0 0; }
.keys { font-size: 0.82rem; }
.keys span { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
"""


class Markup(str):
    """HTML that is safe as it stands: made here of escaped parts, never of what a folder holds."""


def text(value: Any) -> Markup:
    """Returns a text, escaped; markup as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def element(tag: str, *children: Any, **attributes: str) -> Markup:
    """Returns `<tag attributes>children</tag>`, all escaped; `class_` is the attribute class."""
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for name, value in attributes.items()
    )
    return Markup(f"<{tag}{told}>{joined(children)}</{tag}>")


def joined(parts: Iterable[Any]) -> Markup:
    """Returns texts and markup one after the other."""
    return Markup("".join(map(text, parts)))


def section(title: str, *children: Any) -> Markup:
    """Returns a titled part of the page; nothing where all children are empty."""
    return element("section", element("h2", title), *children) if any(children) else Markup()


def rows(head: Sequence[Any], body: Iterable[Sequence[Any]], *, numbers: int = 0, wide: bool = False) -> Markup:
    """Returns a table that scrolls within itself.

    Args:
      head: titles of the columns.
      body: rows of texts or markup.
      numbers: how many of the last columns are numbers, to the right.
      wide: let all columns but the first break into lines.
    """
    first = len(head) - numbers
    of = lambda i: {"class_": "number"} if i >= first else {}
    of_cell = lambda i: {"class_": "wide"} if wide and i else of(i)
    lines = [element("tr", *(element("td", cell, **of_cell(i)) for i, cell in enumerate(row))) for row in body]
    if not lines:
        return Markup()
    top = element("tr", *(element("th", title, **of(i)) for i, title in enumerate(head))) if any(head) else ""
    return element("div", element("table", element("thead", top), element("tbody", *lines)), class_="scroll")


def picture(path: Path, caption: Any, *, smooth: bool = False) -> Markup:
    """Returns a PNG file with what it shows below it; nothing where there is none."""
    data = path.read_bytes() if path.is_file() and os.path.getsize(path) <= _LARGEST else b""
    if not data.startswith(_PNG):
        return Markup()
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    kind = {"class_": "smooth"} if smooth else {}
    image = element("img", src=source, alt=str(caption), loading="lazy", **kind).removesuffix("</img>")
    whose = path.parent / "attribution.txt"  # as `pictures.write_attribution` leaves it
    named = [element("small", whose.read_text(errors="replace"))] if whose.is_file() else []
    return element("figure", Markup(image), element("figcaption", caption), *named)


def document(title: str, *children: Any) -> str:
    """Returns the whole page."""
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            Markup(f"<style>{_STYLE}</style>"),
        ]
    )
    body = element("body", element("main", *children))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'

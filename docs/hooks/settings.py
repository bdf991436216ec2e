"""Every setting, as score_jax/lab/settings.py says it: `<!-- settings -->` becomes its paragraphs, with headings."""

import ast
import re
import textwrap
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "score_jax/lab/settings.py"
_DIRECTIVE = "<!-- settings -->"


def on_page_markdown(markdown: str, **_) -> str:
    """Returns a page with the settings in place of the directive."""
    return markdown.replace(_DIRECTIVE, "\n\n".join(_paragraph(text) for text in paragraphs()))


def paragraphs() -> list[str]:
    """Returns the parts of `get_config`, which empty lines keep apart, without its first line and its last."""
    source = SOURCE.read_text()
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "get_config")
    lines = source.split("\n")[function.body[1].lineno - 1 : function.body[-1].lineno - 1]
    return textwrap.dedent("\n".join(lines)).strip().split("\n\n")


def _paragraph(text: str) -> str:
    sections = dict.fromkeys(re.findall(r"\bconfig\.(\w+)", text))
    return f"## {', '.join(sections)}\n\n```python\n{text}\n```"

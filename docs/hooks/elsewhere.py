"""Markdown that is kept elsewhere in the repository, as pages: studies, benchmarks, CONTRIBUTING.md, CHANGELOG.md.

Links in the sources are those of the repository, so that they work there too. Here one to such a file, or to a module
of the package, becomes a link to its page, and one to any other file or folder outside docs/ its text alone.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
SINGLE = {
    "benchmarks/README.md": "benchmarks.md",
    "experiments/posterior_benchmark/README.md": "studies/posterior_benchmark.md",
    "experiments/reproduce/README.md": "reproduce.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


_BOOSTS = {"changelog.md": 0.1, "bibliography.md": 2, "claims.md": 1, "settings.md": 15}


def sources() -> dict[str, str]:
    """Returns the page of each file, both as paths: of the repository, and of the site."""
    studies = sorted(ROOT.glob("experiments/studies/*/README.md"))
    return {str(file.relative_to(ROOT)): f"studies/{file.parent.name}.md" for file in studies} | SINGLE


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    studies = [page for page in sources().values() if page.startswith("studies/")]
    place = next(n for n, entry in enumerate(config.nav) if "Bibliography" in entry)
    measured = [*studies, {"Benchmarks": "benchmarks.md"}, {"Published results, a command each": "reproduce.md"}]
    config.nav.insert(place, {"Studies and benchmarks": measured})
    config.nav += [{"Contributing": "contributing.md"}, {"Changes": "changelog.md"}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the files, and the pictures that stand beside them."""
    from mkdocs.structure.files import File  # deferred: sources() and links are tested without it

    for source, page in sources().items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
        for picture in sorted((ROOT / source).parent.glob("*.png")) if "/" in source else []:
            files.append(File.generated(config, _picture(source, picture.name), abs_src_path=str(picture)))
    return files


def _picture(source: str, name: str) -> str:
    return posixpath.join("pictures", posixpath.basename(posixpath.dirname(source)), name)


def on_page_markdown(markdown: str, page: Any, **_) -> str:
    """Returns a page whose links are those of the site; what explains comes before what lists in a search."""
    if not page.file.src_uri.startswith("reference/"):
        page.meta.setdefault("search", {"boost": _BOOSTS.get(page.file.src_uri, 1 if _is_from_elsewhere(page) else 8)})
    return with_links(markdown, page.file.src_uri)


def _is_from_elsewhere(page: Any) -> bool:
    return page.file.src_uri in sources().values()


def with_links(markdown: str, page: str) -> str:
    """Returns a page's text, links of the repository turned into those of the site."""
    of_page = {made: source for source, made in sources().items()}
    source = of_page.get(page, f"docs/{page}")
    return _LINK.sub(lambda link: _link(link, source, page), markdown)


def _link(link: re.Match[str], source: str, page: str) -> str:
    picture, text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or re.match(r"\w+:", path):
        return link[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    made = _page_of(file)
    if made is None:
        return text
    relative = posixpath.relpath(made, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({relative}{'#' if anchor else ''}{anchor})"


def _page_of(file: str) -> str | None:
    """The site's path of a file of the repository; None where it has none."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    if file.endswith(".png"):
        return _picture(file, posixpath.basename(file))
    if file.startswith("score_jax/") and file.endswith(".py"):  # its page of the API reference
        return re.sub(r"^score_jax/(.*?)(__init__)?\.py$", lambda m: f"reference/{m[1]}{'index' * bool(m[2])}.md", file)
    return {"README.md": "index.md", **sources()}.get(file)

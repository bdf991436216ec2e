"""What mkdocs is told about the pages: a hook of mkdocs.yml.

- `<!-- include: FILE NAME -->` becomes what stands in that file of the repository between `<!-- NAME -->` and
  `<!-- /NAME -->`: a measured number stands in one place.
- Links to files of the repository outside docs/ become their names: the site is not the repository.
- A page of the reference is made for each module and package of score_jax, of its public names; and one of settings.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_INCLUDED = re.compile(r"^<!-- include: (\S+) (\S+) -->$", re.MULTILINE)
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./(?:\.\./)*([^)#\s]+)(?:#[^)]*)?\)")


def packages() -> Iterator[tuple[str, list[str]]]:
    """Yields the pages of the reference: a dotted name, and the modules that the page has."""
    for path in sorted((ROOT / "score_jax").rglob("__init__.py")):
        name = ".".join(path.parent.relative_to(ROOT).parts)
        modules = [f"{name}.{file.stem}" for file in sorted(path.parent.glob("[!_]*.py"))]
        if name != "score_jax":
            yield name, [name, *modules]
        else:
            yield from ((module, [module]) for module in modules)


def included(markdown: str) -> str:
    """Returns a page with what it includes, links of which lead from the repository's root."""

    def text(match: re.Match[str]) -> str:
        file, name = match.groups()
        parts = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", (ROOT / file).read_text(), re.DOTALL)
        if len(parts) != 1:
            raise PluginError(f"{file} has {len(parts)} parts <!-- {name} --> … <!-- /{name} -->, expected one")
        return re.sub(r"!?\[([^\]]*)\]\((?!\w+:|#)[^)]*\)", r"\1", parts[0])

    return _INCLUDED.sub(text, markdown)


def without_links_outside(markdown: str) -> str:
    """Returns a page whose links to files that the site has not are these files' names."""

    def name(match: re.Match[str]) -> str:
        text, file = match.groups()
        return text if text.strip("`") == file or not text else f"{text} (`{file}`)"

    return _OUTSIDE.sub(name, markdown)


def settings() -> str:
    """Returns the page of settings: the file itself, which explains each beside its default."""
    code = (ROOT / "score_jax/lab/settings.py").read_text()
    body = code.split("def get_config() -> ConfigDict:\n")[1].split("    return config\n")[0]
    return (
        "# Settings\n\nEvery setting there is, with its default, from `score_jax/lab/settings.py`. A config file shows "
        "only what differs, and each can be changed on the command line, `--config.training.batch_size=64`.\n\n"
        f"```python\n{re.sub('^    ', '', body, flags=re.MULTILINE)}```\n"
    )


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages that are made here."""
    made = {f"reference/{name}.md": _reference(name, modules) for name, modules in packages()}
    for uri, text in (made | {"settings.md": settings()}).items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_config(config: Any) -> Any:
    """Lists the reference's pages in the navigation."""
    entry = next(item for item in config.nav if "Reference" in item)
    entry["Reference"] = [{name.removeprefix("score_jax."): f"reference/{name}.md"} for name, _ in packages()]
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Includes, and takes links away that lead outside."""
    return without_links_outside(included(markdown))


def _reference(name: str, modules: list[str]) -> str:
    parts = [f"::: {module}\n    options: {{members: {_defined_in(module)}}}\n" for module in modules]
    return f"# {name.removeprefix('score_jax.')}\n\n" + "\n".join(parts)


def _defined_in(module: str) -> str:
    """The public names of a module, as YAML; what a package re-exports stands with the module it is from."""
    path = ROOT.joinpath(*module.split("."))
    code = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    names = [node.name for node in code.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in code.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return str([name for name in names if not name.startswith("_")]) if names else "false"

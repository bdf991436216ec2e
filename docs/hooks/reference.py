"""The API reference: a page for each module of score_jax with public names, made when the site is built.

What is public is read from the source, nothing is imported: functions, classes and names that a module defines without
a leading underscore. A package's page lists all that its modules have, and what it passes on itself (`__all__`).
"""

import ast
import json
import posixpath
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "score_jax"
_GROUPS = (
    ("Noise", ("sde", "kernels", "distributions", "noise_levels")),
    ("Scores and networks", ("score", "parameterization", "conditions", "adapters", "networks")),
    ("Losses, training, data", ("losses", "training", "data")),
    ("Sampling", ("sampling", "conditioning", "likelihood", "integrate")),
    ("Measures and pictures", ("metrics", "plotting")),
    ("Published checkpoints", ("interop", "pickles")),
    ("Arrays and devices", ("types", "pytrees", "arrays", "devices", "backend")),
    ("The lab: settings and commands", ("lab",)),
)


class Module(NamedTuple):
    """A module as the reference shows it.

    Attributes:
      name: dotted.
      page: of the site.
      summary: first line of its text.
      names: its public names, each with the first line of its text.
      passed_on: of a package, what `__all__` has that is defined elsewhere, with the dotted name of the original.
      is_package: whether it has modules.
    """

    name: str
    page: str
    summary: str
    names: dict[str, str]
    passed_on: dict[str, str]
    is_package: bool


def modules() -> list[Module]:
    """Returns all modules of the package that have public names, packages before their modules."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"), key=lambda file: file.with_suffix("").parts)
    found = [_module(file) for file in sorted(files, key=lambda file: (file.parent, file.name != "__init__.py"))]
    return [module for module in found if module.names or module.is_package]


def _module(file: Path) -> Module:
    parts = file.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    parts = parts[:-1] if is_package else parts
    tree = ast.parse(file.read_text())
    page = "/".join(("reference", *parts[1:], *(["index"] if is_package else []))) + ".md"
    passed_on = _passed_on(tree) if is_package else {}
    return Module(".".join(parts), page, _first_line(tree), _names(tree), passed_on, is_package)


def _first_line(node: ast.AST) -> str:
    text = ast.get_docstring(node) or "" if isinstance(node, _DOCUMENTED) else ""
    return " ".join(text.split("\n\n")[0].split())


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def _names(tree: ast.Module) -> dict[str, str]:
    """Public names that a module defines: functions, classes, and what it assigns."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = _first_line(node)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id: "" for target in targets if isinstance(target, ast.Name)}
    return {name: line for name, line in names.items() if not name.startswith("_")}


def _passed_on(tree: ast.Module) -> dict[str, str]:
    """Where what a package imports from itself is defined, by name."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    inside = [node for node in imports if (node.module or "").startswith(PACKAGE)]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in inside for alias in node.names}


def text_of(module: Module, known: dict[str, Module]) -> str:
    """Returns the page of a module as Markdown."""
    boost = 0.01 if module.name.startswith(f"{PACKAGE}.lab.") else 0.05  # what others call comes first in a search
    members = sorted(module.names) if module.is_package else None  # what it passes on stands where it is defined
    options = f"    options: {{members: {json.dumps(members or False)}}}\n" if module.is_package else ""
    head = f"---\nsearch: {{boost: {boost}}}\n---\n\n# {module.name}\n\n::: {module.name}\n{options}"
    if not module.is_package:
        return head
    below = [known[name] for name in known if name.rpartition(".")[0] == module.name]
    return (
        head + "\n" + "\n".join(_passed_on_lines(module, known)) + "\n".join(_section(other, module) for other in below)
    )


def _passed_on_lines(module: Module, known: dict[str, Module]) -> list[str]:
    named = {name: path for name, path in module.passed_on.items() if not name.startswith("_") and path not in known}
    lines = [
        f"| [`{module.name.removeprefix(PACKAGE + '.')}.{name}`][{path}] | {_cell(_line(path, known))} |"
        for name, path in named.items()
    ]
    return ["", "## Reached as", "", "| name | |", "|---|---|", *lines, "", ""] if lines else []


def _line(path: str, known: dict[str, Module]) -> str:
    module, _, name = path.rpartition(".")
    return known[module].names.get(name, "") if module in known else ""


def _section(module: Module, package: Module) -> str:
    rows = [f"| [`{name}`][{module.name}.{name}] | {_cell(line)} |" for name, line in module.names.items()]
    table = ["", "| name | |", "|---|---|", *rows, ""] if rows else [""]
    heading = f"## {module.name.rpartition('.')[2]}"
    return "\n".join(["", heading, "", f"{_link(module, package)}: {module.summary}", *table])


def _link(module: Module, place: Module) -> str:
    return f"[`{module.name}`]({posixpath.relpath(module.page, posixpath.dirname(place.page))})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def overview(known: dict[str, Module]) -> str:
    """Returns the reference's first page: the namespaces, by what they are for."""
    lines = ["# API reference", "", "`import score_jax` imports nothing; a namespace comes when it is asked for."]
    for title, names in _GROUPS:
        group = [known[f"{PACKAGE}.{name}"] for name in names]
        rows = [f"| {_link(module, known[PACKAGE])} | {_cell(module.summary)} |" for module in group]
        lines += ["", f"## {title}", "", "| | |", "|---|---|", *rows]
    return "\n".join(lines)


def navigation(known: dict[str, Module]) -> list[Any]:
    """Returns the entries of the navigation: namespaces in groups, modules in their packages."""
    return [
        "reference/index.md",
        *({title: [_entry(known, f"{PACKAGE}.{n}") for n in names]} for title, names in _GROUPS),
    ]


def _entry(known: dict[str, Module], name: str) -> dict[str, Any]:
    module, short = known[name], name.rpartition(".")[2]
    below = [_entry(known, other) for other in known if other.rpartition(".")[0] == name]
    return {short: [module.page, *below] if below else module.page}


def on_config(config: Any) -> Any:
    """Adds the reference to the navigation."""
    place = next(n for n, entry in enumerate(config.nav) if "Bibliography" in entry)
    config.nav.insert(place, {"API reference": navigation({module.name: module for module in modules()})})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    from mkdocs.structure.files import File  # deferred: what the pages say is tested without it

    known = {module.name: module for module in modules()}
    for module in known.values():
        text = overview(known) if module.name == PACKAGE else text_of(module, known)
        files.append(File.generated(config, module.page, content=text))
    return files

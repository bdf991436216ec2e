"""Python and the packages' versions, against the bounds of pyproject.toml and the versions that were tested together.

Only the standard library is imported here: what is missing could not even be imported by the other checks.
"""

import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding

_CLONE = Path(__file__).parents[3]
_TOLD = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_IMPORTED = ("jax", "flax", "optax", "orbax.checkpoint", "ml_collections", "absl.flags", "matplotlib", "PIL", "yaml")
_PACKAGES = {"orbax.checkpoint": "orbax-checkpoint", "ml_collections": "ml-collections", "absl.flags": "absl-py"}
_PACKAGES |= {"PIL": "pillow", "yaml": "pyyaml", "jax": "jax jaxlib"}
PLUGINS = {"cuda": ("jax-cuda13-plugin", "jax-cuda12-plugin"), "tpu": ("libtpu",)}

Installed = Callable[[str], str | None]  # a package's name -> its version, None where it is not installed


def installed_version(name: str) -> str | None:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_here() -> tuple[str, dict[str, str]]:
    """Returns the bound of Python and those of the packages by name, as the clone has them, or the installed package.

    Bounds are written as requirements have them, ">=0.10.2,<1".
    """
    file = _CLONE / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], bounds_of(project["dependencies"])
    metadata = importlib.metadata.metadata("score-jax")
    return metadata["Requires-Python"], bounds_of(importlib.metadata.requires("score-jax") or [])


def bounds_of(requirements: Sequence[str]) -> dict[str, str]:
    """Returns bounds by name of requirements such as "jax>=0.10.2"; those of extras are left out."""
    parts = [re.match(r"([\w.-]+)\s*([^;]*)", text) for text in requirements if "extra ==" not in text]
    return {part[1]: part[2].strip() for part in parts if part}


def known_good(version: tuple[int, int] = sys.version_info[:2]) -> dict[str, str]:
    """Returns the versions that were tested together on a Python, by name; none where there is no list of it."""
    file = _CLONE / "requirements" / f"known-good-py{version[0]}{version[1]}.txt"
    lines = file.read_text(encoding="utf-8").split() if file.is_file() else []
    return dict(line.split("==") for line in lines if "==" in line)


def fits(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as ">=0.10.1,<=0.10.2"."""
    tests: dict[str, Callable[[list[int], list[int]], bool]] = {
        ">=": lambda v, b: v >= b,
        "<=": lambda v, b: v <= b,
        "==": lambda v, b: v == b,
        ">": lambda v, b: v > b,
        "<": lambda v, b: v < b,
        "!=": lambda v, b: v != b,
    }
    parts = [re.fullmatch(r"\s*(>=|<=|==|!=|>|<)\s*([\d.]+)\s*", part) for part in bounds.split(",")]
    return all(tests[part[1]](_numbers(version), _numbers(part[2])) for part in parts if part)


def _numbers(version: str) -> list[int]:
    """Its numbers, without zeros at the end: 2.0 is 2."""
    found = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]  # type: ignore[index]
    while found and not found[-1]:
        found.pop()
    return found


def check_python(bounds: str, version: str = sys.version.split()[0]) -> Finding:
    """Looks at Python's version."""
    if fits(version, bounds):
        return Finding(OK, "python", f"{version} at {sys.executable}")
    oldest = bounds.removeprefix(">=")
    cure = f"python{oldest} -m venv .venv && . .venv/bin/activate && pip install -e ."
    return Finding(WRONG, "python", f"{version}, and {bounds} is needed", cure)


def check_packages(bounds: Mapping[str, str], installed: Installed = installed_version) -> list[Finding]:
    """Looks for every package that is required, and at its version."""
    found = {name: installed(name) for name in bounds}
    wrong = []
    for name, version in found.items():
        if version is None or not fits(version, bounds[name]):
            said = "is not installed" if version is None else f"is {version}"
            wrong.append(
                Finding(
                    WRONG, "packages", f"{name} {said}; expected {bounds[name]}", f"pip install '{name}{bounds[name]}'"
                )
            )
    told = ", ".join(f"{name} {found[name]}" for name in _TOLD if found.get(name))
    return wrong or [Finding(OK, "packages", f"{len(found)} within their bounds; {told}")]


def check_jaxlib(installed: Installed = installed_version, asked: Sequence[str] | None = None) -> list[Finding]:
    """Looks whether jax and jaxlib belong together: jax says which jaxlib it works with."""
    jax, jaxlib = installed("jax"), installed("jaxlib")
    if jax is None or jaxlib is None:
        return []  # which `check_packages` says
    asked = (importlib.metadata.requires("jax") or []) if asked is None else asked
    bounds = bounds_of(asked).get("jaxlib", "")
    if fits(jaxlib, bounds):
        return [Finding(OK, "jaxlib", f"{jaxlib} goes with jax {jax}")]
    found = f"jaxlib {jaxlib} does not go with jax {jax}, which asks for {bounds}"
    return [Finding(WRONG, "jaxlib", found, f"pip install 'jax=={jax}' 'jaxlib{bounds}'")]


def check_known_good(good: Mapping[str, str], installed: Installed = installed_version) -> Finding:
    """Looks whether versions are newer than those that were tested together."""
    name = f"requirements/known-good-py{sys.version_info[0]}{sys.version_info[1]}.txt"
    if not good:
        return Finding(NOTE, "tested with", f"there is no {name}: these versions were not tested together")
    newer = [(key, installed(key), good[key]) for key in _TOLD if key in good and installed(key)]
    newer = [(key, here, there) for key, here, there in newer if here and not fits(here, f"<={there}")]
    if not newer:
        return Finding(OK, "tested with", f"no newer versions than in {name}")
    said = ", ".join(f"{key} {here} ({there})" for key, here, there in newer)
    return Finding(NOTE, "tested with", f"newer than tested: {said}; should something fail, pip install -r {name}")


def check_plugins(there: Sequence[str], installed: Installed = installed_version) -> Iterator[Finding]:
    """Looks whether JAX's plugins for the devices that are there are installed, in jaxlib's version.

    Args:
      there: kinds of accelerators that the machine has: "cuda", "tpu".
      installed: of packages.
    """
    jaxlib = installed("jaxlib")
    for kind in there:
        found = {name: installed(name) for name in PLUGINS[kind] if installed(name)}
        if not found:
            said = f"there is a device for {kind}, and JAX's plugin for it, {PLUGINS[kind][0]}, is not installed"
            yield Finding(WRONG, "plugin", said, f"pip install -e '.[{kind}]'")
        for name, version in found.items():
            if kind == "cuda" and version != jaxlib:
                extra = name.removeprefix("jax-").removesuffix("-plugin")
                said = f"{name} {version} does not go with jaxlib {jaxlib}: both have to be of one version"
                yield Finding(WRONG, "plugin", said, f"pip install --upgrade 'jax[{extra}]=={jaxlib}'")
            else:
                yield Finding(OK, "plugin", f"{name} {version}")


def check_imports(
    names: Sequence[str] = _IMPORTED, load: Callable[[str], object] = importlib.import_module
) -> Iterator[Finding]:
    """Imports what the lab is made of: an installed package may be broken, or not go with another.

    Args:
      names: of modules.
      load: imports one.
    """
    for name in names:
        try:
            load(name)
        except Exception as error:  # whatever a broken package raises
            said = " ".join(str(error).split())[:200]
            package = _PACKAGES.get(name, name)
            cure = f"pip install --force-reinstall {package}"
            yield Finding(WRONG, "imports", f"{name} cannot be imported: {type(error).__name__}: {said}", cure)


def all_of_packages() -> list[Finding]:
    """Returns what there is to say of this Python and its packages."""
    python, bounds = required_here()
    versions = [check_python(python), *check_packages(bounds), *check_jaxlib(), check_known_good(known_good())]
    whole = all(finding.state != WRONG for finding in versions)
    return [*versions, *(check_imports() if whole else ())]

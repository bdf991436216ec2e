"""What is handed out beside the code: types, metadata, citation, workflows; the wheel and the sdist."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import score_jax

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
SCRIPT = ROOT / "tests/typed/script.py"


def jobs(path: Path) -> dict:
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path: Path) -> list[dict]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def hooks() -> list[str]:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return [hook["entry"] for hook in local["hooks"]]


def test_what_workflows_call_is_there():
    called = "\n".join(step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step)
    targets = set(re.findall(r"\bmake ([\w-]+)", called))
    assert targets >= {"test", "lint", "docs"}
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert [name for name in re.findall(r"\b[\w/]+\.(?:py|toml)\b", called) if not (ROOT / name).is_file()] == []


def test_pre_commit_checks_what_make_lint_does():
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    linted = {re.sub(r" --check| \.$", "", line) for line in re.findall(r"\$\(RUN\) (.*)", lint)}
    assert {hook.removeprefix(".venv/bin/python ").removesuffix(" --force-exclude") for hook in hooks()} == linted


def test_the_tests_run_on_every_python_that_the_package_names():
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", c)]
    assert jobs(ROOT / ".github/workflows/tests.yml")["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    set_up = [step for path in WORKFLOWS for step in steps(path) if "setup-python" in step.get("uses", "")]
    assert {step["with"]["python-version"] for step in set_up} - {"${{ matrix.python }}"} <= set(named)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_read_only_and_pin_their_actions(path):
    whole = yaml.safe_load(path.read_text())
    assert whole["permissions"] == {"contents": "read"} and "concurrency" in whole
    assert all("timeout-minutes" in job for job in whole["jobs"].values() if "steps" in job)
    granted = {name: job["permissions"] for name, job in whole["jobs"].items() if "permissions" in job}
    assert granted == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", name)] == []
    assert "secrets." not in path.read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_of_issues_ask_for_what_they_name(path):
    form = yaml.safe_load(path.read_text())
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert form["name"] and form["description"] and all(part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_a_new_sampler_comes_with_equation_identity_and_row():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/new_sampler.yml").read_text())
    required = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}
    assert required >= {"source", "equation", "identity", "row"}


def bibtex() -> dict[str, str]:
    """The fields of CITATION.bib, without braces and backslashes."""
    fields = re.findall(r"^  (\w+) *= \{(.*)\},$", (ROOT / "CITATION.bib").read_text(), re.MULTILINE)
    return {name: re.sub(r"[{}\\]", "", text) for name, text in fields}


def test_citations_say_what_the_package_says():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    authors = [author["name"] for author in cff["authors"]]
    assert (str(cff["version"]), cff["license"]) == (PROJECT["version"], PROJECT["license"])
    assert authors == [author["name"] for author in PROJECT["authors"]]
    assert set(cff["keywords"]) == set(PROJECT["keywords"])
    year = {"year": str(cff["date-released"])[:4]} if "date-released" in cff else {}
    told = {"title": cff["title"], "author": " and ".join(authors), "version": str(cff["version"])}
    assert bibtex() == told | {"license": cff["license"]} | year


def test_checkers_see_every_namespace():
    block = next(node for node in ast.parse(Path(score_jax.__file__).read_text()).body if isinstance(node, ast.If))
    seen = [alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert seen == dir(score_jax)


# What a checker has to find wrong below the script, with mypy's word for it.
WRONG = {
    "sampling.ddim(vp)": "call-arg",
    "sampling.ddim(vp, model(variables), eta='half')": "arg-type",
    "losses.diffusion_loss(key, vp, model(variables))": "call-arg",
    "losses.diffusion_loss(key, vp, model(variables), x0, weights=None)": "call-arg",
    "end: Array = sampling.sample(key, sampling.euler(vp, model(variables)), x0, ts, trace=len)": "assignment",
    "score_jax.sde.VP(beta_max='20')": "arg-type",
    "score_jax.sde.VPP()": "attr-defined",
    "score_jax.loses": "attr-defined",
    "adapters.linen(network).modul": "attr-defined",
    "1 + score_jax.__version__": "operator",
}


@pytest.fixture
def script_and_errors(tmp_path) -> tuple[Path, list[int]]:
    """The user's script with all that is wrong below it, and the lines of that."""
    script, path = SCRIPT.read_text(), tmp_path / "script.py"
    path.write_text(script + "\n".join(WRONG) + "\n")
    return path, [script.count("\n") + i for i in range(1, len(WRONG) + 1)]


def mypy(file: Path, python: str | Path) -> list[str]:
    """The errors that strict mypy finds, as "line:word", with the packages that `python` has."""
    config = file.with_name("mypy.ini")  # Optax has no types
    config.write_text("[mypy]\nstrict = True\n[mypy-optax.*]\nignore_missing_imports = True\n")
    options = ["--config-file", config, "--cache-dir", file.with_name("cache"), "--python-executable", python]
    command = [sys.executable, "-m", "mypy", *options, file]
    done = subprocess.run(command, capture_output=True, text=True, cwd=file.parent)
    assert done.returncode in (0, 1), done.stderr
    return [":".join(found) for found in re.findall(r":(\d+): error: .*\[([a-z-]+)\]", done.stdout)]


@pytest.fixture
def from_here(monkeypatch) -> None:
    """Has other processes import the package from here, whatever else is installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@pytest.mark.slow  # 10 s: mypy reads JAX without a cache
def test_mypy_accepts_a_users_script_and_reports_what_is_wrong(script_and_errors, from_here):
    script, lines = script_and_errors
    assert mypy(script, sys.executable) == [f"{line}:{word}" for line, word in zip(lines, WRONG.values(), strict=True)]


@pytest.mark.slow  # and where pyright is installed, as the workflow does
def test_pyright_accepts_a_users_script_and_reports_what_is_wrong(script_and_errors, from_here):
    pytest.importorskip("pyright")
    script, lines = script_and_errors
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, script]
    told = subprocess.run(command, capture_output=True, text=True, cwd=script.parent).stdout
    errors = dict.fromkeys(re.findall(r":(\d+):\d+ - error", told))  # one wrong call may be several
    assert list(errors) == [str(line) for line in lines], told


def run(*command: object, **options: Any) -> str:
    """What a command prints that has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path) -> Path:
    """The Python of a new virtual environment."""
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder of the sdist, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name)
    python = environment(folder / "environment")
    run(python, "-m", "pip", "install", "build")
    run(python, "-m", "build", "--outdir", folder, folder / "clone")
    return folder


@pytest.mark.slow
def test_wheel_and_sdist_have_the_package_and_little_else(dist):
    name, tracked = f"score_jax-{PROJECT['version']}", run("git", "ls-files", "score_jax", cwd=ROOT).split()
    wheel = zipfile.ZipFile(dist / f"{name}-py3-none-any.whl").namelist()
    assert sorted(path for path in wheel if not path.startswith(f"{name}.dist-info/")) == sorted(tracked)
    assert "score_jax/py.typed" in tracked and f"{name}.dist-info/licenses/LICENSE" in wheel
    with tarfile.open(dist / f"{name}.tar.gz") as archive:
        source = archive.getnames()
    within = {path.split("/")[1] for path in source if "/" in path}
    beside = {"CHANGELOG.md", "CITATION.bib", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    assert within == beside | {"score_jax", "PKG-INFO", "score_jax.egg-info", "setup.cfg"}
    assert {f"{name}/{path}" for path in tracked} <= set(source)


@pytest.mark.slow  # two to three minutes: it installs JAX
def test_the_wheel_trains_in_an_empty_environment(dist, tmp_path, monkeypatch):
    python, empty = environment(tmp_path / "environment"), tmp_path / "empty"
    run(python, "-m", "pip", "install", *dist.glob("*.whl"))
    empty.mkdir()
    alone: Any = {"cwd": empty, "env": {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}}
    run(python, "-m", "score_jax.lab.train", "--workdir=run", "--config.training.steps=20", **alone)
    assert (empty / "run/checkpoints/20/sha256.json").is_file() and (empty / "run/samples/grid.png").is_file()
    assert run(python, "-c", "import score_jax; print(score_jax.__version__)", **alone).strip() == PROJECT["version"]
    shutil.copy(SCRIPT, empty)
    run(python, "script.py", **alone)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert mypy(empty / "script.py", python) == []

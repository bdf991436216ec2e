"""The pages of the site and README: their snippets run, their commands are taken, and what they include is there."""

import contextlib
import os
import re
import shlex
from pathlib import Path

import pytest

from score_jax import data, metrics
from score_jax.lab import command, settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if "command import run" in path.read_text())
SHARED = ("command", "joining", "opened")  # modules of the lab whose flags several commands have


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def lines(page):
    """The commands of a page, continued lines as one, each as words."""
    code = blocks(page, "sh") + re.findall(r"\n\n((?:    (?:python|make) .*\n)+)", page.read_text())
    text = re.sub(r"\\\n\s*", " ", "\n".join(code))
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.split("#")[0].strip()]


SHOWN = [(page, words) for page in (ROOT / "README.md", *PAGES) for words in lines(page)]
IDS = [f"{page.stem}: {' '.join(words)[:80]}" for page, words in SHOWN]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for code in blocks(page, "python"):
            exec(compile(code, f"{page.name}", "exec"), names)


def flags_of(name):
    """The flags that a command's module defines, or one whose flags it shares."""
    code = [(ROOT / f"score_jax/lab/{module}.py").read_text() for module in (name, *SHARED)]
    return {"help", *re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", "\n".join(code))}


def script_of(words):
    """The command's name, or the file of a script, and its flags; None of other programs."""
    words = [word for word in words if "=" not in word or word.startswith("-")]  # variables before it
    if words[:1] != ["python"]:
        return None, []
    if words[1] == "-m":
        name = words[2].removeprefix("score_jax.lab.")
        file = ROOT.joinpath(*name.split("."))
        return (name if name in COMMANDS else file / "__main__.py" if file.is_dir() else file.with_suffix(".py")), words
    stem = Path(words[1]).stem
    return (stem if words[1] == f"experiments/{stem}.py" and stem in COMMANDS else ROOT / words[1]), words


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=IDS)
def test_a_command_that_is_shown_takes_its_flags(page, words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    script, words = script_of(words)
    if script is None:
        return
    given = [word[2:].split("=")[0] for word in words if word.startswith("--")]
    dotted = [name for name in given if re.match(r"(config|grid)\.", name)]
    plain = {name.split(".")[0] for name in given if name not in dotted}
    if isinstance(script, Path):
        code = script.read_text()
        assert [name for name in plain if f'"--{name}"' not in code and name != "config"] == []
    else:
        assert plain <= flags_of(script)
    config = config_of(words)
    for name in dotted:
        settings.value_of(config, name.split(".", 1)[1])  # raises of a key that is not there


def config_of(words):
    file = next((word.split("=", 1)[1] for word in words if word.startswith("--config=")), "")
    there = (ROOT / file.split(":")[0]).is_file() and file
    return command.read_file(str(ROOT / file)) if there else settings.get_config()


def test_what_a_page_includes_is_there_and_every_page_is_in_the_navigation():
    for page in PAGES:
        for line in re.findall(r"^<!-- include.*", page.read_text(), re.MULTILINE):
            file, name = re.fullmatch(r"<!-- include: (\S+) (\S+) -->", line).groups()
            assert (ROOT / file).read_text().count(f"<!-- {name} -->") == 1, line
    shown = re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert {page.name for page in PAGES} == {*shown} - {"settings.md"}


def test_the_readmes_lines_find_all_modes_and_the_readme_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 25 and "5000" in code
    names: dict = {}
    exec(code.replace("5000", "1000"), names)
    assert float(metrics.mode_coverage(names["drawn"], data.toy.modes("eight_gaussians"), share=0.3)) == 1

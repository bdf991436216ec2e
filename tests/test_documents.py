"""What the Markdown files point to is there: links and pictures, files named in passing, modules to run."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
PAGES = [name for name in TRACKED.split("\0") if name.endswith(".md")]
FOLDERS = r"benchmarks|configs|docs|examples(?!/s\b)|experiments|notebooks|requirements|score_jax|tests"
WRITTEN = {"benchmarks/results"}  # by commands, and not tracked


def test_nothing_that_a_run_wrote_is_tracked():
    """Checkpoints and environment.json name paths of the machine that they were written on."""
    written = ("environment.json", "metrics.jsonl", "commit_success.txt", "report.html", "sweep.json")
    names = TRACKED.split("\0")
    assert [name for name in names if name.rsplit("/", 1)[-1] in written or "/checkpoints/" in name] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"", text)
    relative = [link for pair in links for link in pair if link and not re.match(r"\w+:|#", link)]
    assert [link for link in relative if not (ROOT / page).parent.joinpath(link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w/.-]*[\w/])", (ROOT / page).read_text())
    assert [name for name in named if name not in WRITTEN and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_to_be_run_exist(page):
    modules = re.findall(r"python -m ((?:experiments|score_jax)[a-z_.]*[a-z_])\b", (ROOT / page).read_text())
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []

"""The pages of docs/: their Python runs, their command lines are taken, what they include, link and cite is there."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from absl import flags
from PIL import Image

from score_jax import data, metrics
from score_jax.lab import command, condition, joining, settings
from score_jax.lab import sweep as sweep_command
from score_jax.lab.build import variants_of
from score_jax.lab.build.network import PARAMETERIZATIONS
from score_jax.lab.build.noise import SDES
from score_jax.lab.build.ranges import check_numbers
from score_jax.lab.build.sampling import SAMPLERS
from score_jax.lab.build.training import OPTIMIZERS
from score_jax.lab.records import as_json

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TEXTS = {str(page.relative_to(DOCS)): page.read_text() for page in sorted(DOCS.rglob("*.md"))}
# What makes the examples of a page short: pairs of what it says and what is run.
SHORTER = {
    "index.md": (("5000", "20"), ("n=1000", "n=8")),
}


def hook(name):
    """A module of docs/hooks."""
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(text):
    """The Python of a page: files of a package, by path, and the rest in order."""
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    named = {block: re.match(r"# (\w+/\w+\.py)\n", block) for block in blocks}
    return {name[1]: block for block, name in named.items() if name}, [b for b in blocks if not named[b]]


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if examples(text)[1]])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    files, blocks = examples(TEXTS[page])
    for path, block in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(block)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"__name__": "page"}
    for block in blocks:
        for whole, short in SHORTER.get(page, ()):
            block = block.replace(whole, short)
        exec(compile(block, page, "exec"), names)
    for module in [name for name in sys.modules if name.split(".")[0] in {path.split("/")[0] for path in files}]:
        del sys.modules[module]


def test_what_is_shortened_is_on_the_pages():
    assert [whole for page, pairs in SHORTER.items() for whole, _ in pairs if whole not in TEXTS[page]] == []


# Of commands in Python, in a script of experiments/launch, which hands its flags on, in blocks and in passing.
_COMMAND = re.compile(
    r"(?:python(?:3)? (?P<file>(?:experiments|benchmarks)/\w+\.py)"
    r"|python -m (?P<module>(?:experiments|score_jax)\.[\w.]+)"
    r"|experiments/launch/(?P<launch>\w+)\.sh)(?P<rest>[^`\n|;]*)"
)


def command_lines(text):
    """Module and words of each command line on a page; those that leave out what they say (…) are no commands."""
    joined = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: code[0].replace("\n", " "), text).replace("\\\n", " ")
    for found in _COMMAND.finditer(joined):
        words = shlex.split(re.sub(r"(^|\s)(#|>|and |or ).*", "", found["rest"]), posix=True)
        if found["launch"]:
            module = "train" if found["launch"] == "slurm" or not words else words.pop(0)
            module = f"score_jax.lab.{module}"
        else:
            module = found["module"] or found["file"].removesuffix(".py").replace("/", ".")
        words = [word.rstrip(".,:") if "(" in word else word.rstrip(".,:)") for word in words]
        if any(word.startswith("--") for word in words) and not any("…" in word or "NAME" in word for word in words):
            yield module, words


SHOWN = [(ROOT / "README.md").read_text(), *TEXTS.values()]
LINES = sorted({(module, *words) for text in SHOWN for module, words in command_lines(text)})


def test_there_are_command_lines():
    assert len(LINES) > 40 and {"experiments.train", "experiments.sweep", "experiments.condition"} <= {
        x[0] for x in LINES
    }


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """A folder with what the command lines name: a run's settings, and pictures."""
    folder = tmp_path_factory.mktemp("surroundings")
    config = settings.get_config()
    for name in ("digits", "emoji", "cifar", "spiral", "sbi"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "config.json").write_text(json.dumps(as_json(config.to_dict())))
    for name in ("torn.png", "mask.png", "a.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def parsed(monkeypatch, surroundings):
    """Parses a command line as its command does: returns the flags, which are gone afterwards."""
    before = set(flags.FLAGS)
    monkeypatch.chdir(surroundings)
    monkeypatch.setattr(command, "configure_backend", lambda config: None)

    def parse(module, words):
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *words])
        commands = importlib.import_module(module)
        lab = module.replace("experiments.", "score_jax.lab.")
        defining = importlib.import_module(lab) if importlib.util.find_spec(lab) else commands
        if module not in ("experiments.sweep", "experiments.plan", "experiments.doctor", "experiments.report"):
            joining.define()
        defining.define()
        command._parse(sys.argv)
        return flags.FLAGS

    yield parse
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def check_names(config):
    """Refuses a choice by name that there is none of."""
    tables = {"sde": SDES, "sampler": SAMPLERS, "parameterization": PARAMETERIZATIONS, "optimizer": OPTIMIZERS}
    tables |= {"objective": config.objective, "times": config.times}
    chosen = {section: config[section].name for section in tables}
    assert {s: name for s, name in chosen.items() if ":" not in name and name not in tables[s]} == {}


ABSL = ("train", "sample", "evaluate", "condition", "sweep", "plan", "doctor", "report", "noise_levels")


@pytest.mark.parametrize("line", [line for line in LINES if line[0].rsplit(".", 1)[-1] in ABSL], ids=" ".join)
def test_commands_take_the_flags_of_the_pages(line, parsed):
    module, *words = line
    # Published checkpoints are not here: their settings are a run's too.
    words = [re.sub("^--checkpoint=.*", "--workdir=runs/digits", word) for word in words]
    words = [re.sub("^--workdir=runs/.*", "--workdir=runs/digits", word) for word in words]
    if module.endswith("sweep") and not any(word.startswith(("--config=", "--sweep=", "--grid")) for word in words):
        words.append("--grid.seed=0")  # in place of the sweep that the folder holds
    given = parsed(module, words)
    if "config" in given and given["config"].value is not None:
        check_numbers(given.config)
        check_names(given.config)
    if module.endswith("condition"):
        condition.request(given, **condition._GIVEN)
    if module.endswith("sweep") and not given.report:
        assert sweep_command._cells(Path("sweeps/new"), variants_of(given.config))
    if "features" in str(words) and "config" in given:
        assert given.config.evaluation.features.name in ("grey", "efficientnet_lite0", "inception")


@pytest.mark.parametrize("line", [line for line in LINES if line[0].rsplit(".", 1)[-1] not in ABSL], ids=" ".join)
def test_scripts_know_the_flags_of_the_pages(line):
    module, *words = line
    spec = importlib.util.find_spec(module)
    origin = Path(spec.origin)
    file = origin.with_name("__main__.py") if spec.submodule_search_locations else origin
    shared = [ROOT / "benchmarks/timing.py", ROOT / "experiments/studies/study.py"]
    known = {
        n.value for f in (file, *shared) for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Constant)
    }
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == []


def test_settings_named_on_the_pages_exist():
    """`--config.section.key` in passing, and `section.key` in the first column of a table or in running text."""
    config = settings.get_config()
    sections = "|".join(name for name, value in config.items() if hasattr(value, "items"))
    named = {
        name
        for text in TEXTS.values()
        for name in re.findall(rf"`(?:--config\.|--grid\.)?((?:{sections})\.[a-z_0-9.]+)", text)
        if not name.endswith((".py", ".options")) and name.split(".")[1] in config[name.split(".")[0]]
    }
    assert len(named) > 30
    missing = []
    for name in named:
        section = config
        for part in name.split("."):
            section = section[part] if hasattr(section, "items") and part in section else missing.append(name) or {}
    assert [name for name in missing if ".options." not in name] == []


def test_tables_of_the_pages_are_those_of_their_files():
    tables = hook("tables")
    found = {page: tables.on_page_markdown(text) for page, text in TEXTS.items() if "<!-- table " in text}
    assert len(found) > 5 and all("<!-- table " not in text for text in found.values())
    assert "| DPM-Solver++ 2M | 1 |" in found["samplers.md"]


def test_a_table_is_cut_to_the_chosen_rows_and_columns():
    text = "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 \\| 3 | 4 |\n| 5 | 6 | 7 |\n\nof seed 0"
    assert hook("tables").chosen(text, rows=r"^\| 1", columns="2,3") == (
        "| b | c |\n| --- | --- |\n| 2 \\| 3 | 4 |\n\nof seed 0"
    )
    with pytest.raises(ValueError, match="no row"):
        hook("tables").chosen(text, rows="nothing")


def test_links_of_the_repository_become_links_of_the_site():
    links = hook("elsewhere").with_links
    study = "[s](../experiments/studies/few_steps/README.md#x) ![p](../experiments/studies/few_steps/errors.png)"
    assert links(study, "samplers.md") == "[s](studies/few_steps.md#x) ![p](pictures/few_steps/errors.png)"
    assert links("[c](../../../docs/plan.md) ![p](errors.png)", "studies/few_steps.md") == (
        "[c](../plan.md) ![p](../pictures/few_steps/errors.png)"
    )
    assert (
        links("[code](../configs/toy.py) [a](#b) [w](https://doi.org/1)", "own.md")
        == "code [a](#b) [w](https://doi.org/1)"
    )


def test_every_setting_is_on_its_page():
    text = "\n".join(hook("settings").paragraphs())
    assert all(re.search(rf"\bconfig\.{name}\b", text) for name in settings.get_config())
    assert "training.batch_size = 128" in text and "evaluation.bound_n" in text


def test_every_public_name_is_in_the_reference():
    modules = {module.name: module for module in hook("reference").modules()}
    for name in ("losses", "sampling", "conditioning", "metrics", "networks", "data", "training", "interop"):
        module = importlib.import_module(f"score_jax.{name}")
        passed_on = modules[f"score_jax.{name}"].passed_on
        assert [public for public in module.__all__ if public not in passed_on] == []
        originals = {passed_on[public] for public in module.__all__} - set(modules)
        assert [
            path for path in originals if path.rpartition(".")[2] not in modules[path.rpartition(".")[0]].names
        ] == []
    sde = importlib.import_module("score_jax.sde")
    own = {n for n, v in vars(sde).items() if getattr(v, "__module__", "") == sde.__name__ and not n.startswith("_")}
    assert own <= set(modules["score_jax.sde"].names)


def test_the_reference_and_its_overview_have_every_namespace():
    reference = hook("reference")
    known = {module.name: module for module in reference.modules()}
    top = {name.split(".")[1] for name in known if name.count(".") == 1}
    assert top == {name for _, names in reference._GROUPS for name in names}


def test_every_citation_of_a_page_has_an_entry_in_the_bibliography():
    """Those of docstrings: tests/test_bibliography.py."""
    citations = hook("citations")
    found = {
        page: citations.cited(text) - citations.entries() for page, text in TEXTS.items() if page != citations.PAGE
    }
    assert {page: missing for page, missing in found.items() if missing} == {}


def test_citations_become_links_outside_code_and_links():
    html = "<p>(Song et al. 2021, eq. 6; <code>Song et al. 2021</code>; Ho &amp; Salimans\n2022)</p>"
    linked = hook("citations").linked(html, "b.html", {"Song et al. 2021", "Ho & Salimans 2022"})
    assert linked == (
        '<p>(<a href="b.html#song-et-al-2021">Song et al. 2021</a>, eq. 6; <code>Song et al. 2021</code>; '
        '<a href="b.html#ho-salimans-2022">Ho &amp; Salimans\n2022</a>)</p>'
    )


def test_the_navigation_has_every_page():
    class Loader(yaml.SafeLoader):
        pass

    entries = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    assert sorted(pages_of(entries)) == sorted(TEXTS)


def pages_of(entry):
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(part)]


def test_pictures_are_small():
    assert [p.name for p in DOCS.rglob("*.png") if p.stat().st_size > 200_000] == []


def test_the_readmes_lines_find_all_modes_and_the_readme_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    (code,) = examples(text)[1]
    assert len(code.splitlines()) <= 25 and "5000" in code
    names: dict = {}
    exec(code.replace("5000", "1000"), names)
    assert float(metrics.mode_coverage(names["drawn"], data.toy.modes("eight_gaussians"), share=0.3)) == 1

"""The command line: config files and platforms that cannot be used are one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from score_jax.lab import command, settings
from score_jax.types import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "nothing.py", "nothing.py is not there; a variant stands behind it"),
        ("x = 1", "config.txt", r"config.txt is no Python file, FILE.py;"),
        ("def get_config(:", "config.py", r"SyntaxError: invalid syntax .*line 1\)"),
        ("x = 1\n", "config.py", "has no attribute 'get_config'"),
        (
            "def get_config():\n    return 1 / 0\n",
            "config.py",
            r"ZeroDivisionError: division by zero \(.*config.py, line 2\)",
        ),
    ],
)
def test_a_config_file_that_cannot_be_read_is_one_line(text, name, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"^--config={tmp_path / name}: .*{message}"):
        command.read_file(str(tmp_path / name))


def test_options_of_ones_own_may_be_given_by_the_command_line_alone():
    config = settings.get_config()
    given = [
        "--config.sde.options.beta=3.5",
        "--config.network.options.widths=(4, 8)",
        "--config.data.options.kind=a b",
    ]
    given += ["--config.training.options.text.name=x", "--config.training.steps=3"]
    command.add_own_options(config, given)
    assert config.sde.options.to_dict() == {"beta": 3.5} and config.network.options.widths == (4, 8)
    assert config.data.options.kind == "a b" and config.training.steps == settings.get_config().training.steps
    config.sde.options.beta = 4  # of a kind now, as every setting
    with pytest.raises(TypeError):
        config.sde.options.beta = "many"


def test_a_config_file_imports_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_a_config.py").write_text("STEPS = 7\n")
    (tmp_path / "mine.py").write_text(
        "import beside_a_config\nfrom score_jax.lab import settings\n\ndef get_config():\n"
        "    config = settings.get_config()\n    config.training.steps = beside_a_config.STEPS\n    return config\n"
    )
    assert command.read_file(f"{tmp_path}/mine.py").training.steps == 7


def test_a_variant_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(
        InputError, match=r"configs/toy.py:foo: there is no variant 'foo' of this config: choose one of dsm, esm"
    ):
        command.read_file(f"{ROOT}/configs/toy.py:foo")


def test_a_platform_that_is_not_there_is_one_line_and_leaves_no_folder(tmp_path):
    train = [
        sys.executable,
        ROOT / "experiments/train.py",
        f"--config={ROOT}/configs/toy.py",
        f"--workdir={tmp_path}/run",
    ]
    environment = {"JAX_PLATFORMS": "abacus", "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(train, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.count("\n") == 1 and "JAX finds no device for JAX_PLATFORMS='abacus'" in done.stderr

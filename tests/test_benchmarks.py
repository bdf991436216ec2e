"""The benchmarks run, and their figures agree with each other and with the page. Nothing is asserted about speed."""

import ast
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import run as command  # noqa: E402
import soak  # noqa: E402
import timing  # noqa: E402
import toy_steps  # noqa: E402

PAGE = (FOLDER / "README.md").read_text()
RESULT = {"rows": [{"batch": 128, "steps/s": 2612.4, "ratio": 0.98765}], "environment": "a machine"}


@pytest.mark.slow
def test_toy_steps_has_positive_figures_that_fit_together():
    row = toy_steps.measure_batch(16, steps=8, k=4, pairs=1)
    ours, theirs = row["score_jax, steps/s"], row["hand-written, steps/s"]
    assert row["batch"] == 16 and ours > 0 and theirs > 0
    assert row["ratio"] == ours / theirs  # of a single pair


@pytest.mark.slow
def test_the_hand_written_loop_learns():
    """Otherwise the comparison would be with a program that does less."""
    points = np.full((8, 2), 0.5, np.float32)
    loop = toy_steps.HandWritten(points, 64, 50)
    x = jnp.concatenate([points + 3.0, jnp.full((8, 1), 0.8)], axis=1)  # sigma = 3.47: eps = 3/3.47 = 0.87
    loop.run(1000)
    np.testing.assert_allclose(toy_steps.perceptron(loop.carry[0], x), 3 / (0.05 * 200**0.8), atol=0.15)


def test_compared_programs_take_turns_and_are_compared_pair_by_pair():
    order = []
    times = {"A": iter([1.0, 9.0, 4.0]), "B": iter([2.0, 3.0, 8.0])}

    def timed(name):
        order.append(name)
        return next(times[name])

    a, b = timing.alternate(lambda: timed("A"), lambda: timed("B"), 3)
    assert "".join(order) == "ABABAB"
    assert timing.compare(a, b) == (4.0, 3.0, 0.5)  # the pairs' ratios are 1/2, 3, 1/2; that of the medians is 4/3


def test_a_table_keeps_three_digits():
    assert timing.table(RESULT["rows"]).splitlines() == [
        "| batch | steps/s | ratio |",
        "| --- | --- | --- |",
        "| 128 | 2,612 | 0.988 |",
    ]


@pytest.mark.parametrize("name", [*command.NAMES, *command.LONG, *command.PEERS, *command.BY_ITSELF])
def test_a_table_is_put_in_its_own_place_and_replaces_the_one_before(name):
    once = command.rewrite(PAGE, name, RESULT)
    assert command.rewrite(once, name, RESULT) == once
    assert once.count("| 128 | 2,612 | 0.988 |") == 1
    block = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
    assert block.split(once) == block.split(PAGE)


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="<!-- toy_steps -->"):
        command.rewrite("# Benchmarks\n", "toy_steps", RESULT)


@pytest.mark.parametrize("name", [*command.NAMES, *command.LONG, *command.PEERS])
def test_every_benchmark_gives_its_command_and_can_measure(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    assert f"python benchmarks/{name}.py" in (ast.get_docstring(tree) or "")
    if name in command.LONG:
        return
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert [a.arg for a in functions["measure"].args.args] == ["quick"]


def test_every_script_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        *command.NAMES,
        *command.LONG,
        *command.PEERS,
        *command.BY_ITSELF,
        "run",
        "timing",
        "own_training",
        "ncsn_in_torch",
        "check_device",
        "compile_ahead",
    }


@pytest.mark.slow
def test_programs_compiled_ahead_are_accounted_for():
    """For the CPU, which is there: the programs and their account are the same."""
    import compile_ahead

    row = compile_ahead.compile_cell(jax.devices()[0], "ddpm", "float32", 4, tiny=True)
    # parameters, two moments and the average, in float32, and something to work with
    parameters = 45_259
    assert 4 * 4 * parameters < row["train step, GiB"] * 2**30 < 100 * 4 * 4 * parameters
    assert 0 < row["sampling, GiB"] < row["train step, GiB"] and row["waits for the host"] == "no"
    assert sum(name == "adm" for name, _, _ in compile_ahead.cells(["adm"], tiny=False)) == 3


def _held(memory, **counts):
    counts = {"arrays": 10, "file handles": 8, "threads": 4} | counts
    return [{"steps": 1000 * i, "memory, MiB": m, **counts} for i, m in enumerate(memory)]


def test_a_soak_is_flat_by_its_rule_or_says_what_grows():
    """The slope is that of the line behind the first third, whatever the warm-up did."""
    flat = _held([100.0, 300.0, 500.0, 500.0, 502.0, 504.0, 506.0, 508.0, 510.0])  # 2 MiB per 1,000 steps from row 3
    assert soak.slope(flat) == pytest.approx(2e-3) and soak.growing(flat[:9]) == []  # 10 of 500: just 2 %
    steep = _held([100.0, 300.0, 500.0, 500.0, 503.0, 506.0, 509.0, 512.0, 515.0])
    assert soak.growing(steep) == ["memory by 15.0 MiB of 500"]
    rows = _held([500.0] * 9)
    rows[0]["threads"] = 90  # in the warm-up
    rows[4]["file handles"] = rows[7]["file handles"] = 9
    assert soak.growing(rows) == []
    rows[8]["file handles"] = 11
    assert soak.growing(rows) == ["file handles from 9 to 11"]
    assert soak.growing(rows[:5]) == ["no telling by 5 moments: give more --minutes"]

"""Cells of a sweep, and the command line that gives them."""

import sys

import pytest

from configs import toy
from score_jax.lab import command, settings, sweeps
from score_jax.lab.sweeps import axes
from tests.helpers import refused


def test_products_vary_the_last_axis_fastest_and_zips_go_side_by_side():
    a, b = sweeps.axis("seed", range(2)), sweeps.axis("sde.name", ["ve", "vp"])
    assert sweeps.product(a, b) == [
        {"seed": 0, "sde.name": "ve"},
        {"seed": 0, "sde.name": "vp"},
        {"seed": 1, "sde.name": "ve"},
        {"seed": 1, "sde.name": "vp"},
    ]
    assert sweeps.zip(a, b) == [{"seed": 0, "sde.name": "ve"}, {"seed": 1, "sde.name": "vp"}]
    mixed = [*sweeps.product(a, b), {"sde.name": "ve", "seed": 0}, {"objective.name": "ssm"}]
    assert axes.without_repeats(mixed, {}) == [*sweeps.product(a, b), {"objective.name": "ssm"}]
    base = {"objective": {"name": "ssm"}, "seed": 0}  # what it has is no other cell, set or not
    cells = [{}, {"objective.name": "ssm"}, {"seed": 1}, {"objective.name": "ssm", "seed": 1}]
    assert axes.without_repeats(cells, base) == [{}, {"seed": 1}]
    assert axes.keys_of(mixed) == ["seed", "sde.name", "objective.name"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sweeps.axis("seed", []), "axis 'seed' has no values"),
        (lambda: sweeps.axis("sde.name", "ve"), r"takes a list of values, got the text 've'"),
        (lambda: sweeps.product(sweeps.axis("seed", [0]), sweeps.axis("seed", [1])), "'seed' is set twice"),
        (
            lambda: sweeps.zip(sweeps.axis("seed", [0]), sweeps.axis("sde.name", ["ve", "vp"])),
            "of one length, got 1 of seed, 2 of sde.name",
        ),
        (lambda: axes.require_cells({"seed": 1}), "a sweep is a list of cells"),
        (lambda: axes.require_cells([{"seed": 1}, 3]), "got the cell 3"),
        (lambda: axes.require_cells([]), "no cells"),
    ],
)
def test_axes_that_cannot_be_are_one_line(make, message):
    refused(message, make)


def test_commas_in_brackets_and_quotes_belong_to_a_value():
    assert axes.parts_of("a,b, c") == ["a", "b", "c"]
    assert axes.parts_of("(32, 32),(64,)") == ["(32, 32)", "(64,)"]
    assert axes.parts_of("'a,b',\"c,(\",{'d': [1, 2]}") == ["'a,b'", '"c,("', "{'d': [1, 2]}"]
    assert axes.parts_of("") == [""] and axes.parts_of("a,,b") == ["a", "", "b"]
    assert axes.unquoted("'a,b'") == "a,b" and axes.unquoted("it's") == "it's"


def test_the_grid_is_taken_out_of_the_command_line(monkeypatch):
    given = ["sweep.py", "--grid.seed=0,1", "--out", "here", "--grid.sde.name", "ve,vp", "-grid.sampler.respacing=a=b"]
    monkeypatch.setattr(sys, "argv", given)
    assert command.taken("grid") == [("seed", "0,1"), ("sde.name", "ve,vp"), ("sampler.respacing", "a=b")]
    assert sys.argv == ["sweep.py", "--out", "here"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--grid.seed", "--out=here"])
    refused("--grid.seed needs values", lambda: command.taken("grid"))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "3", 3),
        ("optimizer.learning_rate", "1", 1.0),
        ("network.mlp.hidden", "(32, 8)", [32, 8]),
        ("training.ema_warmup", "false", False),
        ("data.size", "(8, 9)", [8, 9]),
        ("sde.options.beta", "3.5", 3.5),  # an option of one's own object, which has no type yet
        ("sde.options", "{'beta': 3}", {"beta": 3}),
        ("evaluation.measures", "('distances', 'mylab.measures:slope')", ["distances", "mylab.measures:slope"]),
    ],
)
def test_a_text_is_read_as_the_commands_read_it(key, text, value):
    base = toy.get_config()
    assert settings.value_of(command.overridden(base, key, text), key) == value
    assert settings.value_of(settings.changed(base, {key: value}), key) == value
    assert settings.value_of(base, key) != value  # which stays as it was


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lerning_rate", 1, r"no setting 'lerning_rate': did you mean optimizer.learning_rate"),
        ("sde.nmae", "vp", r"no setting 'sde.nmae': did you mean sde.name"),
        ("steps", 1, r"no setting 'steps': did you mean .*training.steps"),
        ("training.steps.more", 1, "no setting"),
        ("sde", "vp", "sde is a section: choose one of its settings"),
        ("seed", 1.5, "seed is of type int, such as 0, got 1.5"),
        ("seed", True, "seed is of type int"),
        ("sde.name", None, "sde.name is of type str"),
        ("network.mlp.hidden", 3, "network.mlp.hidden is of type tuple"),
        ("training.ema_warmup", 1, "training.ema_warmup is of type bool"),
    ],
)
def test_settings_that_do_not_exist_or_are_of_another_type_are_one_line(key, value, message):
    refused(message, lambda: settings.changed(toy.get_config(), {key: value}))
    if isinstance(value, str):
        refused(message, lambda: command.overridden(toy.get_config(), key, value))


@pytest.mark.parametrize(("key", "text"), [("seed", "x"), ("seed", "1.5"), ("training.ema_warmup", "maybe")])
def test_a_text_of_another_type_is_one_line(key, text):
    refused(f"{key} is of type .*, such as .*, got '{text}'", lambda: command.overridden(toy.get_config(), key, text))

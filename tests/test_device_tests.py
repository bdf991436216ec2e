"""How tests/device compare: an error above its bound fails, so does NaN, and what was measured is on record."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests.device import compare

A = np.arange(1.0, 7.0).reshape(2, 3).astype(np.float32)


def compared(found, expected, bound, **options):
    """Returns what `assert_close` records, and whether it fails."""
    recorded = []
    try:
        compare.assert_close(lambda *item: recorded.append(item), "a", found, expected, bound, **options)
        failed = False
    except AssertionError:
        failed = True
    [(name, value)] = recorded
    assert name == "comparison"
    return json.loads(value), failed


def test_an_error_is_recorded_with_its_bound_and_fails_above_it():
    for bound, fails in [(1.01e-3, False), (0.99e-3, True)]:
        record, failed = compared(np.float32(1.001) * A, A, bound)
        assert failed == fails and record["name"] == "a" and record["bound"] == bound
        assert record["error"] == pytest.approx(1e-3, rel=1e-4)
    assert compared(A, A, 0.0) == ({"name": "a", "error": 0.0, "bound": 0.0}, False)


@pytest.mark.parametrize("error", [compare.relative_error, compare.largest_error])
def test_what_is_not_finite_fails_whatever_the_bound(error):
    for wrong in (np.nan, np.inf):
        found = A.copy()
        found[1, 2] = wrong
        record, failed = compared(found, A, 1e9, error=error)
        assert failed and not math.isfinite(record["error"])
    assert compared(A, np.full_like(A, np.nan), 1e9, error=error)[1]
    assert compared(A, np.zeros_like(A), 1e9, error=error)[1]
    assert not compared(np.zeros_like(A), np.zeros_like(A), 0.0, error=error)[1]


def test_another_shape_or_tree_fails():
    for found in (A[:1], {"a": A}):
        with pytest.raises(AssertionError, match=r"a: .* expected"):
            compare.assert_close(print, "a", found, A, 1e9)


def test_leaves_are_compared_by_their_own_norms_unless_they_are_nothing_beside_the_tree():
    tree = lambda small: {"large": 10 * A, "small": small}
    # A tenth of the whole: one per cent of it is one per cent.
    assert compare.relative_error(tree(1.01 * A), tree(A)) == pytest.approx(0.01, rel=1e-3)
    # A thousandth: a hundredth of the whole stands for it, and an error of 100 % is one of 10 %.
    assert compare.relative_error(tree(0.02 * A), tree(0.01 * A)) == pytest.approx(0.1, rel=1e-3)


def test_the_largest_error_is_that_of_the_worst_example_by_its_own_deviation():
    expected = np.stack([np.array([0.0, 2.0]), np.array([0.0, 20.0])])  # deviations 1 and 10
    found = expected + np.array([[0.0, 0.1], [0.5, 0.0]])
    assert compare.largest_error(found, expected) == pytest.approx(0.1)


def test_rounding_grows_as_the_root_of_the_number_of_operations():
    assert compare.rounding(1) == 2.0**-21 and compare.rounding(100, 3) == 30 * compare.rounding(1)
    assert compare.rounding(4, unit=compare.TF32) == 2.0**-10


def test_the_two_programs_agree_and_a_score_off_by_a_thousandth_does_not():
    fn = lambda x: {"a": jnp.tanh(x) @ x.T}
    found, expected = compare.both(fn, A)
    assert isinstance(found["a"], np.ndarray) and compare.relative_error(found, expected) < compare.rounding(4)
    wrong, _ = compare.both(lambda x: {"a": 1.001 * fn(x)["a"]}, A)
    assert compare.relative_error(wrong, expected) > 100 * compare.rounding(4)


@pytest.mark.parametrize(("bits", "unit"), [(10, compare.TF32), (7, compare.BFLOAT16)])
def test_factors_rounded_as_accelerators_do_exceed_what_float32_explains(bits, unit):
    a, b = (np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32) for seed in (0, 1))
    rounded = lambda x: jax.lax.reduce_precision(x, 8, bits)
    error = compare.relative_error(rounded(a) @ rounded(b), a @ b)
    assert 20 * compare.rounding(16) < error < unit


def test_device_tests_are_marked_for_both_and_left_out_where_there_is_neither(monkeypatch):
    modules = sorted(Path(compare.__file__).parent.glob("test_*.py"))
    assert modules
    for path in modules:
        marks = importlib.import_module(f"tests.device.{path.stem}").pytestmark
        assert {"gpu", "tpu"} <= {mark.name for mark in marks}, path.stem
    item = SimpleNamespace(iter_markers=lambda: [mark.mark for mark in compare.MARKS])
    for backend, asked in [("gpu", False), ("tpu", False), ("cpu", True)]:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        monkeypatch.setattr(conftest, "_DEVICE_TESTS", asked)
        conftest.pytest_runtest_setup(item)
    monkeypatch.setattr(conftest, "_DEVICE_TESTS", False)
    with pytest.raises(pytest.skip.Exception, match="for a GPU or TPU: run it by `make check-device`"):
        conftest.pytest_runtest_setup(item)

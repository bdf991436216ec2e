"""Dormand–Prince on problems with closed answers: order, tolerance, rows by themselves, honest counts, failures."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, integrate
from score_jax.types import InputError

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def rooted_trees(order):
    """All rooted trees with `order` nodes, each the sorted tuple of its branches."""
    if order == 1:
        return {()}
    smaller = [
        (rest, branch) for n in range(1, order) for rest in rooted_trees(order - n) for branch in rooted_trees(n)
    ]
    return {tuple(sorted((*rest, branch))) for rest, branch in smaller}


def count(tree):
    return 1 + sum(map(count, tree))


def density(tree):
    return count(tree) * np.prod([density(branch) for branch in tree], initial=1.0)


def weights(tree):
    """Elementary weights of the stages: product over branches of A·weights(branch)."""
    return np.prod([integrate.STAGES @ weights(branch) for branch in tree], axis=0) * np.ones(7)


@pytest.mark.parametrize(("row", "order"), [(integrate.STAGES[-1], 5), (integrate.ORDER_4, 4)], ids=["5", "4"])
def test_the_tableau_meets_the_order_conditions(row, order):
    """Σ_i b_i Φ_i(tree) = 1/γ(tree) for every rooted tree up to the order, and for some tree not beyond it."""
    trees = [rooted_trees(n) for n in range(1, order + 2)]
    assert [len(t) for t in trees] == [1, 1, 2, 4, 9, 20][: order + 1]
    misses = [max(abs(row @ weights(tree) - 1 / density(tree)) for tree in of_order) for of_order in trees]
    assert max(misses[:-1]) < 1e-14 and misses[-1] > 1e-5
    np.testing.assert_allclose(integrate.STAGES.sum(1), integrate.NODES, atol=1e-14)


def rotation(t, y):
    """A circle once round in 2π: dy/dt = (−y₂, y₁)."""
    return jnp.stack([-y[:, 1], y[:, 0]], axis=1)


def test_the_error_falls_with_the_tolerance_as_the_fifth_order_says(x64):
    """Twice round: error c·n^{−5} after n steps, and no more than n steps within the tolerance add up to."""
    start = jnp.array([[1.0, 0.0]])
    run = jax.jit(lambda tol: integrate.solve(rotation, start, 0.0, 4 * jnp.pi, rtol=tol, atol=tol))
    tolerances = np.array([1e-5, 1e-7, 1e-9, 1e-11])
    solved = [run(tol) for tol in tolerances]
    errors = np.array([float(jnp.abs(s.y - start).max()) for s in solved])
    steps = np.array([int(s.n_calls) // 6 for s in solved])
    assert (errors < 2 * steps * tolerances).all()
    order = np.log(errors[1:-1] / errors[2:]) / np.log(steps[2:] / steps[1:-1])
    np.testing.assert_allclose(order, 5, atol=0.3)


def test_a_step_costs_six_calls_and_they_are_counted():
    calls = []

    def field(t, y):
        jax.debug.callback(lambda t: calls.append(np.asarray(t)), t)
        return jnp.cos(t)[:, None] * y

    solved = jax.jit(lambda y: integrate.solve(field, y, 0.0, 3.0))(jnp.array([[1.0], [2.0]]))
    jax.block_until_ready(solved)
    jax.effects_barrier()
    assert int(solved.n_calls) == len(calls) and len(calls) % 6 == 1
    # exp(sin 3); a handful of steps within 1e-5 (1 + |y|) each
    np.testing.assert_allclose(solved.y[:, 0], np.exp(np.sin(3.0)) * np.array([1, 2]), rtol=1e-4)


def test_the_field_is_compiled_once():
    field = chex.assert_max_traces(lambda t, y: -y, n=1)
    run = jax.jit(lambda y, t1: integrate.solve(field, y, 0.0, t1).y)
    run(jnp.ones((2, 3)), 1.0), run(jnp.zeros((2, 3)), 2.0)


def stiffness(t, y):
    """Rows of their own rate: dy/dt = −rate·(y − cos t), the rate being the second element, which does not change."""
    return jnp.stack([-y[:, 1] * (y[:, 0] - jnp.cos(t)), jnp.zeros_like(t)], axis=1)


def test_a_row_does_not_depend_on_its_neighbours():
    rows = jnp.array([[1.0, 1.0], [0.0, 200.0], [3.0, 0.1]])
    t1 = jnp.array([2.0, 1.0, -1.0])
    run = jax.jit(lambda y, t1: integrate.solve(stiffness, y, 0.0, t1))
    together = run(rows, t1)
    for i in range(3):
        alone = run(rows[i : i + 1], t1[i : i + 1])
        np.testing.assert_allclose(alone.y[0], together.y[i], rtol=2e-6)
        assert alone.n_calls <= together.n_calls
    assert 3 * int(run(rows[:1], t1[:1]).n_calls) < int(together.n_calls)  # it is the stiff row that takes long
    # y = (rate² cos t + rate sin t)/(rate² + 1) + c e^{−rate t}
    rate, start, t = np.asarray(rows[:, 1], np.float64), np.asarray(rows[:, 0]), np.asarray(t1)
    forced = lambda t: (rate**2 * np.cos(t) + rate * np.sin(t)) / (rate**2 + 1)
    np.testing.assert_allclose(together.y[:, 0], forced(t) + (start - forced(0 * t)) * np.exp(-rate * t), atol=2e-4)


def test_going_back_returns_to_the_start():
    y = jnp.array([[0.3, 0.7], [-2.0, 1.0]])
    there = integrate.solve(rotation, y, 0.5, 2.5).y
    np.testing.assert_allclose(integrate.solve(rotation, there, 2.5, 0.5).y, y, atol=1e-4)  # 2 × about 8 steps of 1e-5
    stayed = integrate.solve(rotation, y, 0.5, 0.5)
    np.testing.assert_array_equal(stayed.y, y)
    assert stayed.n_calls == 0


def test_every_leaf_is_held_to_the_tolerance_by_itself():
    """A number beside 10,000 that do not move takes the steps it takes alone."""
    field = lambda t, y: 40 * jnp.cos(40 * t)
    beside = lambda t, state: (jnp.zeros_like(state[0]), field(t, state[1]))
    alone = integrate.solve(field, jnp.zeros(1), 0.0, 1.0)
    together = integrate.solve(beside, (jnp.zeros((1, 10_000)), jnp.zeros(1)), 0.0, 1.0)
    assert together.n_calls == alone.n_calls
    np.testing.assert_array_equal(together.y[1], alone.y)
    np.testing.assert_allclose(alone.y, np.sin(40.0), atol=1e-3)  # about 50 steps of 2e-5


def test_neither_scale_nor_number_of_elements_changes_the_steps():
    """With a tolerance relative to |y| alone, and the root of a mean: as many calls for 1000·y, and for 50 copies."""
    calls = lambda y: int(integrate.solve(lambda t, y: y, y, 0.0, 3.0, rtol=1e-5, atol=1e-12).n_calls)
    assert calls(jnp.ones((1, 1))) == calls(jnp.full((1, 1), 1000.0)) == calls(jnp.ones((1, 50)))


def test_rows_that_cannot_arrive_are_nan_and_leave_the_others_alone():
    """dy/dt = y² from y(0) = 1 blows up at t = 1, from 0.1 at 10; the field of a negative row is NaN throughout."""
    field = lambda t, y: jnp.where(y < 0, jnp.nan, y**2)
    solved = integrate.solve(field, jnp.array([[1.0], [0.1], [-1.0]]), 0.0, 2.0)
    np.testing.assert_array_equal(np.isnan(solved.y[:, 0]), [True, False, True])
    np.testing.assert_allclose(solved.y[1], 0.1 / (1 - 0.2), rtol=1e-4)
    assert solved.n_calls < 6 * 500  # given up where steps change t no more, long before 2,000 attempts
    given_up = integrate.solve(
        lambda t, y: 1e4 * jnp.cos(1e4 * t)[:, None], jnp.zeros((1, 1)), 0.0, 1.0, max_attempts=9
    )
    assert np.isnan(given_up.y).all() and given_up.n_calls == 1 + 6 * 9


def test_a_row_whose_steps_no_longer_change_t_is_given_up():
    """float32's times near 1000 are 6e-5 apart: the field turns by 60 radians from one to the next, and is lost."""
    field = lambda t, y: 1e6 * jnp.cos(1e6 * t)[:, None] * jnp.ones_like(y)
    solved = integrate.solve(field, jnp.zeros((1, 1)), 1000.0, 1001.0)
    assert np.isnan(solved.y).all()
    # errors of 1e6·step over 1e-5 shorten each step by 5: 0.01·5⁻⁴ is less than half of 6e-5; one attempt to spare
    assert solved.n_calls <= 1 + 6 * 5


def test_an_attempt_that_meets_nan_is_repeated_with_a_shorter_step():
    """√(1 − t)-like end: the field is NaN beyond t = 1, where the stages of a step too long would look."""
    field = lambda t, y: jnp.where(t < 1.0, 1.0, jnp.nan)[:, None] * jnp.ones_like(y)
    np.testing.assert_allclose(integrate.solve(field, jnp.zeros((1, 1)), 0.0, 0.999).y, 0.999, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_result_follows_the_dtype_of_the_state(dtype, x64):
    state = jnp.ones((2, 3), dtype), jnp.zeros(2, dtype)
    solved = integrate.solve(lambda t, s: (-s[0], arrays.sum_dims(s[0])), state, 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert [v.dtype for v in solved.y] == [dtype, dtype]
    np.testing.assert_allclose(solved.y[1], 3 * (1 - np.exp(-1)), rtol=1e-5)


def test_tolerances_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="rtol must be positive, got 0"):
        integrate.solve(rotation, jnp.zeros((1, 2)), 0.0, 1.0, rtol=0.0)
    with pytest.raises(InputError, match="max_attempts must be at least 1, got 0"):
        integrate.solve(rotation, jnp.zeros((1, 2)), 0.0, 1.0, max_attempts=0)


def test_half_precision_is_refused():
    with pytest.raises(InputError, match=r"y0 is bfloat16.*astype"):
        integrate.solve(rotation, jnp.ones((1, 2), jnp.bfloat16), 0.0, 1.0)

import dataclasses
import re
import types
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import adapters, arrays, parameterization
from score_jax.adapters import linen
from score_jax.losses import diffusion_loss, times
from score_jax.score import Conditioned, ScoreModel
from score_jax.sde import VE
from score_jax.training import (
    by_uncertainty,
    create,
    ema_decay,
    make_eval_step,
    make_train_step,
    optimizer,
    place,
    put_batches,
)
from score_jax.training.step import level_sigmas, level_sums
from score_jax.types import InputError
from tests.helpers import compiled
from tests.training import tiny


def _batches(k=tiny.K, first=0):
    stack = tiny.Batches(k=1)
    stack.number = first
    return {"x": np.concatenate([next(stack)["x"] for _ in range(k)])}


def _run(step, batches, *, n_devices=1, dispatches=1, state=None):
    """Runs the step over the batches in equal dispatches; returns the state on the host and the last report."""
    mesh = tiny.mesh(n_devices)
    state = place(tiny.state() if state is None else state, tiny.placement(n_devices))
    k = len(batches["x"]) // dispatches
    for i in range(dispatches):
        part = {name: x[i * k : (i + 1) * k] for name, x in batches.items()}
        state, report = step(state, put_batches(part, mesh))
    return state, report


def _trained(state):
    return jax.device_get((state.step, state.params, state.opt_state, state.ema))


def _make(**settings):
    settings = {"times": times.uniform(), "placement": tiny.placement(), "decay": ema_decay(0.9)} | settings
    objective = settings.pop("objective", tiny.objective)
    return make_train_step(settings.pop("model", tiny.model()), objective, tiny.chain(), **settings)


# One update divides by √v̂ ≈ |g|, so a reordered sum (1e-7 relative) moves a parameter by about 1e-7·lr/|g| relative to
# the batch's gradients; five updates of size 1e-2 stay far below 1e-5.
REORDERED = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def reference():
    state, report = _run(tiny.step(), _batches())
    return _trained(state), jax.device_get(report)


def test_accumulated_gradient_is_that_of_the_full_batch(reference):
    # The network has dropout that nobody asks for, so it computes the same.
    state, report = _run(_make(model=tiny.model(rate=0.5), accumulation=4), _batches())
    chex.assert_trees_all_close(_trained(state), reference[0], **REORDERED)
    chex.assert_trees_all_close(
        report.level_loss, reference[1].level_loss, rtol=1e-4
    )  # every example keeps its t and its noise


def test_eight_devices_train_as_one_does(reference):
    state, report = _run(tiny.step(8), _batches(), n_devices=8)
    chex.assert_trees_all_close(_trained(state), reference[0], **REORDERED)
    chex.assert_trees_all_close(jax.device_get(report)[:-1], reference[1][:-1], **REORDERED)


def test_eight_devices_exchange_gradients_only():
    mesh = tiny.mesh(8)
    compiled = (
        tiny.step(8).lower(place(tiny.state(), tiny.placement(8)), put_batches(_batches(), mesh)).compile().as_text()
    )
    loops = [part for part in re.split(r"\n(?=%|ENTRY)", compiled) if not part.startswith("ENTRY")]
    assert sum(len(re.findall(r" all-reduce\(", part)) for part in loops) == 1  # gradient and loss together
    assert not any(re.search(r" (all-gather|all-to-all|collective-permute)\(", part) for part in loops)


def test_number_of_steps_in_a_dispatch_changes_no_bit(reference):
    state, _ = _run(tiny.step(), _batches(), dispatches=tiny.K)
    chex.assert_trees_all_equal(_trained(state), reference[0])


def _squares(key, score_fn, x0, times):
    """‖x0‖², with no slope in the parameters."""
    t, _ = times()
    return arrays.sum_dims(x0**2) + 0 * arrays.sum_dims(score_fn(x0, t))


def test_loss_is_the_mean_of_the_objective_over_examples_and_dimensions_of_the_prepared_data():
    def prepare(key, x):
        return x.astype(jnp.float32) / 255 + arrays.normal(key, jnp.zeros((len(x), 2)))

    batches = {"x": np.full((2, 2048, 1), 255, np.uint8)}
    _, report = _run(_make(objective=_squares, prepare=prepare), batches)
    assert report.steps == 2 and report.grad_norm == 0.0
    # E[(1 + z)²] = 2, its variance 4 + 2 = 6 an element: s.e. √(6/8192) = 0.027. D is 2, that of x0 and not of x.
    np.testing.assert_allclose(report.loss / 2, 2.0, atol=4 * 0.027)
    np.testing.assert_allclose(report.level_loss.sum(), 2048 * report.loss, rtol=1e-5)


def test_average_is_the_closed_form_over_the_parameters_visited():
    visited, state = [tiny.model().variables["params"]], None
    for i in range(3):
        state, _ = _run(tiny.step(), _batches(1, first=i), state=state)
        visited.append(jax.device_get(state.params))
    weights = [0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1]
    expected = jax.tree.map(lambda *p: sum(w * x for w, x in zip(weights, p)), *visited)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-7)


def test_old_state_is_donated():
    mesh = tiny.mesh()
    state = place(tiny.state(), tiny.placement())
    tiny.step()(state, put_batches(_batches(), mesh))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state, state.ema)))


def test_step_is_compiled_once():
    state, _ = _run(tiny.step(), _batches())
    with compiled() as names:
        for _ in range(3):
            state, _ = tiny.step()(state, put_batches(_batches(), tiny.mesh()))
    assert not names


class Slope(nn.Module):
    """The score −a x, one number a for each dimension."""

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        del cond, label, train
        return -self.param("a", nn.initializers.ones, x.shape[-1:])[None] * x


def test_denoising_score_matching_finds_the_smoothed_gaussian():
    # Data N(0, diag(v)), one noise level: the best linear score is that of N(0, v + σ²), a = 1/(v + σ²).
    variance, sde, k, size = np.array([0.25, 2.0]), VE(0.5, 1.0), 500, 64
    t = sde.time(-2 * jnp.log(0.5))
    net = Slope()
    model = ScoreModel(net.init(jax.random.key(0), jnp.zeros((1, 2)), 0.0), sde, linen(net), parameterization.Score())
    objective = lambda key, score_fn, x0, times: diffusion_loss(key, sde, score_fn, x0, times=times)
    chain = optimizer(0.02, schedule="cosine", total_steps=2 * k)
    settings = {"times": times.discrete(t[None]), "placement": tiny.placement(), "decay": ema_decay(0.99)}
    step = make_train_step(model, objective, chain, **settings)
    x = np.random.default_rng(0).normal(size=(2 * k, size, 2)) * np.sqrt(variance)
    state, _ = _run(
        step, {"x": x.astype(np.float32)}, dispatches=2, state=create(jax.random.key(1), model.variables, chain)
    )
    # Averaging over the last ~500 steps of 64: relative s.e. about √(2/32000) = 0.8 %; 4 s.e.
    np.testing.assert_allclose(state.ema["a"], 1 / (variance + 0.25), rtol=0.035)


def test_losses_are_sorted_by_noise_level():
    sde = VE(0.01, 100.0)  # four decades; σ itself is the level
    sigma = jnp.array([[0.011, 0.5, 0.7], [5.0, 99.0, 0.09]])
    t = sde.time(-2 * jnp.log(sigma))
    total, count = level_sums(sde, t, jnp.array([[1.0, 2.0, 3.0], [4.0, jnp.nan, 6.0]]), 4)
    np.testing.assert_allclose(total, [7.0, 5.0, 4.0, 0.0])
    np.testing.assert_array_equal(count, [2, 2, 1, 0])
    np.testing.assert_allclose(level_sigmas(sde, 4), [10**-1.5, 10**-0.5, 10**0.5, 10**1.5], rtol=1e-4)


def test_failing_step_is_named_with_its_noise_level_and_the_state_before_it_is_kept():
    good = None
    for i in range(3):
        good, _ = _run(tiny.step(), _batches(1, first=i), state=good)
    batches = _batches()
    batches["x"][3, 7, 0] = tiny.FATAL
    state, report = _run(tiny.step(), batches)
    failure = report.failure
    assert failure.step == 3 and report.steps == 3 and state.failures == 1 and np.isnan(failure.loss)
    t = tiny.times_of(3)[7]
    np.testing.assert_allclose(failure.t, t, rtol=1e-6)
    np.testing.assert_allclose(failure.sigma, tiny.SDE.sigma(t), rtol=1e-5)
    chex.assert_trees_all_close(
        _trained(state), _trained(good), rtol=1e-6
    )  # one program for 5 steps against three runs of 1
    assert np.isfinite(report.level_loss).all() and report.level_count.sum() == 3 * tiny.BATCH


def test_nothing_moves_after_a_failure():
    batches = _batches()
    batches["x"][0, 0, 0] = tiny.FATAL
    state, _ = _run(tiny.step(), batches)
    kept = _trained(state)
    chex.assert_trees_all_equal(kept, _trained(tiny.state()))  # it failed in the first step
    state, report = tiny.step()(state, put_batches(_batches(), tiny.mesh()))
    assert report.steps == 0 and report.failure.step == 0
    chex.assert_trees_all_equal(_trained(state), kept)


def test_infinite_gradient_of_finite_losses_stops_too():
    def steep(key, score_fn, x0, times):
        spread = score_fn(x0, times()[0])
        return jnp.sqrt(arrays.sum_dims((spread - jax.lax.stop_gradient(spread)) ** 2))  # 0, with slope 0·∞

    state, report = _run(_make(objective=steep), _batches(1))
    assert report.failure.step == 0 and np.isfinite(report.failure.loss) and state.step == 0


@dataclasses.dataclass
class Closed:
    """Stands for a `ScoreModel`: a closed form `score(a, x, t, label, key)` of one parameter."""

    score: Callable
    sde: VE = tiny.SDE
    variables: dict = dataclasses.field(default_factory=lambda: {"params": {"a": jnp.zeros(())}})

    def replace(self, variables):
        closed = lambda x, t, *, label, key: self.score(variables["params"]["a"], x, t, label, key)
        return types.SimpleNamespace(conditioned=lambda *, label=None, key=None: Conditioned(closed, label, key))


def _closed_state(a):
    return create(jax.random.key(0), {"params": {"a": jnp.asarray(a)}}, tiny.chain())


def _mean_score(score, batches, **settings):
    """The mean over examples of a one-dimensional score, as the train step reports it."""
    seen = lambda key, score_fn, x0, times: arrays.sum_dims(score_fn(x0, times()[0]))
    step = _make(model=Closed(score), objective=seen, **settings)
    return _run(step, {"x": np.zeros((1, 2048, 1), np.float32), **batches}, state=_closed_state(0.0))[1].loss


def test_labels_are_dropped_to_minus_one_with_the_given_probability():
    score = lambda a, x, t, label, key: a + label[:, None] * jnp.ones_like(x)
    mean = _mean_score(score, {"label": np.full((1, 2048), 3)}, label_dropout=0.25)
    # The mean label is 3·0.75 − 0.25 = 2; s.e. 4·√(0.25·0.75/2048) = 0.038.
    assert abs(mean - 2.0) < 4 * 0.038


def test_dropout_keys_are_the_examples_own_and_independent_of_the_batch_they_come_in():
    score = lambda a, x, t, label, key: a + jax.vmap(jax.random.uniform)(key)[:, None] * jnp.ones_like(x)
    mean = _mean_score(score, {}, dropout=True, accumulation=4)
    keys = arrays.example_keys(jax.random.fold_in(jax.random.key(0), 4), 2048)
    np.testing.assert_allclose(mean, jax.vmap(jax.random.uniform)(keys).mean(), rtol=1e-5)


def test_what_was_done_to_an_example_is_told_beside_its_label():
    """The loss is Σ (label + what is told − what was added to x0): 0 where each example is told of its own."""
    drawn = lambda key: jax.vmap(jax.random.normal)(key)[:, None]
    augment = lambda key, x0: (x0 + drawn(key), drawn(key))
    score = lambda a, x, t, told, key: told.label[:, None] + told.augmentation * jnp.ones_like(x)
    seen = lambda key, score_fn, x0, times: arrays.sum_dims(score_fn(x0, times()[0]) - x0)
    step = _make(model=Closed(score), objective=seen, augment=augment, accumulation=4)
    batches = {"x": np.zeros((1, 2048, 1), np.float32), "label": np.full((1, 2048), 3)}
    np.testing.assert_allclose(_run(step, batches, state=_closed_state(0.0))[1].loss, 3.0, rtol=1e-5)


def test_the_weight_of_a_level_is_that_of_its_uncertainty_too():
    u, weight = jnp.array([0.5, -1.0]), jnp.array([2.0, 3.0])
    score_fn = types.SimpleNamespace(uncertainty=lambda t: u + 0 * t)
    found = by_uncertainty(jnp.array([4.0, 6.0]), score_fn, jnp.ones(2), weight, 3)
    np.testing.assert_allclose(found, [4 * np.exp(-0.5) + 1.5 * 2 * 0.5, 6 * np.e - 1.5 * 3], rtol=1e-6)


def test_weights_by_uncertainty_are_learned_and_leave_the_reported_loss_alone():
    """Of a loss √σ in two dimensions J e^{−u} + ½ D u is least at u = log √σ, from −1.2 to 1.2."""
    root = lambda t: tiny.SDE.variance(t) ** 0.25
    objective = lambda key, score_fn, x0, times: root(times()[0]) + 0 * score_fn(x0, times()[0])[:, 0]
    network = adapters.uncertain(adapters.plain(lambda a, x, *_: a * x, lambda *_: jnp.ones(())))
    variables = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1), None)
    model = ScoreModel(variables, tiny.SDE, network, parameterization.Eps())
    options = {"times": times.uniform(), "placement": tiny.placement(), "minimised": by_uncertainty}
    step = make_train_step(model, objective, optimizer(1e-2), **options)
    state, losses = place(create(jax.random.key(7), variables, optimizer(1e-2)), tiny.placement()), []
    for _ in range(20):
        batches = put_batches({"x": np.zeros((20, 64, 2), np.float32)}, tiny.mesh())
        state, report = step(state, batches)
        losses.append(float(report.loss / report.steps))
    t = jnp.linspace(0.2, 1.0, 5)
    learned = model.replace(variables=state.variables(ema=False)).uncertainty(t)
    np.testing.assert_allclose(learned, jnp.log(root(t)), atol=0.1)
    ts = jnp.linspace(tiny.SDE.t_min, tiny.SDE.t_max, 1001)
    # √σ/2 a dimension, whose standard deviation is 0.9 of its mean, by 25,600 draws
    np.testing.assert_allclose(np.mean(losses), root(ts).mean() / 2, rtol=4 * 0.9 / 160)


def test_evaluation_of_the_exact_score_is_the_known_residual():
    # Data at 0: x_t = σ ε and the exact score −x/σ² leaves no residual; the score 0 leaves ½‖ε‖²: ½ a dimension.
    model = Closed(lambda a, x, t, label, key: -a * x / arrays.expand_right(tiny.SDE.variance(t), x))
    evaluate = make_eval_step(model, tiny.objective, mesh=tiny.mesh(8), levels=6)
    batches = put_batches({"x": np.zeros((3, 512, 2), np.float32)}, tiny.mesh(8))
    for average, expected in ((1.0, 0.0), (0.0, 0.5)):
        state = dataclasses.replace(_closed_state(average), params={"a": jnp.asarray(np.nan)})  # the average counts
        values = evaluate(place(state, tiny.placement(8)), batches)
        assert values.shape == (6,)
        # ½ε² has standard deviation 0.71: s.e. 0.71/√3072 = 0.0128
        np.testing.assert_allclose(values, expected, atol=1e-10 if expected == 0 else 4 * 0.0128)


def test_batch_that_cannot_be_cut_into_the_micro_batches_is_refused():
    with pytest.raises(InputError, match="use a multiple of 5, such as 15 or 20"):
        _run(_make(accumulation=5), _batches(1))

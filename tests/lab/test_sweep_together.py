"""Trainings of a sweep in one program: which go together, and that each is what its own run is."""

import os
import signal
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import data as datasets
from score_jax.lab import build, run, settings
from score_jax.lab.sharing import Shared
from score_jax.lab.sweeps import joint, plan, running
from score_jax.training import TrainingDiverged, checkpoint
from score_jax.training.logging import read_jsonl
from tests.helpers import compiled
from tests.lab.sweeping import Engine, base
from tests.training.tiny import without_speed

# Cells that differ in the seed and in numbers of every section that is traced; the last diverges.
NUMBERS = [
    {"seed": 0, "optimizer.learning_rate": 1e-3, "sde.ve.sigma_max": 8.0, "weighting.edm.sigma_data": 0.5},
    {"seed": 1, "optimizer.learning_rate": 4e-3, "sde.ve.sigma_max": 12.0, "weighting.edm.sigma_data": 0.7},
    {"seed": 1, "optimizer.learning_rate": 1e-3, "sde.ve.sigma_min": 0.1, "training.ema_decay": 0.9},
    {"seed": 0, "optimizer.learning_rate": 1e200},
]
NUMBERS[0] |= {"optimizer.weight_decay": 0.02, "optimizer.clip_norm": 0.5, "parameterization.edm.sigma_data": 1.0}
NUMBERS[1] |= {"objective.dsm.control_scale": 0.2, "times.lognormal.mean": 0.5, "optimizer.eps": 1e-6}


def settings_of_all(**training):
    config = base()
    config.weighting.name, config.parameterization.name, config.times.name = "edm", "edm", "lognormal"
    config.objective.dsm.control_scale, config.optimizer.weight_decay = 0.1, 0.01
    config.optimizer.warmup_steps = 0  # whose first updates would be nearly none
    config.training.update(steps=100, steps_per_dispatch=20, log_every=20, checkpoint_every=40, **training)
    return config


def built(config, cells):
    shared = Shared()
    return [build.experiment(settings.changed(config, cell), shared=shared) for cell in cells]


def in_double(experiment, traced):
    """The experiment with parameters and data in float64, which adds to `traced` whenever its numbers are."""

    def with_numbers(numbers):
        traced.append(numbers)
        return replace(experiment.with_numbers(numbers), prepare=prepare)

    prepare = lambda key, x: x.astype(jnp.float64)
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), experiment.model.variables)
    model = experiment.model.replace(variables=variables)
    return replace(experiment, model=model, prepare=prepare, with_numbers=with_numbers)


def trained(experiments, folder):
    return running.train_all(experiments, [folder / str(i) for i in range(len(experiments))])


def arrays(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def records(workdir):
    return without_speed(read_jsonl(workdir / "metrics.jsonl"))


def position(workdir, experiment):
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        return checkpoint.restore_state(manager, run.first_state(experiment)).position


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """In float64: the experiments, what became of them together and of each by itself, the folders, what was traced."""
    with jax.enable_x64(True):
        traced = []
        experiments = [in_double(experiment, traced) for experiment in built(settings_of_all(), NUMBERS)]
        folder = tmp_path_factory.mktemp("together")
        with compiled() as names:
            together = trained(experiments, folder / "together")
        apart = [run.train(experiment, folder / "apart" / str(i)) for i, experiment in enumerate(experiments[:3])]
        yield experiments, together, apart, folder, (traced, names)


def assert_equal(found, expected, rtol):
    """Leaf by leaf, relative to the largest number of the leaf."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max())


@pytest.mark.slow
def test_parameters_averages_and_moments_are_those_of_its_own_run(double):
    _, together, apart, _, _ = double
    for one, alone in zip(together, apart, strict=False):
        one, alone = arrays(one.state), arrays(alone.state)
        assert one.step == 100 and jax.tree.leaves(one.params)[0].dtype == np.float64
        for part in ("params", "ema", "opt_state"):
            assert_equal(getattr(one, part), getattr(alone, part), 1e-10)
    params = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(one.state.params)]) for one in together[:3]]
    assert min(np.abs(params[i] - params[i - 1]).max() for i in range(3)) > 1e-3  # they are three trainings


def test_records_are_those_of_its_own_run(double):
    *_, folder, _ = double
    for i in range(3):
        one, alone = (records(folder / how / str(i)) for how in ("together", "apart"))
        assert [record["step"] for record in one] == [20, 40, 60, 80, 100]
        assert {record.pop("trained_together") for record in one} == {4}
        assert_equal(one, alone, 1e-10)
        exact = ("step", "learning_rate", "ema_decay", "examples")
        assert [[r[name] for name in exact] for r in one] == [[r[name] for name in exact] for r in alone]


def test_keys_and_batches_are_those_of_its_own_run(double):
    experiments, together, apart, folder, _ = double
    for i, alone in enumerate(apart):
        assert (arrays(together[i].state).key == arrays(alone.state).key).all()
        places = [position(folder / how / str(i), experiments[i]) for how in ("together", "apart")]
        assert places[0] == places[1] == {**places[0], "step": 100, "seed": NUMBERS[i]["seed"]}


def test_all_are_traced_and_compiled_once(double):
    *_, (traced, names) = double
    assert len(traced) == 1 and len(traced[0]) == 11
    assert names.count("jit(joint_dispatch)") == 1 and "jit(dispatch)" not in names


def test_one_that_diverges_is_told_of_and_leaves_the_others_as_they_would_be(double):
    """That these are right is in the tests above."""
    _, together, _, folder, _ = double
    assert isinstance(together[3], TrainingDiverged) and "in step" in str(together[3])
    assert checkpoint.steps(folder / "together" / "3") == [] and len(together) == 4


class Ending(datasets.Loader):
    """Ends the program in the third dispatch of a seed."""

    def __init__(self, *arguments, end, **options):
        super().__init__(*arguments, **options)
        self.end = end if options["seed"] == 1 else None

    def __next__(self):
        batches = super().__next__()
        if self.end and self.get_state()["step"] == 80:
            self.end()
        return batches


def killed():
    raise KeyboardInterrupt


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("end", "raised", "steps"),
    [
        (killed, KeyboardInterrupt, [40, 40, 40]),
        (terminated, SystemExit, [80, 80, 60]),  # the third hears of it before it has asked for step 80
    ],
)
def test_stopped_and_started_again_they_end_bit_identically(double, tmp_path, monkeypatch, end, raised, steps):
    experiments, together, _, folder, _ = double
    monkeypatch.setattr(datasets, "Loader", partial(Ending, end=end))
    with pytest.raises(raised):
        trained(experiments, tmp_path)
    monkeypatch.undo()
    there = lambda: [max(checkpoint.steps(tmp_path / str(i)), default=0) for i in range(3)]
    until = time.monotonic() + 30
    while there() != steps and time.monotonic() < until:  # what is written in the background still is, in this process
        time.sleep(0.1)
    assert there() == steps
    again = trained(experiments, tmp_path)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, arrays(again[i].state), arrays(together[i].state))
        assert records(tmp_path / str(i)) == records(folder / "together" / str(i))
    assert str(again[3]) == str(together[3]).replace(str(folder / "together"), str(tmp_path))


def test_in_float32_the_first_step_differs_by_roundings_at_most(tmp_path):
    """A gradient is a mean over 16 examples of terms of about 30 roundings each, u = 2⁻²⁴, of its largest numbers.

    What differs is the order of sums and where constants are rounded, so |Δg| ≤ 64 u max|g| in each array. Adam's first
    update is lr·c·g/(|c·g| + ε) with the clipping's c ≤ 1, whose slope lr·ε/(|g| + ε)² makes of Δg next to nothing, but
    where |g| is not above Δg: there the sign is open, 2 lr. Then θ is rounded, and lr·(…) before it: 4 u (|θ| + lr).
    """
    cells = [{"seed": 3, "optimizer.learning_rate": 1e-3}, {"seed": 4, "sde.ve.sigma_max": 11.0}]
    config = settings_of_all()
    config.training.update(steps=1, log_every=1, checkpoint_every=1)
    experiments = [stirred(experiment) for experiment in built(config, cells)]
    together = trained(experiments, tmp_path / "together")
    u, eps = 2.0**-24, config.optimizer.eps
    for i, experiment in enumerate(experiments):
        one, alone = together[i].state, run.train(experiment, tmp_path / str(i)).state
        lr = experiment.settings["optimizer"]["learning_rate"]
        mu = [jax.tree.leaves(first_moments(state)) for state in (one, alone)]
        for a, b, p, q in zip(*mu, *map(jax.tree.leaves, (one.params, alone.params)), strict=True):
            g, dg = np.abs(b) / 0.1, 64 * u * np.abs(b).max() / 0.1  # μ₁ = (1 − b1) g
            assert dg > 0 and (np.abs(a - b) / 0.1 <= dg).all() and p.dtype == np.float32
            slope = eps / (np.maximum(g - dg, 0) + eps) ** 2
            assert (np.abs(p - q) <= lr * np.minimum(slope * dg, 2) + 4 * u * (np.abs(q) + lr)).all()


def stirred(experiment):
    """The experiment with other first parameters: the last layer's are zero, and so are the gradients of the others."""
    rng = np.random.default_rng(0)
    stir = lambda x: x + jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype)
    variables = jax.tree.map(stir, experiment.model.variables)
    return replace(experiment, model=experiment.model.replace(variables=variables))


def first_moments(state):
    """Adam's first moments, which have the shapes of the parameters."""
    return next(part.mu for part in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")))


def places(cells, config=None):
    return [part.places for part in joint.parts(built(settings_of_all() if config is None else config, cells))]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("seed", [0, 1, 2], [(0, 1, 2)]),
        ("optimizer.clip_norm", [0.5, 0.0, 1.0], [(0, 2), (1,)]),  # 0 doesn't clip
        ("optimizer.b2", [0.99, 0.999, 0.99], [(0, 2), (1,)]),
        ("network.mlp.hidden", [(8,), (9,), (8,)], [(0, 2), (1,)]),
        ("training.batch_size", [16, 32, 16], [(0, 2), (1,)]),
        ("training.steps", [100, 200, 100], [(0, 2), (1,)]),
        ("sde.name", ["ve", "vp", "ve"], [(0, 2), (1,)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_trainings_go_together_that_differ_in_numbers_only(key, values, expected):
    """Repeated settings are other seeds."""
    cells = [{"seed": i} | {key: value} for i, value in enumerate(values)]
    assert places(cells) == expected


@pytest.mark.slow
def test_a_number_whose_value_is_asked_for_is_not_traced_and_the_others_are(tmp_path):
    config = settings_of_all()
    config.training.update(steps=20, checkpoint_every=20)
    config.weighting.name, config.weighting.options = "tests.lab.sweeping:steep", {"power": 2.0}
    numbers = [(1e-3, 2.0), (2e-3, 2.0), (1e-3, 3.0)]
    cells = [{"optimizer.learning_rate": rate, "weighting.options.power": power} for rate, power in numbers]
    experiments = built(config, cells)
    assert joint.parts(experiments) == [joint.Part((0, 1), ("optimizer.learning_rate",)), joint.Part((2,))]
    found = trained(experiments, tmp_path / "together")
    alone = run.train(experiments[2], tmp_path / "alone")
    jax.tree.map(np.testing.assert_array_equal, arrays(found[2].state), arrays(alone.state))
    assert [one.state.step for one in found] == [20, 20, 20]


def test_images_loggers_and_objects_handed_over_are_apart(monkeypatch):
    (experiment,) = built(base(), [{}])
    assert joint.may_be_joint(experiment)
    images = replace(experiment, examples=replace(experiment.examples, shape=(8, 8, 1)))
    logged = replace(experiment, training=replace(experiment.training, loggers=(lambda workdir, start: None,)))
    assert not any(map(joint.may_be_joint, (images, logged, replace(experiment, with_numbers=None))))
    monkeypatch.setattr(joint, "_AT_ONCE", 2)
    assert places([{"seed": i} for i in range(5)], base()) == [(0, 1), (2, 3), (4,)]


def test_the_plan_says_which_go_together_and_a_job_is_theirs(tmp_path):
    cells = [{"seed": 0}, {"seed": 1}, {"seed": 0, "sampler.steps": 3}, {"objective.name": "ssm"}]
    made = Engine().plan(tmp_path / "out", cells)
    assert [plan.places_of(job) for job in made.jobs()] == [[0, 2, 1], [3]]
    assert [plan.places_of(job) for job in made.jobs(8)] == [[0, 2], [1], [3]]  # a job for each of the workers
    # One of two workers' parts is done: the others go on as they began.
    first, second = made.groups[0].cells
    half = made._replace(cells=[cell._replace(done=i in (first, second)) for i, cell in enumerate(made.cells)])
    assert [plan.places_of(job) for job in half.jobs(8)] == [[1], [3]] and [*map(len, half.jobs())] == [1, 1]
    lines = [*plan.plan_lines(made, estimated=False)]
    assert [line.endswith("in program 1") for line in lines] == [False, True, True, False, False]
    assert lines[-1] == "  program 1: 2 trainings go together"

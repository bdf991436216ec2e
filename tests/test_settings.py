"""Settings that cannot work are refused before anything is made; those not given follow from SDE, data and length."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, digits, toy
from score_jax import build, command, distributions, memory, metrics, noise_levels, runs, sampling, settings
from score_jax import sde as sdes
from score_jax.data import ArraySource, statistics
from score_jax.types import InputError
from tests.helpers import key

ROOT = Path(__file__).parent.parent


def config_of(module=base, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


# Numbers


def numbers(config, prefix=""):
    """Dotted names of the settings that are numbers, or tuples of whole numbers."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield f"{prefix}{name}"


def test_every_number_has_a_range_or_is_checked_where_it_is_used():
    ranged = {f"{section}.{name}".lstrip(".") for section, names in settings.RANGES.items() for name in names}
    elsewhere = {"data.value_range", "data.crop", "data.size", "sampler.quantile"}
    found = {n for n in numbers(base.get_config()) if not n.startswith("sde.") and not n.endswith(".order")}
    assert found - elsewhere <= ranged
    assert ranged - found == {"sde.tabulated.n_steps"}  # no row of a setting that is gone


def test_numbers_at_and_beyond_the_ends_of_every_range():
    for section, intervals in settings.RANGES.items():
        for name, interval in intervals.items():
            low, high = settings._ends(interval)
            dotted = f"{section}.{name}".lstrip(".")
            inside, outside = [], [math.nan, "a", True]
            for end, closed, out in ((low, interval[0] == "[", -1), (high, interval[-1] == "]", 1)):
                if math.isfinite(end):
                    (inside if closed else outside).append(end)
                    outside.append(end + out * max(1, abs(end)))
                else:
                    outside.append(end)
            for value in inside:
                settings.check_numbers(nested(dotted, int(value) if value == int(value) else value))
            for value in outside:
                with pytest.raises(InputError, match=rf"^{dotted.replace('.', '[.]')} is a number"):
                    settings.check_numbers(nested(dotted, value))


def nested(dotted, value):
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network__mlp__hidden": ("a",)},
            r"network.mlp.hidden is whole numbers from 1 to 1,000,000,000, got \('a',\)",
        ),
        ({"optimizer__b1": 2.0}, "optimizer.b1 is a number from 0 and below 1, got 2.0"),
        ({"optimizer__warmup_steps": -5}, "optimizer.warmup_steps is a number from -1, got -5"),
        ({"optimizer__warmup_steps": 20, "training__steps": 20}, "warmup_steps 20 leaves nothing of training.steps 20"),
        ({"training__keep_last": 0}, "training.keep_last is a number from 1, got 0"),
        ({"sampler__t_end": 1.5}, "sampler.t_end is a time below t_max = 1 of this SDE, got 1.5"),
        ({"network__mlp__hidden": (10**7, 10**7)}, "needs at least 1.78 PiB of memory .* parameters of network.mlp"),
        # x of 2 float32 numbers, in each of the 250 steps of a dispatch, on one of eight devices
        ({"training__batch_size": 10**12}, r"needs at least 227 TiB of memory .*batch_size=1000000000000 in 250 steps"),
        ({"training__wandb": "mine"}, r"training.wandb needs wandb: pip install 'score-jax\[wandb\]'"),
        (
            {"sampler__threshold": "static"},
            "sampler.threshold 'static' keeps images of grey levels in data.value_range",
        ),
        ({"sampler__annealed_langevin__step_size": 0.0101}, "step_size 0.0101 is 4.04 σ² at every level .*step_size=0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2**40)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=message):
        runs.new(config_of(toy, data__n=10, **changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_memory_in_words():
    assert [memory.in_words(n) for n in (0, 1023, 1536, 5 * 2**50, 2**64)] == [
        "0 B",
        "1.02e+03 B",
        "1.5 KiB",
        "5 PiB",
        "1.64e+04 PiB",
    ]
    assert memory.of_parameters({"w": jax.ShapeDtypeStruct((3, 5), jnp.float32)}) == 5 * 15 * 4
    assert memory.available() > 2**30


# Files and platforms


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "nothing.py", "expected a Python file"),
        ("x = 1", "config.txt", "expected a Python file"),
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
        command._read(str(tmp_path / name))


def test_a_variant_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(
        InputError, match=r"configs/toy.py:foo: there is no variant 'foo' of this config: choose one of dsm, esm"
    ):
        command._read(f"{ROOT}/configs/toy.py:foo")


def test_a_platform_that_is_not_there_is_one_line_and_leaves_no_folder(tmp_path):
    train = [
        sys.executable,
        ROOT / "experiments/train.py",
        f"--config={ROOT}/configs/toy.py",
        f"--workdir={tmp_path}/run",
    ]
    done = subprocess.run(train, capture_output=True, text=True, env={"JAX_PLATFORMS": "abacus", "PATH": ""})
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.count("\n") == 1 and "JAX finds no device for JAX_PLATFORMS='abacus'" in done.stderr


# Noising processes


@pytest.mark.parametrize(
    "make",
    [
        lambda: sdes.Cosine(t_max=1.0),
        lambda: sdes.Flow(t_max=1.0),
        lambda: sdes.Flow(t_max=1 - 1e-12),  # 1 in float32
        lambda: sdes.VP(beta_max=1000.0),
        lambda: sdes.SubVP(beta_min=400.0),
        lambda: sdes.Tabulated(np.array([0.9, 0.5, 1e-90])),
        lambda: sdes.Tabulated(jnp.array([0.9, 0.5, 1e-36])),
    ],
)
def test_processes_whose_data_vanish_are_refused_with_the_cure(make):
    with pytest.raises(InputError, match=r"α.* vanishes"):
        make()


def test_tables_of_jax_are_read_as_those_of_numpy():
    table = [0.9, 0.5, 0.2, 0.0]  # zero terminal SNR
    ours, theirs = sdes.Tabulated(jnp.array(table)), sdes.Tabulated(np.float32(table))
    assert ours.t_max == theirs.t_max == 0.75
    np.testing.assert_array_equal(ours.log_alphas_bar, theirs.log_alphas_bar)
    with pytest.raises(InputError, match="must decrease strictly"):
        sdes.Tabulated(jnp.array([0.9, jnp.nan, 0.2]))


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (sdes.VE(0.01, 1e25), r"VE: σ\(t_max\) = inf"),
        (sdes.VP(t_min=1e-44), r"VP: σ\(t_min\) = 0"),
        (sdes.Flow(t_max=jnp.float32(1.0)), r"Flow: α\(t_max\) = 0"),
    ],
)
def test_ends_that_are_no_numbers_are_refused_at_build_time(process, message, monkeypatch):
    monkeypatch.setitem(build.SDES, "vp", lambda **_: process)
    with pytest.raises(InputError, match=message):
        build.sde(config_of(sde__name="vp"))


# What follows from what


@pytest.mark.parametrize(
    ("process", "name"),
    [
        ("vp", "annealed_langevin"),
        pytest.param("edm", "annealed_langevin", marks=pytest.mark.slow),
        ("cosine", "consistent_annealed"),
    ],
)
def test_a_word_swaps_the_process_of_langevin_samplers(process, name):
    """With the exact score of eight Gaussians and 50 levels: measured 0.002 to 0.011 for all seven processes, and 0.001
    to 0.004 of other data. VE's own step, ε = 2.5e-4, is 250 σ² on VP, whose samples are not finite."""
    mixture = distributions.GaussianMixture(*(jnp.asarray(v) for v in build.toy.components("eight_gaussians")))
    config = config_of(toy, sde__name=process, sampler__name=name)
    build.check(config)
    sde = build.sde(config)
    score = distributions.score_of(mixture, sde)
    build.check_sampling(config, sde, score)
    ts, sampler = build.grid(config, sde), build.sampler(config, sde, score)

    @jax.jit
    def distance(key_data, key_samples):
        x = sampling.sample(key_samples, sampler, sde.prior_sample(key_samples, (2000, 2)), ts)
        return metrics.energy_distance(sde.denoise(x, ts[-1], score(x, ts[-1])), mixture.sample(key_data, 2000))

    assert distance(key(0), key(1)) < 0.02


def test_steps_not_given_are_the_rules_of_the_levels():
    config = config_of(sde__ve__sigma_max=10.0, sampler__steps=31)
    sde = build.sde(config)
    ratio = (10 / float(sde.sigma(sde.t_min))) ** (1 / 30)
    found = build.with_step_size(config, sde).sampler.annealed_langevin.step_size
    assert found == pytest.approx(noise_levels.step_size(float(sde.sigma(sde.t_min)), ratio, 5), rel=1e-3)
    given = config_of(sampler__annealed_langevin__step_size=1e-5)
    assert build.with_step_size(given, sde) is given


def test_levels_not_given_follow_from_the_data_and_stay_with_the_run(tmp_path):
    x = np.array([[0, 0], [3, 4], [100, 0]], np.float32)
    np.save(tmp_path / "x.npy", x)
    config = config_of(
        toy, data__name="array", data__root=str(tmp_path / "x.npy"), data__holdout=0.0, sde__ve__sigma_max=0.0
    )
    config.optimizer.warmup_steps, config.training.steps, config.network.mlp.hidden = -1, 20, (4,)
    run = runs.new(config, tmp_path / "run")
    assert run.config.sde.ve.sigma_max == 100.0 == float(run.model.sde.sigma_max)
    assert run.config.optimizer.warmup_steps == 4
    assert config.sde.ve.sigma_max == 0.0  # the caller's config is the caller's
    assert build.derived(run.config, run.data.train).to_dict() == run.config.to_dict()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.zeros((3, 2)), 1.0),
        (np.full((1, 4), 5.0), 10.0),  # ‖x‖ of the only one
        (np.array([[0.0], [12.3401]]), 12.4),
        (np.array([[0.0], [12.4]]), 12.4),
        (np.array([[0.0], [1e-5]]), 1e-5),
        (np.array([[123456.0], [123457.0]]), 124000.0),  # far from 0, where the prior is
    ],
)
def test_the_largest_level_is_the_largest_distance(x, expected):
    assert statistics.largest_sigma(np.float32(x)) == pytest.approx(expected, rel=1e-12)


def test_statistics_are_those_of_training(tmp_path):
    source = ArraySource(np.array([[0], [255]], np.uint8)[:, :, None, None])
    found = statistics.statistics(statistics.examples(source, (-1.0, 1.0)))
    assert found == (2, 0.0, 1.0, -1.0, 1.0) and found.scale == 1.0


def test_the_plan_shows_the_data_and_warns_of_levels_below_their_scale(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 2000.0], [0.0, 2000.0]], np.float32))
    config = config_of(toy, data__name="array", data__root=str(tmp_path / "x.npy"), data__holdout=0.0)
    config.network.mlp.hidden = (4,)
    said = runs.plan(runs.new(config, tmp_path / "run")).splitlines()
    assert said[2] == "data in training: mean 1e+03, standard deviation 1e+03, from 0 to 2e+03 (2 examples)"
    assert said[3].startswith("warning: the largest noise level, σ/α = 10, is below the data's scale, 1.41e+03")
    assert said[3].endswith("set --config.sde.ve.sigma_max=0")
    assert said[4].endswith("set --config.parameterization.edm.sigma_data=1.4e+03") and len(said) == 5
    assert len(runs.plan(runs.new(digits.get_config("mlp"), tmp_path)).splitlines()) == 3  # nothing to warn of


def test_consistent_sampling_that_is_ddim_says_so(caplog):
    sde = sdes.VE(0.01, 10.0)
    score = lambda x, t: -x  # noqa: E731
    least = 2 * float(sde.variance(1e-5)) * (1 - (10 / float(sde.sigma(1e-5))) ** (-1 / 99))
    for step_size, said in [(0.98 * least, 1), (1.02 * least, 0), (0.0, 0)]:
        config = config_of(sampler__name="consistent_annealed", sampler__consistent_annealed__step_size=step_size)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            build.check_sampling(config, sde, score)
        assert sum("every step is DDIM's" in record.getMessage() for record in caplog.records) == said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (250, 250, 3000, None)),  # 6,000 steps
        ({"training__steps": 20}, (20, 20, 20, None)),
        ({"training__steps": 300}, (50, 250, 300, None)),
        ({"training__steps": 6001}, (1, 250, 3000, None)),
        ({"training__keep_every": 1000}, (250, 250, 3000, 1000)),
        ({"training__steps_per_dispatch": 7}, (5, 250, 3000, None)),
    ],
)
def test_dispatches_divide_every_interval_and_none_is_longer_than_the_training(changes, expected):
    assert build.intervals(config_of(toy, **changes)) == expected


@pytest.mark.parametrize(("process", "end"), [("vp", 1e-3), ("edm", 0.002), ("subvp", 1e-3)])
def test_grids_do_not_end_before_t_min(process, end):
    config = config_of(sde__name=process, sampler__grid="uniform", sampler__t_end=1e-3)
    assert float(build.grid(config, build.sde(config))[-1]) == pytest.approx(end)


def train(config, folder, **changes):
    config = config.copy_and_resolve_references()
    config.training.update(**changes)
    return runs.train(runs.new(config, folder))


def test_a_run_goes_on_to_any_number_of_steps_with_the_numbers_it_began_with(tmp_path):
    """A dispatch divides the step of the checkpoint too: else the end would be passed by, and nothing saved."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    config = config_of(toy, data__name="array", data__root=str(tmp_path / "x.npy"), sde__ve__sigma_max=0.0)
    config.optimizer.schedule, config.network.mlp.hidden, config.training.batch_size = "constant", (4,), 8
    assert train(config, tmp_path / "run", steps=20).step == 20
    before = command.read_config(tmp_path / "run")
    np.save(tmp_path / "x.npy", 100 * np.load(tmp_path / "x.npy"))  # what is derived of these would be another σ_max
    for steps in (47, 60):
        assert train(config, tmp_path / "run", steps=steps, log_every=10).step == steps
    now = command.read_config(tmp_path / "run")
    assert now["sde"] == before["sde"] and now["optimizer"]["warmup_steps"] == 4
    assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()) == 60

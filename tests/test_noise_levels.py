"""NCSNv2's calculators: exact distances, published ladders and steps, and where those don't follow from the rules."""

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image
from scipy import integrate, stats
from scipy.spatial.distance import pdist

from experiments import noise_levels as script
from score_jax import arrays, distributions, noise_levels, sampling
from score_jax import data as datasets
from score_jax import sde as sdes
from score_jax.lab import settings as base
from score_jax.lab.build.noise import sde
from score_jax.lab.build.sampling import grid
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import key

pytestmark = pytest.mark.usefixtures("strict_dtypes")

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)


class Published(NamedTuple):
    """Song & Ermon 2020, table 5 and released configs; step_lr is ε/2."""

    dims: int
    sigma_max: float
    n_levels: int
    n_steps: int
    step_lr: float
    levels_at_half: int  # what the rule gives for C = 0.5
    best_step_lr: float  # and technique 4
    variance_ratio: float  # at the best step

    @property
    def ratio(self) -> float:
        return (self.sigma_max / 0.01) ** (1 / (self.n_levels - 1))


PUBLISHED = {
    "cifar10": Published(3072, 50, 232, 5, 6.2e-6, 219, 6.18e-6, 1.05547),
    "celeba": Published(12288, 90, 500, 5, 3.3e-6, 472, 3.34e-6, 1.03135),
    "lsun_church": Published(27648, 140, 788, 4, 4.9e-6, 745, 2.31e-6, 1.02236),
    "lsun_bedroom": Published(49152, 190, 1086, 3, 1.8e-6, 1026, 1.77e-6, 1.01737),
    "ffhq": Published(196608, 348, 2311, 3, 0.9e-6, 2182, 8.93e-7, 1.00885),  # the paper's table misprints 0.9e-7
}
each_published = pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED.keys())


# Technique 1


CLOUDS = {
    "images": RNG.integers(0, 256, (300, 5, 4, 3), np.uint8),
    "float32": RNG.normal(size=(257, 6)).astype(np.float32),
    "float64": RNG.normal(size=(100, 3)) * [1e-3, 1, 1e3],
    "far from the origin": RNG.normal(size=(300, 8)) + 1e5,  # ‖a‖² + ‖b‖² − 2a·b of the raw rows is off by 1e4 here
    "of one distance": np.eye(70, dtype=np.float32),
    "tiny": 1e-30 * RNG.normal(size=(40, 2)),
    "huge": 1e30 * RNG.normal(size=(40, 2)),
    "heavy-tailed": RNG.standard_t(1.5, size=(400, 2)),
    "two": np.array([[1.0, 2.0], [4.0, 6.0]]),
    "repeated": np.repeat(RNG.normal(size=(5, 3)), 60, 0),
}


@pytest.mark.parametrize("rows", [7, 2048], ids=["small blocks", "one block"])
@pytest.mark.parametrize("x", CLOUDS.values(), ids=CLOUDS.keys())
def test_the_largest_distance_is_that_of_all_pairs_in_float64(x, rows, monkeypatch):
    monkeypatch.setattr(noise_levels, "_ROWS", rows)
    exact = pdist(x.reshape(len(x), -1).astype(np.float64)).max()
    # the reference itself rounds coordinates of 1e5 at 1e-11
    np.testing.assert_allclose(noise_levels.max_pairwise_distance(x), exact, rtol=1e-12)


def test_a_pair_that_float32_cannot_tell_from_the_farthest_is_still_found():
    """Two pairs of opposite points, 2 and 2 + 2e-9 apart, among others."""
    x = np.zeros((400, 50))
    x[:, :2] = RNG.uniform(-0.5, 0.5, (400, 2))
    x[[3, 390]] = (0,)
    x[3, 2], x[390, 2] = 1.0, -1.0
    x[100], x[250] = 0, 0
    x[100, 3], x[250, 3] = 1.0 + 1e-9, -1.0 - 1e-9
    for order in (np.arange(400), RNG.permutation(400)):
        assert noise_levels.max_pairwise_distance(x[order]) == pytest.approx(2 + 2e-9, abs=1e-14)


def test_equal_examples_are_at_distance_zero():
    assert noise_levels.max_pairwise_distance(np.ones((5, 2, 2), np.uint8)) == 0


def test_a_subset_bounds_from_below_and_depends_on_the_seed_alone():
    x = RNG.normal(size=(500, 4))
    whole = noise_levels.max_pairwise_distance(x)
    parts = [noise_levels.max_pairwise_distance(x, subset=60, seed=seed) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2] and max(parts) < whole
    assert noise_levels.max_pairwise_distance(x, subset=1000) == whole


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((1, 3)), r"at least two examples, got shape \(1, 3\)"),
        (np.ones(3), r"got shape \(3,\)"),
        (np.array([[0.0], [np.nan], [1.0]]), "NaN or infinite"),
        (np.array([[0.0], [np.inf]]), "NaN or infinite"),
    ],
)
def test_what_has_no_largest_distance_is_refused(x, message):
    with pytest.raises(InputError, match=message):
        noise_levels.max_pairwise_distance(x)
    with pytest.raises(InputError, match="subset must be at least 2"):
        noise_levels.max_pairwise_distance(np.ones((3, 2)), subset=1)


# Technique 2


@each_published
def test_published_ladders_overlap_by_0_567_and_the_rule_at_one_half_gives_fewer_levels(published):
    """CIFAR-10's 232 levels, CelebA's 500 are those of C = 0.567, not of the paper's C ≈ 0.5, which gives 219, 472."""
    np.testing.assert_allclose(noise_levels.overlap(published.ratio, published.dims), 0.567, atol=1e-3)
    near = noise_levels.count(published.sigma_max, 0.01, published.dims, c=0.567)
    assert abs(near - published.n_levels) <= 1
    assert noise_levels.count(published.sigma_max, 0.01, published.dims) == published.levels_at_half


def test_ncsns_ladder_overlaps_by_nothing():
    assert noise_levels.overlap(100 ** (1 / 9), 3072) < 1e-12
    assert noise_levels.count(1.0, 0.01, 3072) == 119


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5, 31, 32, 64, 3072, 10**6])
def test_the_ratio_solves_its_equation_in_any_dimension(dims, c):
    ratio = noise_levels.ratio(dims, c=c)
    assert ratio > 1
    np.testing.assert_allclose(noise_levels.overlap(ratio, dims), c, rtol=1e-9)


def test_published_ratios_and_the_limit_of_many_dimensions():
    expected = {3072: 1.039796, 12288: 1.019510, 49152: 1.009661, 196608: 1.004807}  # solved independently
    for dims, ratio in expected.items():
        np.testing.assert_allclose(noise_levels.ratio(dims), ratio, atol=6e-7)
    # 1 + 3/√(2D): the next order is 9/(2D)
    np.testing.assert_allclose(noise_levels.ratio(10**6), 1 + 3 / np.sqrt(2e6), atol=6e-6)


@pytest.mark.parametrize("dims", [2, 10, 31])
def test_in_few_dimensions_the_overlap_is_that_of_the_exact_law_of_the_norm(dims):
    """C by quadrature of χ_D's density over γ times its central 99.73 %."""
    law, tail, ratio = stats.chi(dims), stats.norm.cdf(-3), noise_levels.ratio(dims)
    share, _ = integrate.quad(law.pdf, ratio * law.ppf(tail), ratio * law.isf(tail))
    np.testing.assert_allclose(noise_levels.overlap(ratio, dims), share, rtol=1e-8)


def test_levels_reach_both_ends():
    assert noise_levels.count(0.0101, 0.01, 2) == 2
    levels = sdes.geometric_sigmas(50.0, 0.01, noise_levels.count(50.0, 0.01, 3072))
    np.testing.assert_allclose(levels[0] / levels[1], noise_levels.ratio(3072), rtol=1e-3)  # a rounded count


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_levels.ratio(64, c=0.9999), "c is between 0 and 0.9973.* got 0.9999"),
        (lambda: noise_levels.ratio(64, c=0.0), "got 0.0"),
        (lambda: noise_levels.ratio(0), "dims must be at least 1"),
        (lambda: noise_levels.count(0.01, 1.0, 64), "sigma_min must be below sigma_max"),
        (lambda: noise_levels.step_size(0.01, 1.0, 5), "above 1, got 1.0"),
        (lambda: noise_levels.step_size(-0.01, 1.1, 5), "sigma_min must be positive"),
        (lambda: noise_levels.step_size(0.01, 1.1, 0), "n_steps must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Technique 4


@each_published
def test_published_steps_are_technique_4s(published):
    """Within the two digits they are printed with; LSUN church's 4.9e-6 does not follow from the rule: see below."""
    step = noise_levels.step_size(0.01, published.ratio, published.n_steps)
    np.testing.assert_allclose(step / 2, published.best_step_lr, rtol=3e-3)
    ratio = noise_levels.variance_ratio(step, 0.01, published.ratio, published.n_steps)
    np.testing.assert_allclose(ratio, published.variance_ratio, atol=1e-5)
    if published is not PUBLISHED["lsun_church"]:
        np.testing.assert_allclose(step / 2, published.step_lr, rtol=0.02)


def test_the_published_step_for_lsun_church_follows_for_no_number_of_steps():
    church = PUBLISHED["lsun_church"]
    steps = [noise_levels.step_size(0.01, church.ratio, n) / 2 for n in range(1, 8)]
    assert max(steps) < 2.4e-6 < church.step_lr
    worse, best = (
        noise_levels.variance_ratio(2 * step_lr, 0.01, church.ratio, 4) for step_lr in (4.9e-6, church.best_step_lr)
    )
    np.testing.assert_allclose(worse, 1.02474, atol=1e-5)
    np.testing.assert_allclose(best, 1.02236, atol=1e-5)


def test_ncsns_step_leaves_a_ninth_too_much():
    ratio = 100 ** (1 / 9)
    np.testing.assert_allclose(noise_levels.variance_ratio(4e-5, 0.01, ratio, 100), 10 / 9, rtol=1e-12)
    np.testing.assert_allclose(noise_levels.step_size(0.01, ratio, 100) / 2, 3.23e-6, rtol=2e-3)


@pytest.mark.parametrize("dims", [2, 64, 3072, 10**6])
@pytest.mark.parametrize("n_steps", [1, 5, 100])
def test_no_other_step_comes_nearer(dims, n_steps):
    ratio = noise_levels.ratio(dims)
    best = noise_levels.step_size(0.01, ratio, n_steps)
    others = np.concatenate([best * np.geomspace(0.5, 2, 101), 2e-4 * np.geomspace(1e-6, 1.999, 1001)])
    errors = np.abs(noise_levels.variance_ratio(others[others < 4e-4], 0.01, ratio, n_steps) - 1)
    found = abs(noise_levels.variance_ratio(best, 0.01, ratio, n_steps) - 1)
    assert found <= errors.min() * (1 + 1e-6)


def test_the_variance_is_that_of_annealed_langevin_dynamics_around_a_point():
    """Level by level on the exact score of one point, and after many levels the steady ratio."""
    sigmas, n, step_size = np.geomspace(2.0, 0.1, 10), 20_000, 6e-3
    sde, ratio = sdes.VE(0.1, 2.0), 20 ** (1 / 9)
    score_fn = distributions.score_of(distributions.Empirical(jnp.zeros((1, 1))), sde)
    sampler = sampling.annealed_langevin(sde, score_fn, step_size=step_size, n_steps=3, sigma_min=0.1)
    run = jax.jit(
        lambda x: sampling.sample(key(), sampler, x, grids.levels(sde, sigmas), trace=lambda s: (s.x**2).mean())[1]
    )
    measured = run(2.0 * arrays.normal(key(1), jnp.zeros((n, 1)))) / sigmas**2
    expected = [noise_levels.variance_ratio(step_size, 0.1, 1.0, 3)]
    for _ in sigmas[1:]:
        expected.append(noise_levels.variance_ratio(step_size, 0.1, ratio, 3, before=expected[-1]))
    np.testing.assert_allclose(measured, expected, rtol=4 * np.sqrt(2 / n))
    np.testing.assert_allclose(noise_levels.steady_variance_ratio(step_size, 0.1, ratio, 3), expected[-1], rtol=1e-5)


def test_the_steady_ratio_is_what_a_level_leaves_as_it_is_and_infinite_for_steps_that_cannot_keep_up():
    steady = noise_levels.steady_variance_ratio(1.24e-5, 0.01, 1.0376, 5)
    np.testing.assert_allclose(noise_levels.variance_ratio(1.24e-5, 0.01, 1.0376, 5, before=steady), steady, rtol=1e-12)
    assert noise_levels.steady_variance_ratio(1e-7, 0.01, 1.0376, 5) == np.inf


def test_the_recommendation_holds_together():
    found = noise_levels.recommend(50.0, 3072, c=0.567)
    assert (found.n_levels, found.n_steps, found.sigma_max, found.sigma_min) == (232, 5, 50.0, 0.01)
    np.testing.assert_allclose(found.ratio, PUBLISHED["cifar10"].ratio, rtol=1e-12)
    np.testing.assert_allclose(found.step_size / 2, 6.18e-6, rtol=3e-3)
    np.testing.assert_allclose(found.overlap, 0.567, atol=1e-3)
    steady = noise_levels.steady_variance_ratio(found.step_size, 0.01, found.ratio, 5)
    np.testing.assert_allclose(found.last_variance, steady, rtol=1e-6)
    assert 1 < found.first_variance < found.last_variance


# The command


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "experiments/noise_levels.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr.strip()


@pytest.mark.slow
def test_the_command_prints_lines_that_configure_what_it_recommends(tmp_path):
    code, output, error = command("--config=configs/digits.py", "--n_steps=5", f"--out={tmp_path / 'figure.png'}")
    assert code == 0, error
    Image.open(tmp_path / "figure.png").verify()
    digits = datasets.digits()
    distance = pdist(digits.batch(np.arange(len(digits)))["x"].reshape(len(digits), -1) / 16).max()
    expected = noise_levels.recommend(distance, 64, n_steps=5)
    config = base.get_config()
    exec("\n".join(line.strip() for line in output.splitlines() if line.startswith("    config.")), {"config": config})
    np.testing.assert_allclose(config.sde.ve.sigma_max, distance, rtol=1e-3)  # four digits are printed
    np.testing.assert_allclose(config.sampler.annealed_langevin.step_size, expected.step_size, rtol=1e-2)
    assert len(grid(config, sde(config))) == expected.n_levels + 1 == 22
    assert "4.736  the largest distance" in output


def test_importing_the_command_defines_no_flag():
    assert callable(script.define) and not {"subset", "n_steps"} & set(flags.FLAGS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.sde.ve.sigma_min=40", "not above sde.ve.sigma_min, 40"),
    ],
)
def test_a_wrong_command_line_is_one_line(argument, message):
    code, _, error = command(argument)
    assert code == 2 and error.startswith("error: ") and message in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_all_of_fashion_mnist_is_compared_within_two_minutes():
    try:
        source = datasets.fashion_mnist()
    except InputError as error:
        pytest.skip(str(error))
    x = source.batch(np.arange(len(source)))["x"]
    start = time.perf_counter()
    squared = noise_levels.max_pairwise_distance(x) ** 2
    assert time.perf_counter() - start < 120
    np.testing.assert_allclose(squared / 255**2, 22.456102**2, rtol=1e-6)
    np.testing.assert_allclose(squared, round(squared), rtol=1e-12)  # of integers


def test_the_noise_of_a_chain_is_above_what_its_score_is_told_and_more_so_where_there_is_texture():
    """On 98 levels of 5 steps by 15 % in a direction without data, by 31 % where these vary by as much as the noise."""
    sigmas, variance, n = np.geomspace(22.5, 0.01, 98), 0.01, 40_000
    ratio = sigmas[0] / sigmas[1]
    step_size = noise_levels.step_size(0.01, ratio, 5)
    assert abs(noise_levels.steady_variance_ratio(step_size, 0.01, ratio, 5) - 1.146) < 1e-3
    ladder = sigmas[sigmas >= variance**0.5]
    expected = variance + ladder[0] ** 2
    for sigma in ladder:
        epsilon = step_size * (sigma / 0.01) ** 2
        for _ in range(5):
            expected = (1 - epsilon / 2 / (variance + sigma**2)) ** 2 * expected + epsilon
    assert abs((expected - variance) / ladder[-1] ** 2 - 1.31) < 0.01
    edm = sdes.EDM(0.01, 22.5)
    told = lambda x, t: -x / (variance + arrays.expand_right(edm.variance(t), x))
    langevin = sampling.annealed_langevin(edm, told, step_size=step_size, n_steps=5)
    start = (variance + ladder[0] ** 2) ** 0.5 * jax.random.normal(jax.random.key(0), (n, 1))
    ts = grids.levels(edm, jnp.asarray(ladder, jnp.float32))
    x = jax.jit(lambda x: sampling.sample(jax.random.key(1), langevin, x, ts))(start)
    assert abs(float((x**2).mean()) / expected - 1) < 4 * (2 / n) ** 0.5

"""Grids: exact ends, their spacing, published values, and one clear line for a grid that increases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
MAKERS = {"uniform": grids.uniform, "karras": grids.karras, "log_snr": grids.log_snr, "cosine": grids.cosine}


@each_sde
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_grids_run_exactly_from_t_max_to_t_min_or_t_end(sde, make):
    ts = make(sde, 12)
    assert len(ts) == 12 and ts[0] == jnp.float32(sde.t_max) and ts[-1] == jnp.float32(sde.t_min)
    assert np.all(np.diff(ts) < 0)
    assert make(sde, 5, t_end=0.02 * sde.t_max)[-1] == jnp.float32(0.02 * sde.t_max)


@each_sde
def test_spacing_is_what_the_name_says(sde):
    np.testing.assert_allclose(np.diff(np.diff(grids.uniform(sde, 9))), 0, atol=1e-5 * sde.t_max)
    log_snr = np.asarray(sde.log_snr(grids.log_snr(sde, 9)))
    np.testing.assert_allclose(np.diff(np.diff(log_snr)), 0, atol=3e-4)
    sigma = np.exp(-np.asarray(sde.log_snr(grids.karras(sde, 9))) / 14)
    np.testing.assert_allclose(np.diff(np.diff(sigma)), 0, atol=1e-4)
    angle = np.arctan(np.exp(-0.5 * np.asarray(sde.log_snr(grids.cosine(sde, 9)), np.float64)))
    np.testing.assert_allclose(np.diff(np.diff(angle)), 0, atol=1e-5)


def test_the_cosine_grid_is_uniform_on_the_cosine_sde_and_visits_its_levels_on_others():
    cosine = sdes.Cosine(t_min=0.01, t_max=0.98)
    np.testing.assert_allclose(grids.cosine(cosine, 12), grids.uniform(cosine, 12), atol=1e-6)
    flow = sdes.Flow(t_min=float(1 / (1 + 1 / np.tan(0.005 * np.pi))), t_max=float(1 / (1 + 1 / np.tan(0.49 * np.pi))))
    log_snr = cosine.log_snr(grids.uniform(cosine, 12))
    np.testing.assert_allclose(flow.log_snr(grids.cosine(flow, 12)), log_snr, atol=2e-4)


def test_karras_grid_is_the_published_one():
    """sde.md's table, of EDM's default 18 levels; the 0 after them is the explicit last denoise."""
    expected = [80, 57.585984721, 40.785573797, 28.374584604, 19.352452980, 12.910082381, 8.4009353091, 5.3151945218]
    expected += [3.2568215198, 1.9233398370, 1.0881706365, 0.58534812319, 0.29644228448, 0.13951646873, 0.059947311235]
    expected += [0.022934518372, 0.0075280199628, 0.002]
    np.testing.assert_allclose(grids.karras(sdes.EDM(), 18), expected, rtol=1e-5)
    np.testing.assert_allclose(grids.karras(sdes.EDM(), 40)[20], 2.2404397589312026, rtol=1e-5)


@each_sde
def test_levels_arrive_at_every_level_once(sde):
    sigmas = np.geomspace(2.0, 0.1, 6)
    ts = grids.levels(sde, sigmas)
    assert len(ts) == 7 and ts[0] == ts[1]
    np.testing.assert_allclose(np.exp(-0.5 * sde.log_snr(ts[1:])), sigmas, rtol=2e-4)


def test_ddpm_visits_the_knots():
    sde = SDES["tabulated"]
    ts = grids.ddpm(sde)
    np.testing.assert_array_equal(ts[:-1], sde.knots()[::-1])
    assert ts[-1] == jnp.float32(1e-5)
    np.testing.assert_array_equal(grids.ddpm(sde, t_end=1e-3), sde.knots()[::-1])


@pytest.mark.parametrize(("t_end", "above"), [(0.0, 1000), (5e-4, 1000), (0.002, 998), (0.5, 500), (0.5005, 500)])
def test_ddpm_ends_at_t_end_and_never_stands(t_end, above):
    sde = SDES["tabulated"]
    ts = grids.ddpm(sde, t_end=t_end)
    np.testing.assert_array_equal(ts[:-1], sde.knots()[::-1][:above])
    assert ts[-1] == jnp.float32(t_end) and np.all(np.diff(ts) < 0)


@pytest.mark.parametrize("n", [10, 30, 1000])
def test_a_table_that_ends_at_its_first_knot_takes_one_call_a_step(n):
    """DDIM's n calls are n − 1 steps and the last denoise: n points; also where the SDE itself is traced."""
    sde = sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar, t_min=1e-3)
    ts = grids.ddpm(sde, n)
    assert len(ts) == n and ts[-1] == jnp.float32(1e-3) and np.all(np.diff(ts) < 0)
    np.testing.assert_array_equal(jax.jit(lambda: grids.ddpm(sde, n))(), ts)
    # A traced end can't drop the knot that it stands on.
    np.testing.assert_array_equal(jax.jit(lambda sde: grids.ddpm(sde, n))(sde), [*ts, ts[-1]])


@pytest.mark.parametrize(("n", "skip"), [(10, 100), (20, 50), (50, 20), (100, 10), (1000, 1)])
def test_ddpm_with_n_visits_ddims_published_indices(n, skip):
    """DDIM's code takes range(0, 1000, 1000 // n), and then goes to x0."""
    indices = np.arange(0, 1000, skip)
    ts = grids.ddpm(SDES["tabulated"], n)
    assert len(ts) == n + 1 and ts[-1] == jnp.float32(1e-5)
    np.testing.assert_allclose(ts[:-1], (indices[::-1] + 1) / 1000, rtol=1e-6)


def test_ddpm_with_any_n_visits_knots_about_a_stride_apart_from_within_one_of_t_max():
    """τ_k = ⌊k N/n⌋ (Song et al. 2020, appendix D.2): N − 1 − τ_{n−1} < N/n, and steps of ⌊N/n⌋ or ⌈N/n⌉ knots."""
    sde, total = sdes.Tabulated(sdes.ddpm_schedule(100).alphas_bar), 100
    for n in (2, 3, 6, 7, 9, 11, 30, 33, 34, 50, 51, 60, 66, 67, 99, 100):
        knots = np.round(total * np.asarray(grids.ddpm(sde, n)[:-1], np.float64)) - 1
        assert len(knots) == n and knots[-1] == 0 and total - 1 - knots[0] < total / n, n
        assert set(-np.diff(knots)) <= {total // n, -(-total // n)}, n


def test_ddim_is_as_good_on_any_number_of_the_tables_knots(x64):
    """The exact score of an off-centre mixture: root mean square distance, of 200 rows, from the run on all knots.

    An error of first order, C/n, is C (1/n − 1/1000) away: C = 1.2 of n = 334, 500 and 501 and 1.4 of 600, whose
    strides are of one knot and of two. From t = 0.501 with n = 501 C was 1,200.
    """
    sde = sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar, t_min=1e-3)
    data = distributions.GaussianMixture(jnp.array([0.7, 0.3]), jnp.array([[2.0], [1.0]]), jnp.array([0.05, 0.05]))
    score_fn = distributions.score_of(data, sde)
    x = jnp.sqrt(2.0) * jax.scipy.special.erfinv(2 * (jnp.arange(200.0) + 0.5)[:, None] / 200 - 1)

    @jax.jit
    def ends(ts):
        x0 = sampling.sample(key(), sampling.ddim(sde, score_fn), x, ts)
        return sde.denoise(x0, ts[-1], score_fn(x0, ts[-1]))

    truth, *found = (ends(np.pad(grids.ddpm(sde, n), (0, 1000 - n), mode="edge")) for n in (1000, 334, 500, 501, 600))
    for n, x0 in zip((334, 500, 501, 600), found, strict=True):
        assert jnp.sqrt(((x0 - truth) ** 2).mean()) < 1.5 * (1 / n - 1 / 1000), n


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grids.levels(sdes.VE(), np.array([0.1, 1.0])), "ts must not increase"),
        (lambda: grids.levels(sdes.VE(), np.array([1.0, 0.0])), "must be positive, got 0"),
        (lambda: grids.levels(sdes.VE(), np.array([1.0, -0.5])), "must be positive, got -0.5"),
        (lambda: grids.ddpm(sdes.VP()), "sde.Tabulated; VP has none"),
        (lambda: grids.ddpm(SDES["tabulated"], 1001), "n must be from 2 to the table's 1000 knots, got 1001"),
        (lambda: grids.ddpm(SDES["tabulated"], 1), "n must be from 2 to"),  # it would begin at the least noisy knot
        (lambda: grids.ddpm(SDES["tabulated"], t_end=1.0), "at least two times"),
        (lambda: grids.ddpm(SDES["tabulated"], 10, spacing="even"), "spacing must be one of .*'trailing'.* got 'even'"),
        (lambda: grids.ddpm(SDES["tabulated"], spacing="trailing"), "spacing 'trailing' is of n of the knots: give n"),
        (lambda: grids.ddpm(SDES["tabulated"], 10, offset=1), "offset moves spacing 'leading' .* got 1 of 'stride'"),
        (lambda: grids.ddpm(SDES["tabulated"], 10, spacing="leading", offset=100), "offset moves .* got 100 of 'lead"),
        (lambda: grids.respaced(sdes.VP(), "10"), "respaced visits the knots of sde.Tabulated; VP has none"),
        (lambda: grids.uniform(sdes.VP(), 1), "at least 2 points, got n = 1"),
        (lambda: grids.karras(sdes.VP(), 5, 0.0), "rho must be positive"),
        (lambda: grids.levels(sdes.VE(), 1.0), "non-empty vector"),
    ],
)
def test_grids_that_make_no_sense_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("ts", [[0.1, 0.9], [0.9, 0.5, 0.7], [0.5, float("nan")]])
def test_sampling_refuses_an_increasing_grid_and_names_the_step(ts):
    score_fn = distributions.score_of(mixture(), sdes.VP())
    step = 1 if len(ts) == 3 else 0
    with pytest.raises(InputError, match=f"must not increase.* at step {step}"):
        sampling.sample(key(), sampling.ddim(sdes.VP(), score_fn), jnp.zeros((2, 2)), np.array(ts, np.float32))

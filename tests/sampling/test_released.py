"""Samplers under a paper's name against the numbers of its released code, in double precision.

Ends of a few steps on the exact score of `helpers.mixture()`, from four points, with noise that is given: how they were
made is said in tests/data/README.md.
"""

import functools
import json
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture, mixture_score, stepwise

pytestmark = pytest.mark.usefixtures("strict_dtypes", "x64")

DATA = Path(__file__).parent.parent / "data" / "samplers"
VP = sdes.VP()


def released(name):
    """The ends `{setting: (4, 2)}` that a released code computed, and all that is stored beside them."""
    stored = dict(np.load(DATA / f"{name}.npz"))
    return dict(zip(stored.pop("names"), stored.pop("ends"), strict=True)), stored


def run(make, sde, x, ts, noise=()):
    """The end of a sampler's steps along `ts`, whose draws are `noise` in turn."""
    drawn = iter(noise)
    with mock.patch.object(arrays, "normal", lambda key, like: next(drawn)):
        end = stepwise(make(sde, mixture_score(sde)), key(), jnp.asarray(x), jnp.asarray(ts))
    assert next(drawn, None) is None, "the released code drew more noise"
    return end


def check(found, expected, name):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11, err_msg=name)


# DPM-Solver and UniPC: seven steps on VP down to 1e-3


def on_vp(name, n=7):
    make = grids.log_snr if name.endswith("log_snr") else grids.uniform
    return make(VP, n + 1, t_end=1e-3)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("lower_order", ["last", "never"])
def test_dpm_solver_pp_is_the_released_one(order, solver_type, lower_order):
    ends, stored = released("dpm_solver")
    name = f"dpm_solver_pp_{order} {'heun ' * (solver_type == 'heun')}{lower_order} uniform"
    options = {"order": order, "solver_type": solver_type, "lower_order": lower_order, "quadratic": "halved"}
    make = functools.partial(sampling.dpm_solver_pp, **options)
    check(run(make, VP, stored["start"], on_vp(name)), ends[name], name)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_singlestep_dpm_solver_is_the_released_one(order, prediction):
    ends, stored = released("dpm_solver")
    for solver_type in ("midpoint", "heun"):
        for spacing in ("uniform", "log_snr"):
            name = f"dpm_solver_{order} {prediction} {solver_type} {spacing}"
            inner = "time" if spacing == "uniform" else "log_snr"
            options = {"order": order, "prediction": prediction, "solver_type": solver_type, "inner": inner}
            make = functools.partial(sampling.dpm_solver, **options)
            check(run(make, VP, stored["start"], on_vp(name, 4)), ends[name], name)


def test_dpm_solver_fast_is_three_runs_of_descending_order():
    """Twelve calls: orders 3, 3, 3, 2, 1 on five steps equal in λ; or on so many parts of a grid uniform in time."""
    ends, stored = released("dpm_solver")
    for name, ts in {
        "dpm_solver_fast log_snr": on_vp("log_snr", 5),
        "dpm_solver_fast uniform": on_vp("uniform", 12)[np.array([0, 3, 6, 9, 11, 12])],
    }.items():
        x, inner = stored["start"], "time" if name.endswith("uniform") else "log_snr"
        for order, part in ((3, ts[:4]), (2, ts[3:5]), (1, ts[4:])):
            x = run(functools.partial(sampling.dpm_solver, order=order, inner=inner), VP, x, part)
        check(x, ends[name], name)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_is_the_released_one(order, variant):
    ends, stored = released("unipc")
    for lower_order in ("last", "never"):
        name = f"unipc_{order} {variant} {lower_order}"
        make = functools.partial(sampling.unipc, order=order, variant=variant, lower_order=lower_order)
        check(run(make, VP, stored["start"], on_vp("uniform")), ends[name], name)


# k-diffusion: seven steps from σ = 20, S_churn = 2

CHURN = {"churn": 2 / 7, "s_min": 0.1, "s_max": 15.0, "s_noise": 1.01}
K_DIFFUSION = {
    "euler_churn": (functools.partial(sampling.euler_churn, **CHURN), 7),
    "heun churn": (functools.partial(sampling.heun, **CHURN), 7),
    "kdpm2": (sampling.kdpm2, 7),
    "kdpm2 churn": (functools.partial(sampling.kdpm2, **CHURN), 7),
    **{f"lms_{p}": (functools.partial(sampling.lms, order=p), 0) for p in (1, 2, 3, 4)},
    "dpm_solver_pp_2m": (functools.partial(sampling.dpm_solver_pp, lower_order="never"), 0),
    **{
        f"2m_sde {kind}": (
            functools.partial(sampling.dpm_solver_pp, eta=1.0, solver_type=kind, lower_order="never"),
            7,
        )
        for kind in ("midpoint", "heun")
    },
    "3m_sde": (
        functools.partial(
            sampling.dpm_solver_pp, order=3, eta=1.0, solver_type="heun", quadratic="halved", lower_order="never"
        ),
        7,
    ),
}


@pytest.mark.parametrize("name", K_DIFFUSION)
def test_it_is_k_diffusions(name):
    ends, stored = released("k_diffusion")
    make, draws = K_DIFFUSION[name]
    check(run(make, sdes.EDM(), 20 * stored["start"], stored["sigmas"], stored["noise"][:draws]), ends[name], name)


# diffusers: the 1,000 knots of DDPM's table

TABLE = sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar, t_min=1e-3)


@pytest.mark.parametrize(
    ("order", "n", "lower_order"), [(1, 8, "last"), (2, 8, "last"), (3, 8, "last"), (3, 16, "never")]
)
def test_deis_is_diffusers(order, n, lower_order):
    ends, stored = released("diffusers")
    make = functools.partial(sampling.deis, order=order, lower_order=lower_order)
    ts = grids.ddpm(TABLE, n + 1, spacing="linspace")
    check(run(make, TABLE, stored["start"], ts), ends[f"deis_{order} {lower_order}"], f"{order} {lower_order}")


def test_a_learned_range_is_diffusers():
    """Eight "leading" steps of which the last, to the data, has no noise: it is the explicit denoise."""
    ends, stored = released("diffusers")

    def make(sde, score_fn):
        return sampling.ancestral(
            sde, score_fn, variance=sampling.learned_range(sde, lambda x, t: jnp.tanh(x), floor=1.0)
        )

    ts = grids.ddpm(TABLE, 8, spacing="leading")
    x = run(make, TABLE, stored["start"], ts, stored["noise"][:7])
    x = TABLE.denoise(x, ts[-1], distributions.score_of(mixture(), TABLE)(x, ts[-1]))
    check(x, ends["learned_range"], "learned_range")


def indices(ts):
    return np.round(np.asarray(ts, np.float64) * 1000 - 1).astype(int).tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_are_diffusers(spacing):
    """Those of its DDPM and DDIM, whose end follows; and of its multistep schedulers, which leave the lowest out."""
    listed = json.loads((DATA / "spacings.json").read_text())
    for n in (7, 10, 30):
        ts = grids.ddpm(TABLE, n, spacing=spacing, t_end=0.0)
        assert indices(ts[:-1]) == listed[f"ddim {spacing} {n}"]
        multistep = grids.ddpm(TABLE, n + 1, spacing=spacing) if spacing != "trailing" else ts
        assert indices(multistep[:-1]) == listed[f"dpm {spacing} {n}"]
    found = indices(grids.ddpm(TABLE, 501, spacing=spacing, t_end=0.0)[:-1])
    assert len(found) == 501 and found[:3] + found[-3:] == listed[f"ddim {spacing} 501 ends"]


def test_leading_steps_are_offset_as_in_diffusers():
    listed = json.loads((DATA / "spacings.json").read_text())
    ts = grids.ddpm(TABLE, 10, spacing="leading", offset=1, t_end=0.0)
    assert indices(ts[:-1]) == listed["ddim leading 10 offset 1"]


def test_zero_terminal_snr_is_diffusers():
    """ᾱ at ten knots of two tables."""
    _, stored = released("diffusers")
    scaled = np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2
    tables = sdes.ddpm_schedule(1000).alphas_bar, np.cumprod(1 - scaled)
    at = [0, 1, 9, 99, 499, 899, 989, 997, 998, 999]
    for table, expected in zip(tables, stored["zero_snr"], strict=True):
        found = sdes.zero_terminal_snr(table)[at]
        np.testing.assert_allclose(found, expected, rtol=1e-10)  # relative: the last but one is 4e-9
        assert found[-1] == 0


# improved-diffusion


def test_respacing_is_improved_diffusions():
    for setting, kept in json.loads((DATA / "respacing.json").read_text()).items():
        total, counts = setting.split(" ")
        assert grids.kept_knots(int(total), counts).tolist() == kept, setting
    ts = grids.respaced(TABLE, "10,15,20")
    assert len(ts) == 45 and ts[0] == 1 and ts[-1] == 1e-3


@pytest.mark.parametrize(
    ("total", "counts", "message"),
    [
        (1000, "ddim300", "no stride keeps exactly 300 of 1000 knots"),
        (10, "6,6", "'6,6' keeps 6 of a section of 5 knots"),
        (1000, "ten", "expected counts such as '10,15,20' or 'ddim50', got 'ten'"),
        (1000, "0", "expected counts"),
        (1000, "", "expected counts"),
    ],
)
def test_respacing_that_cannot_be_had_is_refused(total, counts, message):
    with pytest.raises(InputError, match=message):
        grids.kept_knots(total, counts)


# Score SDE: 24 updates, and 24 corrections before them

PREDICTORS = {"euler_maruyama": sampling.euler_maruyama, "reverse_diffusion": sampling.reverse_diffusion}


@pytest.mark.parametrize("sde_name", ["vp", "ve", "subvp"])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_score_sdes_predictors_are_the_released_ones(predictor, sde_name):
    ends, stored = released("score_sde")
    sde, n, t_end = {
        "vp": (VP, 24, 1e-3),
        "ve": (sdes.VE(0.01, 50.0), 24, 1e-5),
        "subvp": (sdes.SubVP(), 24, 1e-3),
    }[sde_name]
    start = stored["start"] * (50 if sde_name == "ve" else 1)
    # released code has no α of sub-VP, and so no corrector
    kinds = [(flow, corrected) for flow in (False, True) for corrected in (False, True)[: 1 + (sde_name != "subvp")]]

    def end(flow, corrected, ts, noise):
        """One program of all kinds: 24 steps each, operation by operation, would take longer."""
        score_fn = distributions.score_of(mixture(), sde)
        sampler = PREDICTORS[predictor](sde, score_fn, probability_flow=flow, num_scales=n)
        if corrected:
            corrector = sampling.langevin_corrector(sde, score_fn, snr=0.16, norm="batch", num_scales=n)
            sampler = sampling.predictor_corrector(sampler, corrector, first="corrector")

        def step(i, state):
            # Drawn in this order: the correction's, then the prediction's, which the flow doesn't use.
            drawn = iter((2 * i, 2 * i + 1) if corrected else (i,))
            with mock.patch.object(arrays, "normal", lambda key, like: noise[next(drawn)]):
                return sampler.step(arrays.example_keys(key(), 4), state, ts[i], ts[i + 1])

        return jax.lax.fori_loop(0, n, step, sampler.init(jnp.asarray(start))).x

    found = jax.jit(lambda *given: [end(*kind, *given) for kind in kinds])(
        grids.score_sde(sde, n, t_end=t_end), jnp.asarray(stored["noise"])
    )
    for (flow, corrected), x in zip(kinds, found, strict=True):
        name = f"{sde_name} {predictor}{' flow' * flow}{' langevin' * corrected}"
        check(x, ends[name], name)


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_score_sdes_table_is_met_in_single_precision(name):
    """⌊t (n − 1)⌋ of the grid's times is every index once, where float32 would miss some by a rounding."""
    sde, n, t_end = SDES[name], 1000, 1e-3 if name == "vp" else 1e-5
    ts = jnp.asarray(grids.uniform(sde, n, t_end=t_end), jnp.float32)
    alpha, variance = sde.discretize(ts, n)
    if name == "vp":
        np.testing.assert_allclose(variance, np.linspace(20, 0.1, n) / n, rtol=1e-5)
        np.testing.assert_allclose(alpha**2, 1 - variance, rtol=1e-6)
        return
    sigmas = np.geomspace(50, 0.01, n)
    np.testing.assert_allclose(variance, sigmas**2 - np.append(sigmas[1:], 0) ** 2, rtol=2e-4)

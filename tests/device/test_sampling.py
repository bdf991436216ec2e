"""Every sampler, the adaptive flow and the likelihood end where they do on the CPU, on the exact score of a mixture.

Draws are the same everywhere: keys are integers, and what is made of them is rounded as everything else. Decisions are
too, but where numbers lie within rounding of each other: a proposal of MALA's, a step of the integrator. The seeds are
fixed, and of the few hundred decisions here none is that close on the CPU.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import distributions, likelihood, sampling
from tests.device.compare import MARKS, assert_close, both, rounding
from tests.helpers import SAMPLERS, SDES, key, mixture

pytestmark = [*MARKS, pytest.mark.usefixtures("float32_products")]

N, STEPS = 64, 8
SDE, DATA = SDES["vp"], mixture(2)
Z = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
# From σ/α = 150 to 0.02, equal steps of log σ/α.
TS = np.asarray(SDE.time(np.linspace(-10, 8, STEPS + 1)), np.float32)
# A step of a sampler and the score in it are some 30 operations in a row. Between the modes their flow spreads errors
# tenfold; a chain at one density forgets them.
BOUND = rounding(30 * STEPS, 10)
TOLERANCE = 1e-6
BOUNDS = {
    "static": rounding(30 * STEPS),
    # Steps are chosen such that they are off by 1e-6·(1 + |x|), whatever the program: some 20 of them, spread as above
    # by what is left of the way, threefold on average.
    "adaptive": TOLERANCE * 20 * 3,
}

score_fn = distributions.score_of(DATA, SDE)


def drawn_by(make):
    return lambda key, x: sampling.sample(key, make(SDE, score_fn), x, TS)


def chain(key, x):
    return sampling.langevin(key, DATA.score, x, step_size=0.2, n_steps=STEPS)


def corrected_chain(key, x):
    x, info = sampling.mala(key, DATA.log_prob, x, step_size=0.2, n_steps=STEPS)
    return {"x": x, "accepted": info.acceptance_rate}


def adaptive(key, x):
    del key
    return sampling.probability_flow(SDE, score_fn, x, rtol=TOLERANCE, atol=TOLERANCE)[0]


def flowed(x, **probes):
    found = likelihood.log_likelihood(SDE, score_fn, x, rtol=TOLERANCE, atol=TOLERANCE, **probes)
    return {"log_prob": found.log_prob, "z": found.z}


# One compiled program each.
GROUPS = {
    "noiseless": {name: drawn_by(SAMPLERS[name]) for name in ("ddim", "euler", "heun", "dpm_solver_pp", "unipc")}
    | {name: drawn_by(SAMPLERS[name]) for name in ("dpm_solver_pp_3", "unipc_3")},
    "adaptive": {
        "probability_flow": adaptive,
        "log_likelihood": lambda key, x: flowed(x),
        "log_likelihood_hutchinson": lambda key, x: flowed(x, key=key, n_probes=2),
    },
    "static": {"langevin": chain, "mala": corrected_chain},
}
GROUPS["noisy"] = {name: drawn_by(make) for name, make in SAMPLERS.items() if name not in GROUPS["noiseless"]}


@functools.cache
def results(group):
    """Returns {name: arrays} of the device and of the CPU."""

    def program(key, x):
        return {name: run(key, x) for name, run in GROUPS[group].items()}

    return both(program, key(2), Z)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, table in GROUPS.items() for name in table])
def test_samples_and_likelihoods_are_the_cpus(group, name, record_property):
    found, expected = (result[name] for result in results(group))
    assert_close(record_property, name, found, expected, BOUNDS.get(group, BOUND))
    if name == "mala":
        assert 0.1 < jnp.mean(found["accepted"]) < 0.99  # proposals of either fate

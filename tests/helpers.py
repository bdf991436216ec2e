"""Tables of everything there is one of many of; a new row inherits the common tests. Oracles and error bars beside."""

import contextlib
import functools
import itertools
import json
import tracemalloc
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from score_jax import arrays, conditioning, data, distributions, kernels, losses, parameterization, sampling
from score_jax import sde as sdes
from score_jax.losses import times, weighting
from score_jax.types import InputError

SDES = {
    "ve": sdes.VE(0.01, 50.0),
    "vp": sdes.VP(),
    "subvp": sdes.SubVP(),
    "edm": sdes.EDM(),
    "cosine": sdes.Cosine(),
    "flow": sdes.Flow(),
    "tabulated": sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar),
}


def often(names, chosen):
    """Names as parameters of a test: those chosen each time, others that repeat what they show among the slow tests."""
    return [pytest.param(name, marks=[] if name in chosen else [pytest.mark.slow]) for name in names]


@struct.dataclass
class AnySDE(sdes.SDE):
    """The SDE of `SDES` whose index it holds, which may be traced: one compiled program then serves all of them.

    Or all of some names, to which the index then refers: the fewer, the sooner it is compiled.
    """

    index: jax.Array
    names: tuple[str, ...] = struct.field(pytree_node=False, default=tuple(SDES))

    def _of(self, name: str, t):
        return jax.lax.switch(self.index, [getattr(SDES[sde], name) for sde in self.names], jnp.asarray(t))

    @property
    def t_min(self):
        return jnp.stack([jnp.asarray(SDES[name].t_min) for name in self.names])[self.index]

    @property
    def t_max(self):
        return jnp.stack([jnp.asarray(SDES[name].t_max) for name in self.names])[self.index]

    def log_alpha(self, t):
        return self._of("log_alpha", t)

    def variance(self, t):
        return self._of("variance", t)

    def time(self, log_snr):
        return self._of("time", log_snr)


KERNELS = {
    "gaussian": kernels.Gaussian(0.3),
    "laplace": kernels.Laplace(0.4),
    "student_t": kernels.StudentT(5.0, 0.3),
    "mixture": kernels.GaussianMixtureNoise(np.array([0.7, 0.3]), np.array([-0.1, 0.4]), np.array([0.2, 0.5])),
    "from_log_density": kernels.FromLogDensity(
        lambda x_tilde, x: -0.5 * jnp.sum((x_tilde - x) ** 2, axis=tuple(range(1, x.ndim))) / 0.09,
        lambda key, x: kernels.Gaussian(0.3).sample(key, x),
    ),
}

PARAMETERIZATIONS = {
    "score": parameterization.Score(),
    "eps": parameterization.Eps(),
    "x0": parameterization.X0(),
    "v": parameterization.V(),
    "flow": parameterization.Flow(),
    "edm": parameterization.EDM(0.5),
    "eps_as_given": parameterization.AsGiven(parameterization.Eps()),
}

# Objectives at one density: (key, score_fn, x) -> (B,), all equal to ISM in expectation over key.
IMPLICIT_OBJECTIVES = {
    "ism": lambda key, s, x: losses.implicit_score_matching(s, x),
    "ism_hutchinson": lambda key, s, x: losses.implicit_score_matching(s, x, key=key),
    "ssm_rademacher": losses.sliced_score_matching,
    "ssm_gaussian": lambda key, s, x: losses.sliced_score_matching(key, s, x, projection="gaussian"),
    "ssm_sphere": lambda key, s, x: losses.sliced_score_matching(key, s, x, projection="sphere", n_projections=2),
    "ssm_vr": lambda key, s, x: losses.sliced_score_matching(key, s, x, variance_reduced=True),
    "fd_ssm": lambda key, s, x: losses.finite_difference_score_matching(key, s, x, eps=0.01, n_projections=2),
}

WEIGHTINGS = {
    "sigma2": weighting.sigma2,
    "likelihood": weighting.likelihood,
    "edm": weighting.edm(0.5),
    "min_snr": weighting.min_snr(5.0),
}

TIMES = {
    "uniform": times.uniform(),
    "antithetic": times.uniform(antithetic=True),
    "discrete": times.discrete(np.linspace(0.9, 0.1, 5, dtype=np.float32)),
    "lognormal": times.lognormal(-1.2, 1.2),
    "importance": times.importance(),
}

# Samplers: (sde, score_fn) -> Sampler, all of which sample the data's law from the prior's.
SAMPLERS = {
    "euler_maruyama": sampling.euler_maruyama,
    "reverse_diffusion": sampling.reverse_diffusion,
    "ancestral": sampling.ancestral,
    "ancestral_transition": lambda sde, s: sampling.ancestral(sde, s, variance="transition"),
    "ddim": sampling.ddim,
    "ddim_eta_half": lambda sde, s: sampling.ddim(sde, s, eta=0.5),
    "euler": sampling.euler,
    "heun": sampling.heun,
    "consistent_annealed": lambda sde, s: sampling.consistent_annealed(sde, s, step_size=0.5, sigma_min=1.0),
    "dpm_solver_pp": sampling.dpm_solver_pp,
    "dpm_solver_pp_3": lambda sde, s: sampling.dpm_solver_pp(sde, s, order=3),
    "dpm_solver_pp_sde": lambda sde, s: sampling.dpm_solver_pp(sde, s, eta=1.0),
    "unipc": sampling.unipc,
    "unipc_3": lambda sde, s: sampling.unipc(sde, s, order=3),
    "heun_churn": lambda sde, s: sampling.heun(sde, s, churn=0.1),
    "euler_churn": lambda sde, s: sampling.euler_churn(sde, s, churn=0.1),
    "kdpm2": sampling.kdpm2,
    "lms": sampling.lms,
    "deis": sampling.deis,
    "dpm_solver_3": lambda sde, s: sampling.dpm_solver(sde, s, order=3),
    "ancestral_learned_range": lambda sde, s: sampling.ancestral(
        sde, s, variance=sampling.learned_range(sde, lambda x, t: jnp.zeros_like(x), floor=1.0)
    ),
    # ε = 0.05 σ_s²: small enough at every level that the corrector's own bias, ε/(4 v), stays below 2 %.
    "predictor_corrector": lambda sde, s: sampling.predictor_corrector(
        sampling.ancestral(sde, s), sampling.annealed_langevin(sde, s, step_size=0.05, n_steps=1, sigma_min=1.0)
    ),
}
# What remembers nothing can be corrected, conditioned by replacement, … between steps.
MULTISTEP = {name: make for name, make in SAMPLERS.items() if make(SDES["vp"], jnp.sin).multistep}
ONE_STEP = {name: make for name, make in SAMPLERS.items() if name not in MULTISTEP}

# Samplers of p(x | y): (sde, score_fn, decomposed operator, y, noise_std) -> Sampler, with a step's score calls and
# vector–Jacobian products.
_told = lambda method, **options: lambda sde, s, a, y, noise: method(sde, s, a, y, noise_std=noise, **options)
_guided = lambda method, **options: (
    lambda sde, s, a, y, noise: sampling.ancestral(sde, method(sde, s, a, y, noise_std=noise, **options))
)
_noiseless = lambda wrap, **options: lambda sde, s, a, y, noise: wrap(sampling.ancestral(sde, s), sde, a, y, **options)
POSTERIOR_SAMPLERS = {
    "dps": (_guided(conditioning.dps), 1, 1),
    "dps_ancestral": (lambda sde, s, a, y, noise: conditioning.dps_ancestral(sde, s, a, y, step_size=0.1), 1, 1),
    "pigdm": (_guided(conditioning.pigdm, data_std=0.7), 1, 1),
    "tmpd": (_guided(conditioning.tmpd), 1, 2),
    "mmps": (_guided(conditioning.mmps, n_steps=3), 1, 4),
    "diffpir": (_guided(conditioning.diffpir), 1, 0),
    "ddrm": (_told(conditioning.ddrm), 1, 0),
    "daps": (_told(conditioning.daps, draw=conditioning.langevin_draw(3)), 5, 0),
    "daps_gaussian": (_told(conditioning.daps, data_std=0.7, n_flow=3, draw=conditioning.gaussian_draw), 3, 0),
    "replacement": (_noiseless(conditioning.replacement), 1, 0),
    "repaint": (_noiseless(conditioning.repaint, n_resample=3), 3, 0),
    "ilvr": (_noiseless(conditioning.ilvr), 1, 0),
    "tds": (_told(conditioning.tds, data_std=0.7), 1, 1),
    "mcgdiff": (_told(conditioning.mcgdiff), 1, 0),
}
PARTICLES = ("tds", "mcgdiff")


def mixture(dims: int = 2, full: bool = False) -> distributions.GaussianMixture:
    """An uneven mixture of three separated components: the standard oracle."""
    rng = np.random.default_rng(0)
    means = np.array([[1.5], [-1.0], [0.3]]) * np.ones(dims) + rng.normal(size=(3, dims)) * 0.4
    if full:
        factors = rng.normal(size=(3, dims, dims)) * 0.2
        variances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(dims)
    else:
        variances = np.array([0.2, 0.4, 0.1])
    as_array = lambda v: jnp.asarray(v, jnp.zeros(()).dtype)
    return distributions.GaussianMixture(as_array(np.array([0.5, 0.3, 0.2])), as_array(means), as_array(variances))


def moments(mixture: distributions.GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(D,)` and covariance `(D, D)` of a Gaussian mixture."""
    weights, means, variances = (np.asarray(v, np.float64) for v in (mixture.weights, mixture.means, mixture.variances))
    weights, dims = weights / weights.sum(), means.shape[1]
    if variances.ndim < 3:
        variances = np.broadcast_to(variances, weights.shape)[:, None, None] * np.eye(dims)
    mean = weights @ means
    centred = means - mean
    return mean, np.einsum("k,kij->ij", weights, variances) + np.einsum("k,ki,kj->ij", weights, centred, centred)


_SCORE = jax.jit(lambda sde, x, t: distributions.score_of(mixture(), sde)(x, t))


def mixture_score(sde):
    """The exact score function of the mixture, compiled once for all SDEs of a kind."""
    return functools.partial(_SCORE, sde)


def stepwise(sampler, keys, x, ts):
    """The end of a sampler's steps along `ts`, operation by operation.

    Those are compiled once for all samplers, where a program for each takes seconds: for a few steps.
    """
    sampler = sampler if sampler.along is None else sampler.along(ts)
    keys, state = arrays.example_keys(keys, len(x)), sampler.init(x)
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        state = sampler.step(arrays.fold_in(keys, i), state, t, s)
    return state.x


def standard_error(values, axis: int = 0) -> np.ndarray:
    """Standard error of the mean of independent values."""
    values = np.asarray(values, np.float64)
    return values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


def assert_mean(values, expected, sigmas: float = 4.0, slack: float = 0.0) -> None:
    """Asserts that independent `values` (rows) have mean `expected` within `sigmas` standard errors plus `slack`."""
    values = np.asarray(values, np.float64)
    np.testing.assert_array_less(np.abs(values.mean(0) - expected), sigmas * standard_error(values) + slack + 1e-12)


def trace_counter(fn):
    """Wraps `fn` so that `wrapped.count` is how often it was traced."""

    def wrapped(*args, **kwargs):
        wrapped.count += 1
        return fn(*args, **kwargs)

    wrapped.count = 0
    return wrapped


class Compiled(list):
    """The names of the programs that were compiled since it was last asked."""

    def __call__(self, event, seconds, **told):
        if "backend_compile" in event:
            self.append(told.get("fun_name"))

    def taken(self):
        names, self[:] = [*self], []
        return names


@contextlib.contextmanager
def compiled():
    """Gives the names of what is compiled meanwhile: traces alone don't tell that of other shardings."""
    names = Compiled()
    jax.monitoring.register_event_duration_secs_listener(names)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(names)


def key(seed: int = 0) -> jax.Array:
    """A typed key."""
    return jax.random.key(seed)


def cut_off(monkeypatch, train, step):
    """Calls `train`, whose loader raises once it has given out so many steps, as if the power went out."""
    whole = data.Loader.__next__

    def broken(loader):
        if loader.get_state()["step"] >= step:
            raise RuntimeError("the power went out")
        return whole(loader)

    monkeypatch.setattr(data.Loader, "__next__", broken)
    with pytest.raises(RuntimeError, match="power"):
        train()
    monkeypatch.undo()


def refused(message, call, *args, **kwargs):
    """The call raises an InputError whose single line matches."""
    with pytest.raises(InputError, match=message) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def peak_of(call):
    """Bytes of Python's memory that the call had at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def reference_features():
    """The features `(300, 12)`, `(400, 12)` and logits `(505, 10)` that tests/data/metrics has reference numbers of."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 12))
    fake = 0.2 + 1.2 * rng.normal(size=(400, 12)) @ (np.eye(12) + 0.2 * rng.normal(size=(12, 12)))
    return np.float32(real), np.float32(fake), np.float32(2 * rng.normal(size=(505, 10)))


def reference_metrics() -> dict:
    """What published packages make of `reference_features`, by metric and package."""
    return json.loads((Path(__file__).parent / "data" / "metrics" / "reference.json").read_text())

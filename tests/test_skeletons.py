"""The guide's skeletons, filled in with what is known: they are then what the package has."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from score_jax import arrays, distributions, losses, pytrees, sampling
from score_jax import sde as sdes
from score_jax.adapters import linen
from score_jax.lab import measures
from score_jax.lab.experiment import Examples
from score_jax.lab.measures import Measured
from score_jax.losses import times, weighting
from score_jax.parameterization import Eps
from score_jax.score import ScoreModel
from score_jax.sde import SDE
from score_jax.types import InputError
from tests.helpers import key

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
NAMES = {"pytrees": pytrees, "SDE": SDE, "arrays": arrays, "sampling": sampling, "nn": nn, "InputError": InputError}
FILLED = {
    "MySDE": {"log_alpha": "jnp.log(jnp.cos(t))", "variance": "jnp.sin(t) ** 2"},
    "my_loss": {"error": "score_fn(xt, t) + eps / arrays.expand_right(sde.sigma(t), xt)"},
    "my_sampler": {
        "x_s": "sde.alpha(s) * sde.denoise(x, t, score) - sde.sigma(s) * sde.sigma(t) * score",
    },
    "MyNet": {"h": "nn.tanh(nn.Dense(self.width)(jnp.concatenate([x, cond[:, None]], 1)))"},
    "my_measure": {"statistic": "lambda x: np.mean(x**2)"},
}


def filled(name):
    """The object that a skeleton becomes: every `...` replaced by what stands for it."""
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if f" {name}(" in block)
    for place, text in FILLED[name].items():
        code, n = re.subn(rf"\.\.\.  # {place}$", text, code, flags=re.MULTILINE)
        assert n == 1, (name, place)
    names = NAMES | {"jnp": jnp, "np": np}
    exec(code, names)
    return names[name]


def test_the_sde_is_variance_preserving_and_its_drift_follows():
    sde, t = filled("MySDE")(), jnp.asarray([0.2, 0.7])
    np.testing.assert_allclose(sde.alpha(t) ** 2 + sde.variance(t), 1, rtol=1e-6)
    np.testing.assert_allclose(sde.drift(t), -np.tan(t), rtol=1e-5)  # d log cos t
    np.testing.assert_allclose(sde.diffusion(t) ** 2, 2 * np.tan(t), rtol=1e-5)  # -2f, as of every VP
    np.testing.assert_allclose(sde.time(sde.log_snr(t)), t, rtol=1e-4)


def test_the_loss_is_denoising_score_matching():
    vp, x0 = sdes.VP(), jax.random.normal(key(), (5, 2))
    score_fn, how = lambda x, t: -x, {"times": times.uniform(), "weighting": weighting.sigma2}
    found = filled("my_loss")(key(1), vp, score_fn, x0, **how)
    t, _ = times.uniform()(arrays.split(arrays.example_keys(key(1), 5))[0], vp, 5)
    xt, eps = vp.perturb(arrays.split(arrays.example_keys(key(1), 5))[1], x0, t)
    by_hand = 0.5 * ((vp.sigma(t)[:, None] * -xt + eps) ** 2).sum(1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_the_sampler_is_ddim():
    vp = sdes.VP()
    score_fn = distributions.score_of(distributions.Gaussian(jnp.ones(2), 0.1), vp)
    x, ts = jax.random.normal(key(), (4, 2)), sampling.grids.log_snr(vp, 9)
    found, ddim = (sampling.sample(key(), make(vp, score_fn), x, ts) for make in (filled("my_sampler"), sampling.ddim))
    np.testing.assert_allclose(found, ddim, atol=1e-5)


def test_the_network_is_a_score_network_of_zero_output_at_first():
    network, x = linen(filled("MyNet")(width=8)), jnp.ones((3, 2))
    model = ScoreModel(network.init(key(), x, jnp.ones(3), None), sdes.VP(), network, Eps())
    assert (model(x, jnp.full(3, 0.5)) == 0).all()
    loss = lambda v: losses.diffusion_loss(key(), model.sde, model.replace(variables=v), x).sum()
    gradient = jax.grad(loss)(model.variables)
    assert (gradient["params"]["out"]["kernel"] != 0).any()


@pytest.mark.parametrize("n", [0, 3])
def test_the_measure_has_numbers_or_the_reason(n):
    measured = Measured(
        SimpleNamespace(
            examples=Examples("array", (2,), 0, (0.0, 1.0)),
            sampling=SimpleNamespace(name="", require_score=lambda: None),
        ),
        0,
        np.ones((2, 2)),
        None,
        {},
        {"x": 2 * np.ones((n, 2))},
        (),
    )
    found = measures.measure(measured, {"mine": filled("my_measure")})
    expected = {"mine": 1.0, "data_mine": 4.0, "mine_n": 3, "left_out": {}} if n else {"left_out": {"mine": "..."}}
    assert found == expected

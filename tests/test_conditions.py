"""What published networks take for the noise level, against the numbers of the released code."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import conditions
from score_jax.sde import EDM, VE, VP, Flow, SubVP, Tabulated, ddpm_schedule
from score_jax.types import InputError

TABLE = Tabulated(ddpm_schedule(1000).alphas_bar)


def test_timestep_is_999_t_on_vp_and_sub_vp():
    for sde in (VP(), SubVP()):
        np.testing.assert_allclose(
            conditions.Timestep()(sde, np.float32([1e-5, 0.5, 1])), [0.00999, 499.5, 999], rtol=1e-6
        )
    assert conditions.Timestep(2.0)(VP(), jnp.float32(0.25)) == 0.5


def test_knot_index_is_the_place_of_alpha_bar_in_its_table():
    index = conditions.KnotIndex(1000)
    # t = (i + 1)/1000 is known to half a unit in the last place, 1000 t to one: 6e-5 near 1000
    np.testing.assert_allclose(index(TABLE, TABLE.knots()), np.arange(1000), rtol=0, atol=1.3e-4)
    np.testing.assert_allclose(index(TABLE, np.float32([1e-5, 1.5e-3, 0.9995])), [0, 0.5, 998.5], atol=1.3e-4)
    # at the time of ᾱ_499 = .0785872 (Ho et al.) the network is told 499
    t = TABLE.time(jnp.log(0.07858724288177824 / (1 - 0.07858724288177824)))
    np.testing.assert_allclose(index(TABLE, t), 499, atol=5e-3)


def test_noise_level_is_sigma_over_alpha():
    level, t = conditions.NoiseLevel(), np.float32([0.25, 1])
    np.testing.assert_allclose(level(VE(0.01, 50.0), t), [0.01 * 5000**0.25, 50], rtol=1e-5)
    np.testing.assert_allclose(level(EDM(), np.float32([0.002, 80])), [0.002, 80], rtol=1e-6)
    np.testing.assert_allclose(level(VP(), np.float32(1)), 152.16697028394637, rtol=1e-5)
    np.testing.assert_allclose(level(Flow(), np.float32([0.5, 0.75])), [1, 3], rtol=1e-6)


def test_score_sdes_label_zero_is_the_largest_of_its_discrete_levels():
    sigmas = np.geomspace(50, 0.01, 1000)
    sde, index = VE(0.01, 50.0), conditions.LevelIndex(tuple(sigmas.tolist()))
    # round((T − t)(N − 1)): t = i/999 is level 999 − i; log σ is known to 5e-7 and there are 117 levels to it
    t = np.float32([1, 500 / 999, 499 / 999, 0])
    np.testing.assert_allclose(index(sde, t), [0, 499, 500, 999], atol=3e-4)
    # σ_499 and σ_500 of the ascending table, so levels 500 and 499
    np.testing.assert_allclose(sigmas[[500, 499]], [0.7040989000008583, 0.7101275119154283], rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        conditions.Timestep,
        lambda: conditions.KnotIndex(10),
        conditions.NoiseLevel,
        lambda: conditions.LevelIndex((2.0, 1.0)),
    ],
)
def test_conditions_are_equal_by_their_numbers_and_keep_the_shape_of_t(make):
    assert make() == make()
    assert hash(make()) == hash(make())
    for shape in [(), (3,)]:
        assert make()(VP(), jnp.full(shape, 0.5)).shape == shape


def test_conditions_that_are_none_are_one_line():
    assert conditions.KnotIndex(10) != conditions.KnotIndex(11)
    with pytest.raises(InputError, match="KnotIndex: n must be at least 1, got 0"):
        conditions.KnotIndex(0)
    with pytest.raises(InputError, match="Timestep: scale must be positive, got -1"):
        conditions.Timestep(-1)

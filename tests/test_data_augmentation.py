"""EDM's augmentation: as released, with what a network is told of it, and for each example by its own key."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.data import augmentation
from score_jax.types import InputError

RELEASED = np.load(Path(__file__).parent / "data/edm/augment.npz")


def _how(**done):
    """Eight transformations, of nothing but what is given."""
    zeros = dict.fromkeys(augmentation.Transformation._fields, jnp.zeros(8))
    return augmentation.Transformation(**zeros | {name: jnp.full(8, value) for name, value in done.items()})


def test_transformed_images_and_what_is_told_are_the_released_codes():
    """Eight images of 10×12 pixels, two channels, every transformation drawn with probability 0.7."""
    how = augmentation.Transformation(*map(jnp.asarray, RELEASED["how"]))
    np.testing.assert_allclose(how.told(), RELEASED["told"], atol=1e-6)
    # float32 places up to 60, whose rounding, 4e-6, is multiplied by differences of neighbours, of at most about 1
    np.testing.assert_allclose(augmentation.affine(RELEASED["x"], how), RELEASED["y"], atol=1e-5)


def test_an_image_that_is_left_as_it_is_comes_back_and_nothing_is_told():
    np.testing.assert_allclose(augmentation.affine(RELEASED["x"], _how()), RELEASED["x"], atol=1e-6)
    np.testing.assert_array_equal(_how().told(), np.zeros((8, augmentation.TOLD)))


def test_mirrors_and_shifts_move_pixels_exactly():
    """W/8 pixels a unit along x: two pixels of 12 are a shift of 4/3, and come from the mirror image at the border."""
    x = jnp.asarray(RELEASED["x"])
    both = _how(mirror_x=1.0, mirror_y=1.0)
    np.testing.assert_allclose(augmentation.affine(x, both), x[:, ::-1, ::-1], atol=1e-6)
    shifted = jnp.pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)), mode="reflect")[:, :, :12]
    np.testing.assert_allclose(augmentation.affine(x, _how(shift_x=4 / 3)), shifted, atol=1e-5)


def test_transformations_are_drawn_as_often_as_they_should_be():
    """n = 4,000: four standard errors of a share are at most 4·√(0.25/4000) = 0.032."""
    how = augmentation.draw_transformations(jax.random.key(0), 4000, probability=0.2)
    shares = {name: float((value != 0).mean()) for name, value in how._asdict().items()}
    expected = {"mirror_x": 0.5, "mirror_y": 0.1, "stretch_angle": 0.5}
    for name, share in shares.items():
        assert abs(share - expected.get(name, 0.2)) < 0.032, name
    np.testing.assert_array_equal(how.shift_x != 0, how.shift_y != 0)
    # of 800 normal numbers the standard deviation has an error of 1/√1600
    for values in (how.scale, how.stretch, how.shift_x, how.shift_y):
        assert abs(float(values[values != 0].std()) - 1) < 4 / 40
    angles = how.angle[how.angle != 0]
    assert abs(float(angles.std()) - np.pi / 3**0.5) < 0.2 and float(jnp.abs(angles).max()) <= np.pi + 1e-6


def test_an_example_depends_on_its_own_key_alone():
    keys, x = jax.random.split(jax.random.key(1), 8), jnp.asarray(RELEASED["x"])
    augment = jax.jit(lambda keys, x: augmentation.augment(keys, x, probability=0.5))
    together, told = augment(keys, x)
    alone, told_alone = augment(keys[5:6], x[5:6])
    np.testing.assert_allclose(together[5:6], alone, atol=1e-5)  # of other programs: see above
    np.testing.assert_allclose(told[5:6], told_alone, atol=1e-6)
    assert float(jnp.abs(together - x).max()) > 0.1


def test_points_are_refused():
    with pytest.raises(InputError, match=r"of images \(B, H, W, C\) of 4×4 pixels or more, got shape \(4, 2\)"):
        augmentation.augment(jax.random.key(0), jnp.zeros((4, 2)), probability=0.1)

import numpy as np
import pytest
from sklearn.datasets import make_moons, make_swiss_roll

from score_jax.data import toy
from score_jax.types import InputError

N = 40_000


def moments(weights, means, variances):
    """Mean and covariance of Σ w N(m, v I) in closed form."""
    mean = weights @ means
    centred = means - mean
    return mean, (weights[:, None] * centred).T @ centred + (weights @ variances) * np.eye(2)


def assert_same_moments(x, mean, cov):
    # 4 standard errors for each of 5 numbers; the error of a covariance is that of a mean of products.
    error = 4 / np.sqrt(len(x))
    centred = x.astype(np.float64) - mean
    assert (np.abs(centred.mean(0)) < error * np.sqrt(np.diag(cov))).all()
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - cov) < error * products.std(0)).all()


@pytest.mark.parametrize("name", toy.TOYS)
def test_samples_have_the_closed_form_moments_of_their_components(name):
    assert_same_moments(toy.toy(name, n=N, seed=1).x, *moments(*toy.components(name)))


@pytest.mark.parametrize("name", toy.TOYS)
def test_each_class_has_its_weight_and_the_moments_of_its_group(name):
    source, (weights, means, variances), groups = toy.toy(name, n=N, seed=2), toy.components(name), toy.groups(name)
    assert source.num_classes == groups.max() + 1
    for i in range(source.num_classes):
        share = weights[groups == i].sum()
        here = source.label == i
        assert abs(here.mean() - share) <= 4 * np.sqrt(share * (1 - share) / N)
        part = weights[groups == i] / share, means[groups == i], variances[groups == i]
        assert_same_moments(source.x[here], *moments(*part))


@pytest.mark.parametrize("name", toy.TOYS)
def test_weights_are_a_probability_and_variances_positive(name):
    weights, means, variances = toy.components(name)
    assert weights.sum() == pytest.approx(1, abs=1e-12) and (weights > 0).all() and (variances > 0).all()
    assert means.shape == (len(weights), 2)


def test_the_mixture_is_the_published_two_mode_example():
    weights, means, variances = toy.components("mixture")
    np.testing.assert_array_equal(weights, [0.8, 0.2])
    np.testing.assert_array_equal(means, [[5, 5], [-5, -5]])
    np.testing.assert_array_equal(variances, [1, 1])


@pytest.mark.parametrize("name", ["moons", "swiss_roll"])
def test_curves_have_the_moments_of_scikit_learns(name):
    if name == "moons":
        x = make_moons(N, noise=0.1, random_state=0)[0] * 2 + np.array([-1, -0.2])
    else:
        x = make_swiss_roll(N, noise=1.0, random_state=0)[0][:, [0, 2]] / 5
    assert_same_moments(x, *moments(*toy.components(name)))


@pytest.mark.parametrize("name", ["moons", "swiss_roll", "pinwheel", "spirals", "rings", "checkerboard"])
def test_neighbouring_components_overlap_so_that_the_density_looks_continuous(name):
    _, means, variances = toy.components(name)
    groups = toy.groups(name)
    for i in range(groups.max() + 1):
        part = means[groups == i]
        steps = np.linalg.norm(np.diff(part, axis=0), axis=1)
        steps = steps[steps < 1]  # the lattice jumps from the end of a row to the start of the next
        assert steps.max() <= 1.6 * np.sqrt(variances[0])  # ripple 2 exp(-2π²/1.6²) = 0.1 % along a line


def test_the_checkerboard_fills_its_squares_and_leaves_the_others_empty():
    columns, rows = np.floor(toy.toy("checkerboard", n=N).x / 2).astype(int).T
    # Along either axis the lattice lines 0.1, 0.3 … inside an edge lose Φ(-0.1/0.13) = 0.22, Φ(-0.3/0.13) = 0.01 …
    # across it: 4.6 % in all, so at least (1 - 0.046)² = 0.91 stay; the rest falls on other squares.
    assert ((columns + rows) % 2 == 0).mean() > 0.9
    inside = (np.abs(columns + 0.5) < 2) & (np.abs(rows + 0.5) < 2)
    counts = np.bincount(4 * (columns + 2)[inside] + (rows + 2)[inside], minlength=16).reshape(4, 4) / N
    dark = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert counts[dark].min() > 0.9 / 8 - 4 * np.sqrt(1 / 8 / N) and counts[~dark].max() < 0.1 / 4


@pytest.mark.parametrize("name", ["mixture", "eight_gaussians", "checkerboard"])
def test_points_are_nearest_to_the_mode_of_their_class(name):
    source, modes = toy.toy(name, n=5000), toy.modes(name)
    nearest = np.linalg.norm(source.x[:, None] - modes, axis=-1).argmin(1)
    # 8 Gaussians: 2.16 apart, std 0.354, so 0.2 % cross on either side; squares lose points only at their corners.
    assert (nearest == source.label).mean() > 0.99


def test_eight_modes_stand_on_a_circle():
    np.testing.assert_allclose(np.linalg.norm(toy.modes("eight_gaussians"), axis=1), 4 / np.sqrt(2))
    assert toy.modes("moons") is None


def test_a_seed_fixes_the_points_and_another_changes_them():
    np.testing.assert_array_equal(toy.toy("rings", n=9, seed=3).x, toy.toy("rings", n=9, seed=3).x)
    assert not np.array_equal(toy.toy("rings", n=9, seed=3).x, toy.toy("rings", n=9, seed=4).x)
    assert toy.toy("rings", n=9).x.dtype == np.float32


def test_an_unknown_toy_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="there is no toy 'moon'; expected one of mixture, eight_gaussians, moons"):
        toy.toy("moon")
    with pytest.raises(InputError, match="n=0"):
        toy.toy("moons", n=0)

"""Statistics of the data as they are trained on, and the largest noise level that follows."""

import numpy as np
import pytest

from score_jax.data import ArraySource, statistics


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


def test_statistics_are_those_of_training():
    source = ArraySource(np.array([[0], [255]], np.uint8)[:, :, None, None])
    found = statistics.statistics(statistics.examples(source, (-1.0, 1.0)))
    assert found == (2, 0.0, 1.0, -1.0, 1.0) and found.scale == 1.0

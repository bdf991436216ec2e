import jax
import numpy as np
import pytest

from score_jax.training import check_batch_size, data_mesh, put_batches, replicate
from score_jax.types import InputError


def test_batches_are_cut_along_examples_and_every_device_gets_its_own_rows():
    mesh = data_mesh()
    x = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
    shards = put_batches({"x": x}, mesh)["x"].addressable_shards
    assert len(shards) == mesh.size == 8
    for shard in shards:
        np.testing.assert_array_equal(np.asarray(shard.data), x[shard.index])
        assert shard.data.shape == (2, 2, 3)


def test_replicated_state_is_a_copy_on_every_device():
    x = jax.numpy.arange(3.0)
    copy = replicate({"x": x}, data_mesh())["x"]
    assert [shard.data.shape for shard in copy.addressable_shards] == [(3,)] * 8
    copy.delete()
    np.testing.assert_array_equal(x, [0, 1, 2])  # deleting (donating) the copy leaves the original


@pytest.mark.parametrize(
    ("size", "accumulation", "advice"),
    [(20, 1, "a multiple of 8, such as 16 or 24"), (3, 1, "such as 8"), (24, 2, "a multiple of 16, such as 16 or 32")],
)
def test_batch_size_that_cannot_be_shared_is_refused_with_the_nearest(size, accumulation, advice):
    with pytest.raises(InputError, match=advice):
        check_batch_size(size, data_mesh(), accumulation=accumulation)
    check_batch_size(48, data_mesh(), accumulation=2)


def test_batch_that_does_not_fit_the_devices_is_refused_when_it_is_put_there():
    with pytest.raises(InputError, match="batch_size 12 cannot be shared equally by 8 device"):
        put_batches({"x": np.zeros((1, 12, 2))}, data_mesh())

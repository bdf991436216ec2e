import jax
import numpy as np
import pytest

from score_jax import devices
from score_jax.training import make_placement, place
from score_jax.types import InputError


@pytest.mark.parametrize(
    ("asked", "made"), [((), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((1, 8), (1, 8)), ((4, 2), (4, 2))]
)
def test_what_is_not_given_of_a_mesh_is_what_is_left(asked, made):
    mesh = devices.device_mesh(*asked)
    assert tuple(devices.sizes(mesh).values()) == made and mesh.size == 8
    # Neighbours lie along fsdp.
    np.testing.assert_array_equal([[d.id for d in row] for row in mesh.devices], np.arange(8).reshape(made))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((-1, 3), r"data=-1 × mesh.fsdp=3 cannot be made of 8 device\(s\): give .* mesh.fsdp one of 1, 2, 4, 8"),
        ((2, 2), r"data=2 × mesh.fsdp=2 cannot be made of 8"),
        ((16, -1), r"data=16 × mesh.fsdp=-1 cannot be made of 8"),
        ((0, 1), "numbers of devices, or -1 for what is left, got 0, 1"),
        ((8, -2), "numbers of devices, or -1 for what is left, got 8, -2"),
        ((-1, -1), "both -1, what the other leaves: give a number for one"),
    ],
)
def test_a_mesh_that_the_devices_cannot_make_up_is_one_line(asked, message):
    with pytest.raises(InputError, match=message) as error:
        devices.device_mesh(*asked)
    assert "\n" not in str(error.value)


def test_rows_are_cut_over_both_axes_and_whole_where_they_cannot_be():
    mesh = devices.device_mesh(2, 4)
    keys = jax.random.split(jax.random.key(0), 16)
    rows = devices.put_rows({"x": np.arange(48.0).reshape(16, 3), "key": keys, "label": None}, mesh)
    assert rows["label"] is None
    assert [shard.data.shape for shard in rows["x"].addressable_shards] == [(2, 3)] * 8
    assert [shard.data.shape for shard in rows["key"].addressable_shards] == [(2,)] * 8
    whole = devices.put_rows({"x": np.arange(12)}, mesh)["x"]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(12,)] * 8


@pytest.mark.parametrize("where", [[3], [0], [4, 5, 6, 7], [0, 1]])
def test_arrays_that_lie_on_other_devices_are_brought_as_copies(where):
    """Of a state as of rows and keys; deleting (donating) what was brought leaves the original."""
    there = devices.replicated(devices.device_mesh(devices=[jax.devices()[i] for i in where]))
    x, keys = jax.device_put((np.arange(32.0).reshape(8, 4), jax.random.split(jax.random.key(0), 8)), there)
    for own in (jax.devices(), jax.devices()[:4], jax.devices()[:1]):
        mesh = devices.device_mesh(devices=own)
        found = [devices.replicate(x, mesh), devices.everywhere(x, mesh), devices.put_rows({"x": x}, mesh)["x"]]
        found += [place({"x": x}, make_placement(devices=own))["x"]]
        assert all(one.sharding.device_set == {*own} for one in found)
        assert devices.put_rows({"key": keys}, mesh)["key"].sharding.device_set == {*own}
        for one in found:
            np.testing.assert_array_equal(one, np.arange(32.0).reshape(8, 4))
            one.delete() if one is not x else None
        np.testing.assert_array_equal(x, np.arange(32.0).reshape(8, 4))


def test_gathered_arrays_are_numpy_and_whole_wherever_they_lie():
    mesh = devices.device_mesh(2, 4)
    x = np.arange(32.0).reshape(8, 4)
    lying = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "fsdp")))
    found = devices.gather({"cut": lying, "here": x, "number": jax.numpy.float32(3)})
    assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
    np.testing.assert_array_equal(found["cut"], x)
    np.testing.assert_array_equal(found["here"], x)
    assert found["number"] == 3

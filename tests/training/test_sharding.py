import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from score_jax import devices
from score_jax.training import check_batch_size, make_placement, place, put_batches, sharding
from score_jax.types import InputError


def test_batches_are_cut_along_examples_and_every_device_gets_its_own_rows():
    for fsdp in (1, 4):
        mesh = devices.device_mesh(fsdp=fsdp)
        x = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
        shards = put_batches({"x": x}, mesh)["x"].addressable_shards
        assert len({shard.index[1].start for shard in shards}) == mesh.size == 8
        for shard in shards:
            np.testing.assert_array_equal(np.asarray(shard.data), x[shard.index])
            assert shard.data.shape == (2, 2, 3)


def test_a_state_is_placed_as_a_copy():
    x = jax.numpy.arange(3.0)
    copy = place({"x": x}, make_placement())["x"]
    assert [shard.data.shape for shard in copy.addressable_shards] == [(3,)] * 8
    copy.delete()
    np.testing.assert_array_equal(x, [0, 1, 2])  # deleting (donating) the copy leaves the original


def _specs(placement, **shapes):
    found = sharding.shardings(
        {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}, placement
    )
    return {name: one.spec for name, one in found.items()}


def test_arrays_are_cut_along_the_largest_axis_that_fsdp_divides():
    shapes = {"conv": (3, 3, 64, 128), "square": (128, 128), "odd": (3, 130, 130), "tall": (1000, 6, 30)}
    cut = _specs(make_placement(fsdp=4, min_size=1000), **shapes, edge=(1000,), bias=(996,), number=())
    assert cut == {
        "conv": PartitionSpec(None, None, None, "fsdp"),
        "square": PartitionSpec(None, "fsdp"),  # the last of equal ones
        "odd": PartitionSpec(),  # nothing is divided by 4
        "tall": PartitionSpec("fsdp"),
        "edge": PartitionSpec("fsdp"),
        "bias": PartitionSpec(),  # below 1000 numbers
        "number": PartitionSpec(),
    }
    assert set(_specs(make_placement(min_size=0), **shapes).values()) == {PartitionSpec()}


def test_the_first_rule_that_speaks_of_an_array_comes_before_the_rule_on_size():
    rules = [("bias|whole", []), (".*kernel", (None, None, "fsdp")), (".*", [["data", "fsdp"]])]
    placement = make_placement(2, 4, min_size=1, rules=rules)
    shapes = {"whole": (64, 64), "a_kernel": (3, 3, 8), "kernel": (16, 5), "other": (16, 64)}
    assert _specs(placement, **shapes) == {
        "whole": PartitionSpec(),
        "a_kernel": PartitionSpec(None, None, "fsdp"),
        "kernel": PartitionSpec(("data", "fsdp")),  # the second rule speaks of three axes or more
        "other": PartitionSpec(("data", "fsdp")),
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([(".*kernel", (None, "model"))], r"'\.\*kernel' names 'model': the axes of the mesh are data, fsdp"),
        ([(".*", ("fsdp", "fsdp"))], "cuts an array twice over one axis of the mesh"),
        ([("(", ("fsdp",))], r"pairs of a regular expression .* got \('\(', \('fsdp',\)\)"),
        ([".*"], r"pairs of a regular expression .* got '\.\*'"),
        ([(".*", (3,))], "pairs of a regular expression"),
        ([("params.w", (None, "fsdp"))], r"cuts axis 1 of params.w \(4, 6\) into 4 parts, which do not divide 6"),
        ([("params.kernel", ("fsdp",))], "'params.kernel' matches no array of 1 axes or more: .* 'params.w'"),
        ([("params.w", (None, None, "fsdp"))], "matches no array of 3 axes or more"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_one_line(rules, message):
    with pytest.raises(InputError, match=message) as error:
        sharding.require_used(
            {"params": {"w": np.zeros((4, 6))}, "step": np.zeros(())}, make_placement(2, 4, rules=rules)
        )
    assert "\n" not in str(error.value) and str(error.value).startswith("mesh.rules")


@pytest.mark.parametrize(
    ("size", "accumulation", "advice"),
    [(20, 1, "a multiple of 8, such as 16 or 24"), (3, 1, "such as 8"), (24, 2, "a multiple of 16, such as 16 or 32")],
)
def test_batch_size_that_cannot_be_shared_is_refused_with_the_nearest(size, accumulation, advice):
    mesh = devices.device_mesh(2, 4)
    with pytest.raises(InputError, match=advice):
        check_batch_size(size, mesh, accumulation=accumulation)
    check_batch_size(48, mesh, accumulation=2)


def test_batch_that_does_not_fit_the_devices_is_refused_when_it_is_put_there():
    with pytest.raises(InputError, match="batch_size 12 cannot be shared equally by 8 device"):
        put_batches({"x": np.zeros((1, 12, 2))}, devices.device_mesh())

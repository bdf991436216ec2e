import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from score_jax.devices import AXES, device_mesh
from score_jax.training.collectives import Collective, collectives, operand_bytes


def _text():
    """A program of every collective, on 2 × 4 devices of 8 × 16 numbers, 512 bytes, each."""

    def exchange(x):
        again = lambda x, _: (0.5 * jax.lax.psum(x, AXES), None)
        by_branch = lambda x: jax.lax.cond(x.sum() > 0, lambda x: jax.lax.psum(x, "data"), lambda x: x, x)
        return (
            jax.lax.scan(again, x, length=5)[0],
            jax.lax.all_gather(x, "fsdp").sum(0),
            jax.lax.psum_scatter(x, "fsdp", tiled=True),
            jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]),
            jax.lax.all_to_all(x, "fsdp", 0, 0, tiled=True),
            by_branch(x[:, :4]),
        )

    rows = PartitionSpec(AXES)
    mapped = jax.shard_map(exchange, mesh=device_mesh(2, 4), in_specs=rows, out_specs=rows, check_vma=False)
    return jax.jit(mapped).lower(jnp.zeros((64, 16))).compile().as_text()


def test_collectives_have_their_kind_bytes_devices_and_times():
    found = collectives(_text())
    assert {one for one in found if one.kind != "all-to-all"} == {
        Collective("all-reduce", 512, 8, times=5),
        Collective("all-reduce", 128, 2),
        Collective("all-gather", 512, 4),
        Collective("reduce-scatter", 512, 4),
        Collective("collective-permute", 512, 2),
    }
    assert operand_bytes(found) == {
        "all-reduce": 5 * 512 + 128,
        "all-gather": 512,
        "reduce-scatter": 512,
        "collective-permute": 512,
        "all-to-all": 512,
    }


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 750), ("all-gather", 1500), ("reduce-scatter", 375), ("all-to-all", 375)],
)
def test_bytes_that_a_device_sends_are_those_of_a_ring(kind, sent):
    assert Collective(kind, 500, 4).sent == sent
    assert Collective(kind, 500, 4, times=3).sent == 3 * sent
    assert Collective("collective-permute", 500, 2).sent == 500


_ASYNC = """HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=8

%wrapped (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %scattered = bf16[16,8]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

ENTRY %main (x: bf16[64,8]) -> bf16[16,8] {
  %x = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %y = pred[3]{0} constant({...})
  %start = ((bf16[64,8]{1,0}), bf16[16,8]{1,0}) async-start(%x), calls=%wrapped
  %done = bf16[16,8]{1,0} async-done(%start)
  %g = (bf16[64,8]{1,0}, bf16[512,8]{1,0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  %h = bf16[512,8]{1,0} all-gather-done(%g)
  %r = (bf16[64,8], pred[3]) all-reduce(%x, %y), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}
  %alone = bf16[64,8]{1,0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
  ROOT %end = bf16[16,8]{1,0} copy(%done)
}
"""


def test_asynchronous_ones_of_accelerators_count_once_and_groups_are_read_however_they_are_written():
    assert collectives(_ASYNC) == [
        Collective("reduce-scatter", 1024, 4),
        Collective("all-gather", 1024, 8),
        Collective("all-reduce", 1027, 2),
    ]

"""Samples are those of one device, whatever the mesh that shares a batch, and whether it divides the batch or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from score_jax import sampling
from score_jax import sde as sdes
from score_jax.devices import device_mesh
from score_jax.sampling import grids
from score_jax.sampling.draw import compiled, draw_many

SDE = sdes.VP()


@struct.dataclass
class Model:
    """A score of closed form, −a x + label, and minus the mean of the batch where `together`."""

    a: jax.Array
    sde: sdes.VP = SDE
    together: bool = struct.field(pytree_node=False, default=False)
    evaluations: int = struct.field(pytree_node=False, default=1)

    def conditioned(self, *, label=None):
        shift = lambda x: label[:, None] - (x.mean(0, keepdims=True) if self.together else 0.0)
        return lambda x, t: -self.a[None] * x + shift(x)


def drawn(mesh, *, n=11, batch_size=6, together=False):
    """Samples of a model whose parameters lie cut over fsdp."""
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    model = Model(jax.device_put(jnp.linspace(0.5, 1.0, 8), along), together=together)
    make = lambda sde, score_fn: sampling.ancestral(sde, score_fn)
    program = compiled(make, grids.log_snr(SDE, 5), (8,), mesh=mesh, by_row=not together)
    labels = np.arange(n, dtype=np.int32) % 3
    return draw_many(jax.random.key(3), model, program, n=n, batch_size=batch_size, labels=labels)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_samples_are_those_of_one_device(mesh):
    one, found = drawn(device_mesh(devices=jax.devices()[:1])), drawn(device_mesh(*mesh))
    # Rows of 6 on one device, of 8 on eight. There is no product of matrices here: each number is computed by itself,
    # with the same roundings up to how many of them are computed at once, which may fuse a product with a sum.
    np.testing.assert_allclose(found.x, one.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.path, one.path, rtol=1e-6, atol=1e-6)
    assert found.x.shape == (11, 8) and found.path.shape == (4, 6, 8) and found.nfe == one.nfe == 5


def test_a_batch_that_hangs_together_is_not_filled_up_for_the_devices():
    one = drawn(device_mesh(devices=jax.devices()[:1]), n=3, together=True)
    found = drawn(device_mesh(2, 4), n=3, together=True)
    np.testing.assert_allclose(found.x, one.x, rtol=1e-6, atol=1e-6)
    assert np.abs(found.x - drawn(device_mesh(2, 4), n=3).x).max() > 0.1  # it does look at the others

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.training import create, optimizer


def test_state_keeps_other_collections_fixed_and_gives_them_back():
    variables = {"params": {"w": jnp.ones(2)}, "frequencies": {"f": jnp.arange(3.0)}}
    state = create(jax.random.key(0), variables, optimizer(0.1))
    assert jax.tree.structure(state.variables(ema=True)) == jax.tree.structure(variables)
    np.testing.assert_array_equal(state.variables(ema=False)["frequencies"]["f"], [0, 1, 2])
    assert all(x.shape != (3,) for x in jax.tree.leaves(state.opt_state))  # out of the optimizer's reach

"""Parameters for tests without compiling an initializer: NumPy draws in the shapes that `init` would return."""

import functools

import flax.linen as nn
import jax
import numpy as np

# Tests wait for compilation, not for arithmetic.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def filled(module: nn.Module, *args, seed: int = 0):
    """Returns variables of `module`: kernels N(0, 1/fan_in), gains N(1, 0.3²), the rest N(0, 0.3²)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            value = noise / np.prod(leaf.shape[:-1]) ** 0.5
        else:
            value = 0.3 * noise + (path[-1].key in ("scale", "gamma", "alpha"))
        return np.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), *args))


def applier(networks: dict[str, nn.Module]):
    """Returns `name -> compiled (variables, x, cond, ...) -> F`, made once for all tests; arrays are NumPy's."""

    @functools.cache
    def applied(name: str):
        compiled = jit(networks[name].apply)
        return lambda *args: np.asarray(compiled(*args))

    return applied

"""What is counted of the memory that is asked for, in numbers and in words."""

import jax
import jax.numpy as jnp

from score_jax.lab import memory


def test_memory_in_words():
    assert [memory.in_words(n) for n in (0, 1023, 1536, 5 * 2**50, 2**64)] == [
        "0 B",
        "1.02e+03 B",
        "1.5 KiB",
        "5 PiB",
        "1.64e+04 PiB",
    ]
    assert memory.of_parameters({"w": jax.ShapeDtypeStruct((3, 5), jnp.float32)}) == 5 * 15 * 4
    assert memory.available() > 2**30

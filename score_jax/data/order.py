"""The order in which examples come: permutations that are pure functions of a few integers.

A permutation is the sorting order of n 64-bit words of Philox, a counter-based generator keyed by
(seed, stream). NumPy promises the words of its bit generators for good, but not the algorithm of
`Generator.permutation`, and a resumed run must see the same order after an upgrade.
"""

import numpy as np


def permutation(n: int, seed: int, stream: int = 0) -> np.ndarray:
    """Returns a permutation of 0 … n-1, `(n,)` int64, determined by n, `seed` and `stream` (an epoch's number)."""
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(n)
    return np.argsort(words)  # two equal words among 1e6: probability 3e-8, and harmless

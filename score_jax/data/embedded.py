"""Real images that come inside an installed package, so that the first run needs no download.

scikit-learn carries 1,797 handwritten digits of 8×8 pixels (Alpaydin & Kaynak 1998, UCI), each pixel a count of 0 to
16 set bits of a 4×4 block: 17 grey levels, which stay 17 here. Stretching them to 0 … 255 would leave gaps
that dequantisation noise of one of them doesn't fill.
"""

from importlib import util
from pathlib import Path

import numpy as np

from score_jax.data import source
from score_jax.data.source import ArraySource, Source
from score_jax.types import InputError

HELD_OUT = 297


def digits(split: str = "train") -> Source:
    """Returns scikit-learn's handwritten digits, `(8, 8, 1)` uint8 in 0 … 16 (`grey_levels` 17), with 10 classes.

    Args:
      split: "train" (1,500), "test" (297 held out, always the same) or "all" (1,797).
    """
    if split not in ("train", "test", "all"):
        raise InputError(f"digits have no split {split!r}; expected 'train', 'test' or 'all'")
    table = np.loadtxt(_installed() / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    images, label = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
    everything = ArraySource(images, label, num_classes=10, grey_levels=17)
    train, test = source.hold_out(everything, HELD_OUT, seed=0)
    return {"train": train, "test": test, "all": everything}[split]


def _installed() -> Path:
    """Where scikit-learn is: to import it takes a second, and of its package these need one file."""
    found = util.find_spec("sklearn")
    assert found is not None and found.origin, "scikit-learn is one of the package's requirements"
    return Path(found.origin).parent

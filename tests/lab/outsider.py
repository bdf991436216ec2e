"""An outsider's package, written into a folder: an object of every kind, and what is wrong with some."""

from pathlib import Path

FILES = {
    "__init__.py": "",
    "sdes.py": '''
from flax import struct
import jax.numpy as jnp
from score_jax.sde import SDE

@struct.dataclass
class Linear(SDE):
    """x_t = x_0 + beta t eps."""
    beta: float = 2.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def log_alpha(self, t):
        return jnp.zeros_like(t)

    def variance(self, t):
        return (self.beta * t) ** 2

def made(*, beta: float = 1.0) -> Linear:
    return Linear(beta)

def broken() -> Linear:
    return {}["beta"]

def stops() -> Linear:
    raise SystemExit(3)

def liar() -> Linear:
    return 3.0

@struct.dataclass
class Lopsided(Linear):
    def variance(self, t):
        return jnp.ones(3)

@struct.dataclass
class Late(Linear):
    def variance(self, t):
        raise RuntimeError("two\\nlines")
''',
    "losses.py": """
from score_jax import arrays, losses

def twice(key, sde, score_fn, x0, *, times, weighting, factor=2.0):
    return factor * losses.diffusion_loss(key, sde, score_fn, x0, times=times, weighting=weighting)

def raises(key, sde, score_fn, x0, *, times, weighting):
    raise KeyError("no such level")

def wrong_shape(key, sde, score_fn, x0, *, times, weighting):
    return losses.diffusion_loss(key, sde, score_fn, x0, times=times, weighting=weighting).mean()

def at(key, sde, n, t=0.5):
    return 0 * arrays.normal(key, __import__("jax").numpy.zeros(n)) + t, 1.0

def late(key, sde, n):
    return at(key, sde, n, 2.0)[0], at(key, sde, n)[0]

def early(key, sde, n):
    return at(key, sde, n, -1.0)[0], at(key, sde, n)[0]

def flat(sde, t, power=2):
    return sde.sigma(t) ** power

def middle(key, sde, n, spread=0.1):
    t = 0.5 + spread * (arrays.normal(key, __import__("jax").numpy.zeros(n)) % 1)
    return t, 1.0 + 0 * t
""",
    "samplers.py": """
from score_jax import sampling

def slow_ddim(sde, score_fn, *, eta=0.5):
    return sampling.ddim(sde, score_fn, eta=eta)

def nothing(sde, score_fn):
    return None

def breaks(sde, score_fn):
    return sampling.base.one_step(lambda key, x, t, s: 1 / 0)
""",
    "nets.py": '''
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, struct
from score_jax import adapters, parameterization

class Linen(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        h = nn.tanh(nn.Dense(self.width)(jnp.concatenate([x, cond[:, None]], 1)))
        return nn.Dense(x.shape[-1])(h)

class NNX(nnx.Module):
    def __init__(self, *, shape, rngs, width=8):
        self.first = nnx.Linear(shape[-1] + 1, width, rngs=rngs)
        self.last = nnx.Linear(width, shape[-1], rngs=rngs)

    def __call__(self, x, cond, label=None):
        return self.last(jnp.tanh(self.first(jnp.concatenate([x, cond[:, None]], 1))))

def _apply(params, x, cond, label, key):
    return jnp.tanh(jnp.concatenate([x, cond[:, None]], 1) @ params["w"]) @ params["v"]

def plain(*, shape, width: int = 8) -> adapters.Plain:
    def init(key, x, cond, label):
        k, l = jax.random.split(key)
        w, v = jax.random.normal(k, (shape[-1] + 1, width)), jax.random.normal(l, (width, shape[-1]))
        return {"w": 0.3 * w, "v": 0.3 * v}
    return adapters.plain(_apply, init)

class Wide(nn.Module):
    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        return nn.Dense(x.shape[-1] + 1)(x)

class Careless(nn.Module):
    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        if train:
            raise RuntimeError("only in training")
        return nn.Dense(x.shape[-1])(x)

@struct.dataclass
class Half(parameterization.Eps):
    """eps, halved."""
    def coefficients(self, sde, t):
        p, q = parameterization.Eps.coefficients(self, sde, t)
        return p, 0.5 * q
''',
    "data.py": """
import os
import numpy as np
from score_jax.data import ArraySource

def line(*, n: int = 200, slope: float = 1.0) -> ArraySource:
    x = np.random.default_rng(0).normal(size=n)
    return ArraySource(np.stack([x, slope * x], 1).astype(np.float32))

def rows(n: int):
    return np.zeros((n, 2))
""",
    "measures.py": """
import numpy as np

def slope(measured, *, power=1):
    x = measured.samples
    return {"slope": float((x[:, 0] * x[:, 1]).sum() / (x[:, 0] ** 2).sum()) ** power}

def raises(measured):
    return {"nothing": 1 / 0}

def distances(measured):
    return {"mine": 1.0}
""",
    "optimizers.py": """
import optax

def nothing(learning_rate):
    return None

def breaks(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda grads, state, params=None: 1 / 0)
""",
    "logs.py": """
import os
from score_jax.training.logging import Logger

def text(workdir, start, *, name="log.txt"):
    file = (workdir / name).open("a")
    def write(step, record):
        file.write(f"{step} {record['loss']:.6f}\\n")
        file.flush()
        if os.environ.get("MYLAB_KILL") == str(step):
            os.kill(os.getpid(), 9)
    return Logger(write, file.close)
""",
    "broken.py": "import json\nnumber = 1 / 0\n",
}


def write(folder: Path, name: str = "mylab") -> Path:
    """Writes the package into a folder, which is to be importable, and returns that."""
    (folder / name).mkdir(parents=True)
    for file, text in FILES.items():
        (folder / name / file).write_text(text)
    return folder

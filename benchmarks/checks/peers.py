"""The network families, each with what it is trained and sampled as: at published CIFAR-10 width, or tiny for a CPU.

They are made of objects and numbers, without a config, so that nothing is needed beyond the core of the package. The
settings are those of configs/ncsn.py, ncsnv2.py, ddpm.py, score_sde.py and edm.py; ADM is ImageNet's, at 64×64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays, losses, networks, parameterization, sampling, training
from score_jax import sde as sdes
from score_jax.adapters import linen
from score_jax.conditions import KnotIndex, LevelIndex, NoiseLevel, Timestep
from score_jax.data.images import prepare
from score_jax.losses import times, weighting
from score_jax.parameterization import Parameterization
from score_jax.sampling import Sampler, grids
from score_jax.score import Condition, ScoreModel
from score_jax.sde import SDE
from score_jax.types import Array, ScoreFn

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
_SHALLOW = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}  # a U-Net for a CPU
_NOT_TRAINED = 16  # levels of a tiny NCSNv2


class Peer(NamedTuple):
    """A network family: the module, what it is told and trained on, and how it is sampled.

    Attributes:
      module: the network.
      sde: the noising process.
      meaning: what the network's output stands for.
      condition: what it is told of the noise; None: the parameterization's c_noise.
      times: how training draws noise levels.
      weigh: weight of the noise levels.
      sampler: `(sde, score_fn) -> Sampler`.
      grid: `n -> ts`, of n steps.
      shape: of an image.
      value_range: of its pixels.
      classes: number of labels, 0 for none.
      dropout: whether training calls it with dropout.
    """

    module: nn.Module
    sde: SDE
    meaning: Parameterization
    condition: Condition | None
    times: times.Times
    weigh: weighting.Weighting
    sampler: Callable[[SDE, ScoreFn], Sampler]
    grid: Callable[[int], Array]
    shape: tuple[int, int, int]
    value_range: tuple[float, float] = (-1.0, 1.0)
    classes: int = 0
    dropout: bool = False


def _side(tiny: bool, side: int = 32) -> tuple[int, int, int]:
    return (8 if tiny else side, 8 if tiny else side, 3)


def _levels(sde: SDE, n: int) -> tuple[float, ...]:
    """n levels σ/α in geometric progression, the largest first."""
    ends = (float(sde.log_snr(t)) for t in (sde.t_max, sde.t_min))
    return tuple(np.exp(-0.5 * np.linspace(*ends, n)).tolist())


def _langevin(sde: SDE, levels: tuple[float, ...], step_size: float, n_steps: int) -> dict[str, Any]:
    def sampler(sde: SDE, score_fn: ScoreFn) -> Sampler:
        return sampling.annealed_langevin(sde, score_fn, step_size=step_size, n_steps=n_steps)

    return {
        "meaning": parameterization.Score(),
        "condition": LevelIndex(levels),
        "times": times.discrete(grids.levels(sde, np.asarray(levels, np.float32))[1:]),
        "weigh": weighting.sigma2,
        "sampler": sampler,
        "grid": lambda n: grids.levels(sde, np.asarray(_levels(sde, n), np.float32)),
        "value_range": (0.0, 1.0),
    }


def ncsn(tiny: bool, **options: Any) -> Peer:
    """NCSN, 10 levels; 30.1 M parameters."""
    sde = sdes.VE(0.01, 1.0)
    levels = _levels(sde, 10)
    module = networks.NCSN(features=8 if tiny else 128, channels=3, num_levels=len(levels), **options)
    return Peer(module, sde, shape=_side(tiny), **_langevin(sde, levels, 4e-5, n_steps=2))


def ncsnv2(tiny: bool, **options: Any) -> Peer:
    """NCSNv2, 232 levels; 29.7 M parameters."""
    sde = sdes.VE(0.01, 50.0)
    levels = _levels(sde, _NOT_TRAINED if tiny else 232)
    module = networks.NCSNv2(features=8 if tiny else 128, channels=3, sigmas=levels, **options)
    return Peer(module, sde, shape=_side(tiny), **_langevin(sde, levels, 1.24e-5, n_steps=2))


def ddpm(tiny: bool, **options: Any) -> Peer:
    """DDPM on its table; 35.7 M parameters."""
    sde = sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar)
    module = networks.ddpm(**({**_SHALLOW, "group_channels": 4} if tiny else {}), dropout=0.1, **options)
    return Peer(
        module,
        sde,
        parameterization.Eps(),
        KnotIndex(1000),
        times.discrete(grids.ddpm(sde)[:-1]),
        weighting.sigma2,
        sampling.ancestral,
        lambda n: grids.ddpm(sde, n, t_end=1e-3),
        _side(tiny),
        dropout=True,
    )


def ddpmpp(tiny: bool, **options: Any) -> Peer:
    """DDPM++, continuous, variance preserving; 61.8 M parameters."""
    sde = sdes.VP()
    return Peer(
        networks.ddpmpp(**(_SHALLOW if tiny else {}), dropout=0.1, **options),
        sde,
        parameterization.Eps(),
        Timestep(),
        times.uniform(),
        weighting.sigma2,
        sampling.euler_maruyama,
        lambda n: grids.uniform(sde, n + 1, t_end=1e-3),
        _side(tiny),
        dropout=True,
    )


def ncsnpp(tiny: bool, **options: Any) -> Peer:
    """NCSN++, continuous, variance exploding; 62.8 M parameters."""
    sde = sdes.VE(0.01, 50.0)
    return Peer(
        networks.ncsnpp(**(_SHALLOW if tiny else {}), dropout=0.1, **options),
        sde,
        parameterization.Score(),
        NoiseLevel(),
        times.uniform(),
        weighting.sigma2,
        sampling.reverse_diffusion,
        lambda n: grids.uniform(sde, n + 1),
        _side(tiny),
        value_range=(0.0, 1.0),
        dropout=True,
    )


def _edm(module: nn.Module, shape: tuple[int, int, int], classes: int = 0) -> Peer:
    sde = sdes.EDM()
    return Peer(
        module,
        sde,
        parameterization.EDM(0.5),
        None,
        times.lognormal(),
        weighting.edm(0.5),
        sampling.heun,
        lambda n: grids.karras(sde, n + 1),
        shape,
        classes=classes,
        dropout=True,
    )


def edm(tiny: bool, **options: Any) -> Peer:
    """EDM's SongUNet; 55.7 M parameters."""
    return _edm(networks.song_unet(**(_SHALLOW if tiny else {}), dropout=0.13, **options), _side(tiny))


def adm(tiny: bool, **options: Any) -> Peer:
    """ADM at 64×64 with 1,000 classes, as EDM trains it; 295.9 M parameters."""
    width = {**_SHALLOW, "channels": 16} if tiny else {}
    return _edm(networks.adm(**width, num_classes=1000, dropout=0.1, **options), _side(tiny, 64), classes=1000)


PEERS: dict[str, Callable[..., Peer]] = {
    "ddpm": ddpm,
    "ddpmpp": ddpmpp,
    "ncsnpp": ncsnpp,
    "edm": edm,
    "ncsn": ncsn,
    "ncsnv2": ncsnv2,
    "adm": adm,
}


def example(peer: Peer, batch: int) -> tuple[Any, ...]:
    """Returns x, cond and label as the module takes them, as shapes."""
    label = jax.ShapeDtypeStruct((batch,), jnp.int32) if peer.classes else None
    return jax.ShapeDtypeStruct((batch, *peer.shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.float32), label


def variables(peer: Peer) -> Any:
    """Returns NumPy variables: kernels N(0, 1/fan in), gains one, the rest zero; fixed arrays are the module's own.

    What is timed doesn't depend on them, and drawing them so spares the compilation of an initializer.
    """
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(peer.module.init, jax.random.key(0), *example(peer, 1))

    def draw(path, leaf):
        if path[-1].key in ("scale", "gamma", "alpha"):
            return np.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return np.zeros(leaf.shape, leaf.dtype)
        return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.prod(leaf.shape[:-1]) ** 0.5)

    drawn = {"params": jax.tree_util.tree_map_with_path(draw, shapes["params"])}
    if "fixed" not in shapes:
        return drawn
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example(peer, 1))
    fixed = jax.jit(lambda key: peer.module.init(key, *zeros)["fixed"])(jax.random.key(0))
    return drawn | {"fixed": jax.tree.map(np.asarray, fixed)}


def model(peer: Peer, values: Any) -> ScoreModel:
    """Returns the score function of these variables."""
    return ScoreModel(values, peer.sde, linen(peer.module), peer.meaning, peer.condition)


def train_step(peer: Peer, score_model: ScoreModel, placement: training.Placement) -> Callable[..., Any]:
    """Returns the project's compiled train step, `(state, batches) -> (state, report)`, with all that training does."""
    return training.make_train_step(
        score_model,
        lambda key, s, x0, drawn: losses.diffusion_loss(key, peer.sde, s, x0, times=drawn, weighting=peer.weigh),
        optimizer(),
        times=peer.times,
        placement=placement,
        prepare=partial(prepare, grey_levels=256, flip=True, value_range=peer.value_range),
        decay=training.ema_decay(0.9999),
        dropout=peer.dropout,
    )


def optimizer() -> Any:
    """Returns Adam with clipping and warm-up."""
    return training.optimizer(2e-4, warmup_steps=5000, clip_norm=1.0)


def state(peer: Peer, values: Any) -> training.TrainState:
    """Returns the state before the first step."""
    return training.create(jax.random.key(0), values, optimizer())


def batches(peer: Peer, batch: int, steps: int = 1) -> dict[str, np.ndarray]:
    """Returns random images of 256 grey levels as a loader yields them, for `steps` steps of one dispatch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, batch, *peer.shape), np.uint8)
    labels = {"label": rng.integers(0, peer.classes, (steps, batch), np.int32)} if peer.classes else {}
    return {"x": images} | labels


def draw(peer: Peer, batch: int, steps: int) -> Callable[[Array, ScoreModel], Array]:
    """Returns `(key, model) -> x`: `steps` steps of the family's sampler, without the last denoising."""
    ts = peer.grid(steps)

    def samples(key: Array, score_model: ScoreModel) -> Array:
        label = jnp.arange(batch, dtype=jnp.int32) % peer.classes if peer.classes else None
        key_prior, key_steps = arrays.split(arrays.example_keys(key, batch))
        x = peer.sde.prior_sample(key_prior, (batch, *peer.shape))
        return sampling.sample(key_steps, peer.sampler(peer.sde, score_model.conditioned(label=label)), x, ts)

    return samples


def calls(peer: Peer, steps: int) -> int:
    """Returns how often `draw` calls the network."""
    return (len(peer.grid(steps)) - 1) * peer.sampler(peer.sde, lambda x, t: x).calls

"""The methods that are compared, each a sampler of p(x | y) with the settings of its paper, or the library's."""

from collections.abc import Callable
from typing import NamedTuple

from score_jax import conditioning as c
from score_jax.conditioning.operators import Linear
from score_jax.sampling import Sampler, ancestral, ddim
from score_jax.sde import SDE
from score_jax.types import Array, ScoreFn


class Given(NamedTuple):
    """What a method is told."""

    sde: SDE
    score_fn: ScoreFn  # of p_t(x)
    operator: Linear
    y: Array  # (B, M), or (1, M)
    noise_std: Array
    data_std: Array  # of a coordinate

    def problem(self) -> tuple[SDE, ScoreFn, Linear, Array]:
        """Returns what all methods take first."""
        return self.sde, self.score_fn, self.operator, self.y


class Method(NamedTuple):
    """How a method is made; `particles` of one observation at a time, of which as many are kept as others draw."""

    make: Callable[[Given], Sampler]
    particles: int = 0


def _guided(score: Callable, told: tuple[str, ...] = ("noise_std",), **options) -> Method:
    """A posterior score, for ancestral sampling."""
    return Method(
        lambda g: ancestral(g.sde, score(*g.problem(), **{name: getattr(g, name) for name in told}, **options))
    )


def _exact_observation(wrap: Callable, **options) -> Method:
    """A method of observations without noise, which takes y for one."""
    return Method(lambda g: wrap(ancestral(g.sde, g.score_fn), g.sde, g.operator, g.y, **options))


def _diffpir(g: Given) -> Sampler:
    """With a share of 0.3 of fresh noise, as published for images."""
    guided = c.diffpir(*g.problem(), noise_std=g.noise_std)
    return ddim(g.sde, guided, eta=lambda x, t, s: 0.3 * g.sde.variance(s))


def _daps_of_gaussians(g: Given) -> Sampler:
    return c.daps(*g.problem(), noise_std=g.noise_std, data_std=g.data_std, draw=c.gaussian_draw)


METHODS: dict[str, Method] = {
    "replacement": _exact_observation(c.replacement),
    "RePaint": _exact_observation(c.repaint, n_resample=10, jump_length=1),
    "ILVR": _exact_observation(c.ilvr),
    "DPS, released step": Method(lambda g: c.dps_ancestral(*g.problem(), step_size=0.3)),
    "DPS, likelihood": _guided(c.dps),
    "ΠGDM": _guided(c.pigdm, ("noise_std", "data_std")),
    "TMPD": _guided(c.tmpd),
    "MMPS": _guided(c.mmps, n_steps=3),
    "DDRM": Method(lambda g: c.ddrm(*g.problem(), noise_std=g.noise_std)),
    "DiffPIR": Method(_diffpir),
    # 20 Langevin steps a level for the published 100, which would be two thirds of the time of all methods.
    "DAPS": Method(lambda g: c.daps(*g.problem(), noise_std=g.noise_std, draw=c.langevin_draw(20))),
    "DAPS, exact draws": Method(_daps_of_gaussians),
    "TDS": Method(lambda g: c.tds(*g.problem(), noise_std=g.noise_std, data_std=g.data_std), particles=256),
    "MCGdiff": Method(lambda g: c.mcgdiff(*g.problem(), noise_std=g.noise_std), particles=256),
}

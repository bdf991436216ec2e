"""Two-dimensional toys, each *defined* as a finite Gaussian mixture.

    p(x) = Σ_k w_k N(x; m_k, v_k I)

Curves are a few hundred narrow Gaussians along the curve, the checkerboard is a lattice of them. So every toy has an
exact density and score at every noise level: adding N(0, σ² I) only widens v_k to v_k + σ². Neighbours stand at most
1.6 standard deviations apart, which leaves ripples below 0.3 % in a density that looks continuous.

Shapes and scales follow the toys of FFJORD (Grathwohl et al. 2019), which are about 2 to 4 wide on each side; `mixture`
is the two-mode example of Song & Ermon 2019 (their fig. 3), on which Langevin dynamics gets the weights wrong.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from score_jax.data.source import ArraySource
from score_jax.types import InputError


class Components(NamedTuple):
    """The mixture Σ_k weights[k] N(means[k], variances[k] I): shapes `(K,)`, `(K, 2)`, `(K,)`, float64."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray


class Toy(NamedTuple):
    """A toy: its mixture, the group (mode, arm, ring …) of each component `(K,)`, and the modes `(M, 2)`, if any.

    Where there are modes, group i is mode i.
    """

    components: Components
    groups: np.ndarray
    modes: np.ndarray | None


def _toy(parts: list[np.ndarray], std: float, *, weights: list[float] | None = None, modes: bool = False) -> Toy:
    """One group a part `(K_i, 2)` of component means, of equal weight unless `weights` says otherwise."""
    weights = [1 / len(parts)] * len(parts) if weights is None else weights
    w = np.concatenate([np.full(len(part), weight / len(part)) for part, weight in zip(parts, weights)])
    groups = np.concatenate([np.full(len(part), i, np.int32) for i, part in enumerate(parts)])
    centres = np.stack([part.mean(0) for part in parts]) if modes else None
    return Toy(Components(w, np.concatenate(parts), np.full(len(w), float(std) ** 2)), groups, centres)


def _midpoints(n: int) -> np.ndarray:
    """The midpoints of n equal pieces of [0, 1]."""
    return (np.arange(n) + 0.5) / n


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def mixture() -> Toy:
    """0.8 N((5, 5), I) + 0.2 N((-5, -5), I)."""
    return _toy([np.full((1, 2), 5.0), np.full((1, 2), -5.0)], std=1.0, weights=[0.8, 0.2], modes=True)


def eight_gaussians() -> Toy:
    """Eight Gaussians of standard deviation 0.5/√2 on a circle of radius 4/√2."""
    angles = 2 * np.pi * np.arange(8) / 8
    return _toy(list(_polar(4 / np.sqrt(2), angles)[:, None]), std=0.5 / np.sqrt(2), modes=True)


def moons() -> Toy:
    """Two interleaved half circles of radius 2, blurred by 0.2."""
    upper = _polar(1.0, np.pi * _midpoints(32))
    return _toy([2 * part + np.array([-1.0, -0.2]) for part in (upper, np.array([1.0, 0.5]) - upper)], std=0.2)


def swiss_roll() -> Toy:
    """The spiral t (cos t, sin t)/5, t uniform between 1.5π and 4.5π, blurred by 0.2."""
    t = 1.5 * np.pi * (1 + 2 * _midpoints(128))
    return _toy([_polar(t / 5, t)], std=0.2)


def checkerboard() -> Toy:
    """Eight of the sixteen squares of side 2 that fill [-4, 4]², blurred by 0.13."""
    lattice = np.stack(np.meshgrid(2 * _midpoints(10), 2 * _midpoints(10)), axis=-1).reshape(-1, 2)
    corners = [(2 * i, 2 * j) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0]
    return _toy([lattice + np.array(corner) for corner in corners], std=0.13, modes=True)


def pinwheel() -> Toy:
    """Five arms: radius r ~ N(1, 0.3²) times 2, bent by an angle of exp(r)/4, blurred by 0.2."""
    radius = np.linspace(0.1, 1.9, 49)
    density = np.exp(-0.5 * ((radius - 1) / 0.3) ** 2)
    arms = [_polar(2 * radius, 0.25 * np.exp(radius) + 2 * np.pi * i / 5) for i in range(5)]
    toy = _toy(arms, std=0.2)
    return toy._replace(components=toy.components._replace(weights=np.tile(density / density.sum() / 5, 5)))


def rings() -> Toy:
    """Four concentric circles of radius 0.75, 1.5, 2.25 and 3, equally likely, blurred by 0.08."""
    return _toy([_polar(0.75 * i, 2 * np.pi * _midpoints(40 * i)) for i in (1, 2, 3, 4)], std=0.08)


def spirals() -> Toy:
    """Two spirals (t/3) (cos t, sin t) and its mirror image, t up to 3π, uniform along the arm, blurred by 0.1."""
    t = 3 * np.pi * np.sqrt(_midpoints(180))
    arm = _polar(t / 3, t)
    return _toy([arm, -arm], std=0.1)


TOYS: dict[str, Callable[[], Toy]] = {
    "mixture": mixture,
    "eight_gaussians": eight_gaussians,
    "moons": moons,
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "rings": rings,
    "spirals": spirals,
}


def _named(name: str) -> Toy:
    if name not in TOYS:
        raise InputError(f"there is no toy {name!r}; expected one of {', '.join(TOYS)}")
    return TOYS[name]()


def components(name: str) -> Components:
    """Returns the exact mixture behind a toy: `GaussianMixture(*components(name))` is its density."""
    return _named(name).components


def groups(name: str) -> np.ndarray:
    """Returns the class of each component, `(K,)` int32: p(x | label) is the mixture of a group's components."""
    return _named(name).groups


def modes(name: str) -> np.ndarray | None:
    """Returns the centres of separate modes, `(M, 2)`, or None; mode i is group i, so its weight is that group's."""
    return _named(name).modes


def toy(name: str, *, n: int = 100_000, seed: int = 0) -> ArraySource:
    """Draws `n` points of a toy, `(n, 2)` float32, labelled by group (mode, arm, ring, …)."""
    weights, means, variances = components(name)
    if n < 1:
        raise InputError(f"a toy of n={n} points cannot be drawn; expected n of at least 1")
    rng = np.random.default_rng(seed)
    k = rng.choice(len(weights), size=n, p=weights)
    x = means[k] + np.sqrt(variances[k])[:, None] * rng.standard_normal((n, 2))
    return ArraySource(x.astype(np.float32), groups(name)[k], int(groups(name).max()) + 1)

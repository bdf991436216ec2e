"""(c) Samplers as discretisations: DDPM of the reverse VP-SDE, DDIM of the flow, SMLD and NCSN of the VE-SDE."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import diffusion, exact
from experiments.studies import study
from experiments.studies.ddpm_equivalence import figures, oracle
from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import Sampler, grids
from score_jax.types import Array, Key

CHAINS = 200  # of the comparisons path by path
TIME, WIDTHS = 0.4, np.geomspace(3e-6, 1e-3, 6)  # of the single steps
LADDER = (20.0, 0.05)
CALLS = (10, 20, 40, 80, 160, 320, 640)


def step_differences(key: Key, n: int = 1000) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """β of each step from t = 0.4 on VP, and the root mean square difference from `reverse_diffusion`, `(6,)`."""
    sde, p = sdes.VP(), exact.PLANE.api()
    score_fn, t = distributions.score_of(p, sde), jnp.asarray(TIME)
    kinds: dict[str, Sampler] = {
        "ancestral, transition variance": sampling.ancestral(sde, score_fn, variance="transition"),
        "ancestral, posterior variance = DDIM(1)": sampling.ancestral(sde, score_fn),
        "Euler–Maruyama": sampling.euler_maruyama(sde, score_fn),
    }

    def differences(width: Array) -> tuple[Array, list[Array]]:
        x = p.perturbed(sde, t).sample(key, n)
        base, *others = (
            s.step(key, s.init(x), t, t - width).x for s in (sampling.reverse_diffusion(sde, score_fn), *kinds.values())
        )
        beta = -jnp.expm1(2 * (sde.log_alpha(t) - sde.log_alpha(t - width)))
        return beta, [jnp.sqrt(((x - base) ** 2).mean()) for x in others]

    beta, values = jax.device_get(jax.jit(lambda w: jax.lax.map(differences, w))(jnp.asarray(WIDTHS)))
    return beta, dict(zip(kinds, values, strict=True))


def largest_gap(key: Key, a: Sampler, b: Sampler, start: Array, ts: Array) -> Array:
    """The largest difference of two samplers' paths from one start with one key."""
    a, b = (sampling.sample(key, s, start, ts, trace=lambda state: state.x)[1] for s in (a, b))
    return jnp.abs(a - b).max()


def flow_by_hand(sde: sdes.SDE, score_fn, ts: Array) -> Callable[[Array], Array]:
    """Euler on dy/dς = −σ·score(αy, t) in y = x/α and ς = σ/α, written out: x at `ts[-1]`."""
    alpha, sigma = sde.alpha(ts), sde.sigma(ts)

    def run(x: Array) -> Array:
        def step(y, i):
            slope = -sigma[i] * score_fn(alpha[i] * y, ts[i])
            return y + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * slope, None

        return alpha[-1] * jax.lax.scan(step, x / alpha[0], jnp.arange(len(ts) - 1))[0]

    return run


def smld_by_hand(score_fn: Callable[[Array, Array], Array]) -> Sampler:
    """SMLD's reverse chain x + (σ_i² − σ_{i−1}²)·score + √(σ_i² − σ_{i−1}²) z; t is σ (Song et al. 2021, eq. 47)."""

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        return x + (t**2 - s**2) * score_fn(x, t) + jnp.sqrt(t**2 - s**2) * arrays.normal(key, x)

    return sampling.base.one_step(step)


def same_paths(key: Key) -> dict[str, float]:
    """Largest differences of chains that should be the same, path by path."""
    p, table, high_low = exact.PLANE.api(), diffusion.published(), sdes.geometric_sigmas(50.0, 0.01, 1000)
    on_table, ts = distributions.score_of(p, table), diffusion.all_steps(table)
    ladder = sdes.EDM(0.01, 50.0)  # VE with time σ
    on_ladder, ve = distributions.score_of(p, ladder), sdes.VE(0.01, 50.0)

    def measure(key):
        x = p.perturbed(table, 1.0).sample(jax.random.fold_in(key, 0), CHAINS)
        ddim = sampling.sample(key, sampling.ddim(table, on_table), x, ts[:-1])
        wide = 50 * jax.random.normal(jax.random.fold_in(key, 1), x.shape)
        return {
            "ancestral": largest_gap(
                key, sampling.ancestral(table, on_table), sampling.ddim(table, on_table, eta=1.0), x, ts
            ),
            "flow": jnp.abs(ddim - flow_by_hand(table, on_table, ts[:-1])(x)).max(),
            "smld": largest_gap(
                key, sampling.reverse_diffusion(ladder, on_ladder), smld_by_hand(on_ladder), wide, high_low
            ),
            "ladder": jnp.abs(ve.sigma(jnp.linspace(1, 0, 1000)) / high_low - 1).max(),
        }

    return {k: float(v) for k, v in jax.device_get(jax.jit(measure)(key)).items()}


def down_a_ladder(key: Key, n: int, calls: tuple[int, ...]) -> tuple[dict[str, list[float]], float]:
    """Wasserstein-2 distance of n chains to the data noised to the last level, by network calls; and its floor."""
    high, low = LADDER
    sde = sdes.VE(low, high)
    score_fn, start = oracle.score_of(sde), oracle.starts(sde, 1.0, n)

    def langevin(count):  # five steps of ε = 0.4 σ² at each of count/5 levels
        sampler = sampling.annealed_langevin(sde, score_fn, step_size=0.4 * low**2, n_steps=5)
        return sampler, grids.levels(sde, sdes.geometric_sigmas(high, low, count // 5))

    def on_ladder(make):  # one step from level to level, as many levels as steps and one more
        return lambda count: (make(sde, score_fn), grids.uniform(sde, count + 1))

    kinds = {
        "SMLD: reverse diffusion on the ladder": on_ladder(sampling.reverse_diffusion),
        "VE-SDE: Euler–Maruyama": on_ladder(sampling.euler_maruyama),
        "NCSN: annealed Langevin, 5 steps a level": langevin,
    }
    found = {
        name: [
            oracle.wasserstein(
                jax.jit(lambda k, x, m=make(count): sampling.sample(k, m[0], x, m[1]))(key, start), sde, sde.t_min
            )
            for count in calls
        ]
        for name, make in kinds.items()
    }
    return found, oracle.floor(sde, sde.t_min, n, 0)


def measure(seed: int, n: int = 20_000, calls: tuple[int, ...] = CALLS) -> study.Result:
    """Measures in double precision."""
    with jax.enable_x64(True):
        key = jax.random.key(seed)
        beta, steps = step_differences(key)
        paths = same_paths(key)
        ladder, least = down_a_ladder(key, n, calls)
    orders = {name: exact.slope(beta, values) for name, values in steps.items()}
    expected = {name: "2" if "transition" in name else "1.5" for name in orders}
    rows = [
        _row("DDPM ancestral − DDIM(1), 1,000 steps: largest difference", paths["ancestral"], "0"),
        *(
            _row(f"{name} − discretised reverse VP-SDE, one step at t = {TIME}: order in β", value, expected[name])
            for name, value in orders.items()
        ),
        _row("DDIM(0) − Euler on dy/dς, y = x/α, ς = σ/α, 999 steps: largest difference", paths["flow"], "0"),
        _row("VE's σ(t) at equal steps of t over NCSN's geometric ladder − 1, largest", paths["ladder"], "0"),
        _row("SMLD's reverse chain − discretised reverse VE-SDE, 1,000 levels: largest difference", paths["smld"], "0"),
        *(
            _row(f"{name}: distance W₂ from the data after {calls[-1]} calls", values[-1], f"floor {least:.2g}")
            for name, values in ladder.items()
        ),
        *(
            _row(f"{name}: order in the number of calls", oracle.order(calls, values, least), "1")
            for name, values in ladder.items()
            if "NCSN" not in name
        ),
    ]
    pictures = {
        "steps.png": figures.lines(
            {"": {name: (beta, values) for name, values in steps.items()}},
            xlabel="β of the step",
            ylabel="difference from the discretised reverse SDE",
            log_x=True,
            markers=True,
            slopes=(1.5, 2),
        ),
        "ladder.png": figures.lines(
            {"": {name: (calls, values) for name, values in ladder.items()}},
            xlabel="network calls",
            ylabel="distance W₂ from the data",
            log_x=True,
            markers=True,
            limit=("as many exact draws", least),
            slopes=(-1,),
            ticks=calls,
        ),
    }
    conditions = (
        f"Double precision, exact scores, seed {seed}; single steps: 1,000 points of the mixture in the plane; paths: "
        f"{CHAINS} chains with the same noise; ladder: {n:,} chains on the line, σ from {LADDER[0]:g} to "
        f"{LADDER[1]:g}, floor: the distance of as many exact draws."
    )
    return study.Result(rows, pictures, conditions)


def _row(what: str, measured: float, expected: str) -> study.Row:
    return {"what": what, "measured": measured, "expected": expected}

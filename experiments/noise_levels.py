"""Recommends noise levels and a Langevin step for a data set, by NCSNv2's rules.

    python experiments/noise_levels.py --config=configs/digits.py
    python experiments/noise_levels.py --config=configs/fashion_mnist.py --n_steps=5 --c=0.567 --subset=10000

Prints the largest distance between two training examples, the ladder it asks for, the step and the variance to expect,
and the lines for a config; draws the overlap of neighbouring levels and the variance against the step into --out.
Distances are of the images as stored, on the scale of `data.value_range`; sigma_min is the config's `sde.ve.sigma_min`.
Without --config all settings have their defaults: of the digits.
"""

import time
from pathlib import Path

import matplotlib
import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from score_jax import data as datasets
from score_jax import noise_levels, plotting
from score_jax.data import Source
from score_jax.lab import command
from score_jax.lab.build.data import data, value_range
from score_jax.noise_levels import Recommendation
from score_jax.types import InputError


def define() -> None:
    """Defines the flags."""
    command.define_config()
    flags.DEFINE_integer(
        "subset", None, "compare this many examples, drawn at random, which bounds sigma_1 from below", lower_bound=2
    )
    flags.DEFINE_integer("n_steps", None, "Langevin steps at a level; those of the config by default", lower_bound=1)
    flags.DEFINE_float("c", 0.5, "overlap of neighbouring levels; the published ladders have 0.567")
    flags.DEFINE_string(
        "out", None, "picture to write; by default one in runs/noise_levels/ named after the data, steps and overlap"
    )


def main() -> None:
    """Prints and draws what the data that the flags name ask for."""
    given, config = flags.FLAGS, flags.FLAGS.config
    n_steps = config.sampler.annealed_langevin.n_steps if given.n_steps is None else given.n_steps
    source, scale = data(config).train, 1.0
    if source.grey_levels:
        low, high = value_range(config)
        scale = (high - low) / (source.grey_levels - 1)
    examples, dims = chosen(source, given.subset, config.seed), int(np.prod(source.shape))
    start = time.perf_counter()
    distance = scale * noise_levels.max_pairwise_distance(examples)
    seconds = time.perf_counter() - start
    if not distance > config.sde.ve.sigma_min:
        raise InputError(
            f"the largest distance between two examples, {distance:g}, is not above sde.ve.sigma_min, "
            f"{config.sde.ve.sigma_min:g}: there are no levels between; lower sigma_min, or look at the data"
        )
    found = noise_levels.recommend(distance, dims, sigma_min=config.sde.ve.sigma_min, n_steps=n_steps, c=given.c)
    compared = f"{len(examples):,} of {len(source):,} examples" if given.subset else f"{len(source):,} examples"
    print(f"{config.data.name}: {compared} of shape {source.shape}, {dims} dimensions, compared in {seconds:.1f} s\n")
    print(table(found), lines(found), sep="\n\n")
    of = "-".join([config.data.name, *([Path(config.data.root).stem] if config.data.root else [])])
    subset = f"-of{given.subset}" if given.subset else ""
    out = Path(given.out or f"runs/noise_levels/{of}{subset}-T{n_steps}-C{given.c:g}.png")
    print(f"\n{plotting.save_figure(figure(found, dims), out)}")


def chosen(source: Source, subset: int | None, seed: int) -> np.ndarray:
    """Returns the examples to compare, `(N, *S)`: all of them, or a random subset."""
    if subset is not None and subset < len(source):
        rows = np.random.default_rng(seed).choice(len(source), subset, replace=False)
        source = datasets.subset(source, np.sort(rows))
    return datasets.in_memory(source).x


def table(found: Recommendation) -> str:
    """Returns the recommendation, a line for each number."""
    rows = [
        ("sigma_1", f"{found.sigma_max:.4g}", "the largest distance between two of them"),
        ("sigma_L", f"{found.sigma_min:.4g}", ""),
        ("levels L", f"{found.n_levels}", ""),
        ("ratio", f"{found.ratio:.5f}", f"of neighbouring levels, which overlap by {found.overlap:.3f}"),
        (
            "steps T",
            f"{found.n_steps}",
            f"at a level: {found.n_levels * found.n_steps:,} calls of the network a sample",
        ),
        ("step_size", f"{found.step_size:.3g}", f"at sigma_L; released code's step_lr = {found.step_size / 2:.3g}"),
        ("variance", f"{found.first_variance:.3f}", "expected after the first level, in units of its own; 1 is right"),
        ("", f"{found.last_variance:.3f}", "expected after the last"),
    ]
    return "\n".join(f"  {name:10} {value:>9}  {meaning}".rstrip() for name, value, meaning in rows)


def lines(found: Recommendation) -> str:
    """Returns the lines to paste into a config."""
    return "\n".join(
        [
            '    config.sde.name = "ve"',
            f"    config.sde.ve.sigma_min = {found.sigma_min:.4g}",
            f"    config.sde.ve.sigma_max = {found.sigma_max:.4g}",
            '    config.times.name = "discrete"',
            f"    config.times.discrete.n = {found.n_levels}",
            '    config.sampler.name = "annealed_langevin"',
            f"    config.sampler.annealed_langevin = {{"
            f'"step_size": {found.step_size:.3g}, "n_steps": {found.n_steps}}}',
            '    config.sampler.grid = "levels"',
            f"    config.sampler.steps = {found.n_levels}",
        ]
    )


def figure(found: Recommendation, dims: int) -> Figure:
    """Shows how neighbouring levels overlap, and the variance that a step size leads to."""
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(9.6, 3.6), layout="constrained")
        left, right = fig.subplots(1, 2)
        _draw_overlap(left, found, dims)
        _draw_variance(right, found)
    return fig


def _draw_overlap(ax: Axes, found: Recommendation, dims: int) -> None:
    """Densities of the log-distance from an example, log σχ_D, at three neighbouring levels."""
    law, tail = stats.chi(dims), stats.norm.cdf(-3)
    low, high = law.ppf([tail, 1 - tail])
    r = np.geomspace(low / found.ratio, high * found.ratio, 800)
    names = {found.ratio: r"$\sigma_{i-1}$", 1.0: r"$\sigma_i$", 1 / found.ratio: r"$\sigma_{i+1}$"}
    for (scale, name), color in zip(names.items(), plotting.COLORS):
        density = law.pdf(r / scale) * r / scale
        ax.plot(r, density, color=color, label=name)
        if scale == 1.0:
            ax.fill_between(r, density, where=(r > low * found.ratio).tolist(), color=color, alpha=0.3, linewidth=0)
    ax.axvline(low * found.ratio, color=plotting.COLORS[0], linestyle=":", linewidth=1.2)
    ax.set(
        xscale="log",
        xlabel=r"distance from an example (log scale)",
        ylabel="density",
        ylim=(0, None),
        title=rf"C = {found.overlap:.2f} of $\sigma_i$ lies within 3 s.d. of $\sigma_{{i-1}}$",
    )
    ax.set_xticks([law.mean() * scale for scale in names], [rf"$\sqrt{{D}}$ {name}" for name in names.values()])
    ax.minorticks_off()
    _legend_below(ax)


def _draw_variance(ax: Axes, found: Recommendation) -> None:
    """s_T²/σ² against ε: at one level, and far down the ladder."""
    ladder = found.sigma_min, found.ratio, found.n_steps
    steps = np.geomspace(found.step_size / 30, 3.9 * found.sigma_min**2, 400)
    best = noise_levels.variance_ratio(found.step_size, *ladder)
    ax.plot(steps, noise_levels.variance_ratio(steps, *ladder), color=plotting.COLORS[0], label="one level")
    steady = noise_levels.steady_variance_ratio(steps, *ladder)
    ax.plot(steps, steady, color=plotting.COLORS[1], label="far down the ladder")
    ax.plot(found.step_size, best, "o", color=plotting.COLORS[0], label=rf"$\epsilon$ = {found.step_size:.2g}")
    ax.axhline(1, color=plotting.FAINT, linewidth=1)
    excess = found.last_variance - 1
    ax.set(
        xscale="log",
        xlabel=r"step size $\epsilon$ at $\sigma_L$",
        ylabel=r"$s_T^2/\sigma_i^2$",
        ylim=(1 - 0.3 * excess, 1 + 3 * excess),
        title=f"variance after T = {found.n_steps} steps; 1 is right",
    )
    _legend_below(ax)


def _legend_below(ax: Axes) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1.2)


if __name__ == "__main__":
    command.run(main, define)

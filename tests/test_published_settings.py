"""The settings of score SDE, DDPM and EDM, number by number as published: no network is built.

Sources: the released configs of yang-song/score_sde, hojonathanho/diffusion's scripts and appendix B of Ho et al. 2020,
NVlabs/edm's README. Published steps are one more in score SDE, and EDM's are rounded to checkpoints.
"""

from typing import Any, NamedTuple

import pytest

from configs import ddpm, edm, score_sde


class Row(NamedTuple):
    """What differs between the published runs; of options, those that are used."""

    sde: str
    value_range: tuple[float, float]
    times: str | tuple[str, int]
    learning_rate: float
    ema_decay: float
    batch_size: int
    thousand_steps: int
    dropout: float
    predictor: tuple[str, dict[str, Any]]  # and its options
    corrector_snr: float | None
    sampler_steps: int
    sigma_max: float | None
    holdout: float | None  # of folders: ours, since published runs hold out nothing of them


UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)
ANCESTRAL, FIXED_SMALL = ("ancestral", {"variance": "transition"}), ("ancestral", {"variance": "posterior"})
OF_THE_GRID = {"probability_flow": False, "num_scales": 0}
REVERSE, EULER = ("reverse_diffusion", OF_THE_GRID), ("euler_maruyama", OF_THE_GRID)
DETERMINISTIC = ("heun", {"churn": 0.0, "s_min": 0.0, "s_max": 1e9, "s_noise": 1.0})
CHURNED = ("heun", {"churn": 0.15625, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003})  # S_churn 40 of 256 steps
# EMA of a half-life of 0.5 million images, or 50
HALF, HALF_256, FIFTY = 0.5 ** (512 / 500e3), 0.5 ** (256 / 500e3), 0.5 ** (4096 / 50e6)
DEEP_VP = "vp_ddpmpp_deep_continuous vp_ncsnpp_deep_continuous"
SUBVP = "subvp_ddpm_continuous subvp_ddpmpp_continuous subvp_ncsnpp_continuous"
DEEP_SUBVP = "subvp_ddpmpp_deep_continuous subvp_ncsnpp_deep_continuous"
LEVELS = ("discrete", 1000)

# fmt: off
PUBLISHED: dict[Any, dict[str, tuple]] = {
    score_sde: {
        "vp_ddpm vp_ddpm_unconditional vp_ddpmpp":
            ("tabulated", SIGNED, "knots", 2e-4, 0.9999, 128, 1300, 0.1, ANCESTRAL, None, 1000, None, None),
        "vp_ncsnpp": ("tabulated", SIGNED, "knots", 2e-4, 0.9999, 128, 1300, 0.1, REVERSE, None, 1000, None, None),
        "vp_ddpm_continuous vp_ddpmpp_continuous vp_ncsnpp_continuous":
            ("vp", SIGNED, "uniform", 2e-4, 0.9999, 128, 1300, 0.1, EULER, None, 999, None, None),
        DEEP_VP: ("vp", SIGNED, "uniform", 2e-4, 0.9999, 128, 950, 0.1, EULER, None, 999, None, None),
        SUBVP: ("subvp", SIGNED, "uniform", 2e-4, 0.9999, 128, 1300, 0.1, EULER, None, 999, None, None),
        DEEP_SUBVP: ("subvp", SIGNED, "uniform", 2e-4, 0.9999, 128, 950, 0.1, EULER, None, 999, None, None),
        "ve_ddpm ve_ncsnpp": ("ve", UNIT, LEVELS, 2e-4, 0.999, 128, 1300, 0.1, REVERSE, 0.16, 1000, 50.0, None),
        "ve_ncsnpp_continuous": ("ve", UNIT, "uniform", 2e-4, 0.999, 128, 1300, 0.1, REVERSE, 0.16, 999, 50.0, None),
        "ve_ncsnpp_deep_continuous":
            ("ve", UNIT, "uniform", 2e-4, 0.999, 128, 950, 0.1, REVERSE, 0.16, 999, 50.0, None),
        "vp_bedroom vp_church":
            ("tabulated", SIGNED, "knots", 2e-5, 0.9999, 64, 2400, 0.0, ANCESTRAL, None, 1000, None, 300.0),
        "vp_celebahq": ("tabulated", SIGNED, "knots", 2e-5, 0.9999, 64, 2400, 0.0, ANCESTRAL, None, 1000, None, 500.0),
        "ve_bedroom": ("ve", UNIT, "uniform", 2e-4, 0.999, 64, 2400, 0.0, REVERSE, 0.075, 1999, 378.0, 300.0),
        "ve_church": ("ve", UNIT, "uniform", 2e-4, 0.999, 64, 2400, 0.0, REVERSE, 0.075, 1999, 380.0, 300.0),
        "ve_celebahq ve_ffhq":
            ("ve", UNIT, "uniform", 2e-4, 0.999, 64, 2400, 0.0, REVERSE, 0.075, 1999, 348.0, 500.0),
        "ve_celebahq_1024 ve_ffhq_1024":
            ("ve", UNIT, "uniform", 2e-4, 0.9999, 8, 2400, 0.0, REVERSE, 0.15, 1999, 1348.0, 500.0),
        "ve_celeba": ("ve", UNIT, LEVELS, 2e-4, 0.999, 128, 1300, 0.1, REVERSE, 0.17, 1000, 90.0, 0.2),
    },
    ddpm: {
        "cifar10": ("tabulated", SIGNED, "knots", 2e-4, 0.9999, 128, 800, 0.1, ANCESTRAL, None, 1000, None, None),
        "bedroom": ("tabulated", SIGNED, "knots", 2e-5, 0.9999, 64, 2400, 0.0, FIXED_SMALL, None, 1000, None, 300.0),
        "church": ("tabulated", SIGNED, "knots", 2e-5, 0.9999, 64, 1200, 0.0, FIXED_SMALL, None, 1000, None, 300.0),
        "celebahq": ("tabulated", SIGNED, "knots", 2e-5, 0.9999, 64, 500, 0.0, FIXED_SMALL, None, 1000, None, 500.0),
    },
    edm: {  # 200 million images, and 2500; the last of 18, 40 and 256 steps is the denoising one
        "cifar10 cifar10_cond cifar10_ncsnpp":
            ("edm", SIGNED, "lognormal", 1e-3, HALF, 512, 390, 0.13, DETERMINISTIC, None, 17, 80.0, None),
        "ffhq": ("edm", SIGNED, "lognormal", 2e-4, HALF_256, 256, 780, 0.05, DETERMINISTIC, None, 39, 80.0, 500.0),
        "afhq": ("edm", SIGNED, "lognormal", 2e-4, HALF_256, 256, 780, 0.25, DETERMINISTIC, None, 39, 80.0, 500.0),
        "imagenet64": ("edm", SIGNED, "lognormal", 1e-4, FIFTY, 4096, 610, 0.1, CHURNED, None, 255, 80.0, 500.0),
    },
}
# fmt: on
ROWS = {
    f"{module.__name__[8:]}:{variant}": (module, variant, Row(*row))
    for module, rows in PUBLISHED.items()
    for variants, row in rows.items()
    for variant in variants.split()
}
EVERYWHERE = {  # of a module's variants
    score_sde: {"optimizer.warmup_steps": 5000, "sampler.threshold": "none", "sde.ve.sigma_min": 0.01},
    ddpm: {"optimizer.warmup_steps": 5000, "sampler.threshold": "static", "sampler.t_end": 1e-3},
    edm: {"sampler.threshold": "none", "sde.edm.sigma_min": 0.002, "sampler.grid": "karras", "sampler.rho": 7.0},
}
AUGMENTED = {(edm, name): 0.12 for name in ("cifar10", "cifar10_cond", "cifar10_ncsnpp")}  # mirror images among it
AUGMENTED |= {(edm, "ffhq"): 0.15, (edm, "afhq"): 0.15}
NOT_FLIPPED = [(ddpm, "bedroom"), (edm, "imagenet64"), *AUGMENTED]
ADAM = {"optimizer.b1": 0.9, "optimizer.b2": 0.999, "optimizer.weight_decay": 0.0, "optimizer.schedule": "constant"}
CONSTANTS = ADAM | {
    "data.dequantize": False,
    "sampler.denoise": True,
    "sampler.ema": True,
    "sampler.langevin_corrector.n_steps": 1,
    "sde.tabulated.n_steps": 1000,
    "sde.vp.beta_min": 0.1,
    "sde.vp.beta_max": 20.0,
    "sde.subvp.beta_min": 0.1,
    "sde.subvp.beta_max": 20.0,
    "sde.subvp.t_min": 1e-3,  # ours: published are 1e-5
    "sde.subvp.t_max": 1.0,
    "sde.vp.t_min": 1e-5,
    "sde.vp.t_max": 1.0,
    "times.lognormal.mean": -1.2,
    "times.lognormal.std": 1.2,
    "parameterization.edm.sigma_data": 0.5,
    "weighting.edm.sigma_data": 0.5,
}


def settings(config) -> Row:
    """The row that a config makes."""
    sde, times, sampler, training = config.sde, config.times, config.sampler, config.training
    assert training.steps % 1000 == 0
    return Row(
        sde=sde.name,
        value_range=tuple(config.data.value_range),
        times=("discrete", times.discrete.n) if times.name == "discrete" else times.name,
        learning_rate=config.optimizer.learning_rate,
        ema_decay=training.ema_decay,
        batch_size=training.batch_size,
        thousand_steps=training.steps // 1000,
        dropout=config.network.dropout,
        predictor=(sampler.name, dict(sampler[sampler.name].items())),
        corrector_snr=sampler.langevin_corrector.snr if sampler.corrector else None,
        sampler_steps=sampler.steps,
        sigma_max=sde[sde.name].get("sigma_max"),
        holdout=config.data.holdout if config.data.name == "folder" else None,
    )


@pytest.mark.parametrize(("module", "variant", "row"), ROWS.values(), ids=ROWS)
def test_every_number_of_a_published_config_is_the_published_one(module, variant, row):
    config = module.get_config(variant)
    assert settings(config) == row
    expected = CONSTANTS | EVERYWHERE[module]
    expected |= {"data.flip": (module, variant) not in NOT_FLIPPED}
    expected |= {"data.augment": AUGMENTED.get((module, variant), 0.0)}
    if module is score_sde:  # sampling ends at 1e-3, and at 1e-5 where variance explodes
        expected |= {"sampler.t_end": 0.0 if row.sde == "ve" else 1e-3, "sde.ve.t_min": 1e-5}
    flat = {name: value for name, value in leaves(config).items() if name in expected}
    assert flat == expected


def leaves(config, prefix=""):
    """Every option by its dotted name."""
    nested = {name: value for name, value in config.items() if hasattr(value, "items")}
    found = {prefix + name: value for name, value in config.items() if name not in nested}
    for name, section in nested.items():
        found |= leaves(section, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("module", PUBLISHED, ids=lambda module: module.__name__[8:])
def test_no_published_variant_is_left_out(module):
    with pytest.raises(ValueError, match="choose one of") as refusal:
        module.get_config("?")
    variants = str(refusal.value).split("choose one of ")[1].split(", ")
    assert sorted(variants) == sorted(variant for m, variant, _ in ROWS.values() if m is module)

"""Published results on CIFAR-10: what was reported, how it was measured, and which config is its.

RESULTS["ddpm_cifar10"].numbers["fid"]    # 3.17
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One published row.

    Attributes:
      config: file and variant.
      numbers: as published, by the name that `evaluate.py` gives them.
      source: where they stand.
      as_published: how they were measured.
      differs: how what is measured here differs from that.
      calls: of the network, for a sample.
      checkpoint: which file of the authors can take the place of training.
      settings: changes to the config that measuring needs.
    """

    config: str
    numbers: Mapping[str, float]
    source: str
    as_published: str
    differs: str
    calls: int
    checkpoint: str
    settings: Mapping[str, Any] = {}


_BEST = "the checkpoint with the best FID"
_LAST = "the last checkpoint"
_SDE = "Song et al. 2021, table 3"
_CORRECTED = {"sampler.corrector": True, "sampler.first": "corrector"}
_BOUND = {"evaluation.bound_n": 10_000}  # all test images
_FLOW = {"evaluation.likelihood_n": 10_000}


def _sde(config: str, checkpoint: str, fid: float, score: float, **more: Any) -> Result:
    """A continuous model of score SDE, sampled by predictor and corrector."""
    bits, settings = more.pop("bits", None), more.pop("settings", {})
    return Result(
        f"configs/score_sde.py:{config}",
        {"fid": fid, "inception_score": score} | ({} if bits is None else {"bits_per_dim": bits}),
        _SDE + ("" if bits is None else " and 2"),
        f"50,000 samples of {_BEST} of every 50,000 steps; predictor and corrector, 2,000 calls",
        f"{_LAST}; Langevin steps by the norms of each example" + more.pop("differs", ""),
        1999,
        f"yang-song/score_sde_pytorch, {checkpoint}",
        settings=settings | ({} if bits is None else _FLOW),
    )


RESULTS: dict[str, Result] = {
    "ncsn_cifar10": Result(
        "configs/ncsn.py",
        {"fid": 25.32, "inception_score": 8.87},
        "Song & Ermon 2019, table 1",
        f"50,000 samples of {_BEST} of 1,000 samples, of every 5,000 steps; not denoised",
        f"{_LAST}: which is the best is for `--step=`",
        1000,
        "ermongroup/ncsn, CIFAR-10's checkpoint.pth",
    ),
    "ncsnv2_cifar10": Result(
        "configs/ncsnv2.py",
        {"fid": 10.87, "inception_score": 8.40},
        "Song & Ermon 2020, tables 1 and 2",
        f"50,000 samples, denoised, of {_BEST} of 1,000 samples, of every 5,000 steps",
        f"{_LAST}: which is the best is for `--step=`",
        1161,
        "ermongroup/ncsnv2, CIFAR-10's checkpoint",
    ),
    "ddpm_cifar10": Result(
        "configs/ddpm.py",
        {"fid": 3.17, "inception_score": 9.46, "bound_bits_per_dim": 3.75},
        "Ho et al. 2020, table 1",
        f"50,000 samples of {_BEST}, 1,000 ancestral steps of the larger variance; the bound of the test images",
        f"{_LAST}; the bound by the sampler's own variance",
        1000,
        "google/ddpm-cifar10-32, diffusers' conversion",
        settings=_BOUND,
    ),
    "score_sde_cifar10_ve": _sde("ve_ncsnpp_continuous", "ve/cifar10_ncsnpp_continuous/checkpoint_24.pth", 2.38, 9.83),
    "score_sde_cifar10_vp": _sde(
        "vp_ddpmpp_continuous",
        "vp/cifar10_ddpmpp_continuous/checkpoint_8.pth",
        2.55,
        9.58,
        bits=3.16,
        settings=_CORRECTED | {"sampler.langevin_corrector.num_scales": 1000},
    ),
    "score_sde_cifar10_subvp": _sde(
        "subvp_ddpmpp_continuous",
        "subvp/cifar10_ddpmpp_continuous/checkpoint_26.pth",
        2.61,
        9.56,
        bits=3.02,
        settings=_CORRECTED,
        differs="; the process begins at t = 1e-3, so that its likelihood is another quantity",
    ),
    "edm_cifar10": Result(
        "configs/edm.py",
        {"fid": 1.97},
        "Karras et al. 2022, table 2",
        "the least FID of three draws of 50,000 samples, 35 calls",
        "one draw",
        35,
        "NVlabs/edm, edm-cifar10-32x32-uncond-vp.pkl",
    ),
    "edm_cifar10_cond": Result(
        "configs/edm.py:cifar10_cond",
        {"fid": 1.79},
        "Karras et al. 2022, table 2",
        "the least FID of three draws of 50,000 samples of all classes alike, 35 calls",
        "one draw; classes at random",
        35,
        "NVlabs/edm, edm-cifar10-32x32-cond-vp.pkl",
    ),
}

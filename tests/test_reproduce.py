"""The commands of published results: their table, what they would run, what they refuse, and a rehearsal."""

import json

import numpy as np
import pytest

from experiments.reproduce import __main__ as reproduce
from experiments.reproduce.published import RESULTS
from score_jax.lab import command, settings
from tests.helpers import refused

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_of_a_config_that_is_there(name):
    result = RESULTS[name]
    config = settings.changed(command.read_file(result.config), result.settings)
    assert config.data.name == "cifar10" and {"fid"} <= set(result.numbers)
    # A bound or a likelihood that was published is one that is measured.
    asked = {"bits_per_dim": config.evaluation.likelihood_n, "bound_bits_per_dim": config.evaluation.bound_n}
    assert {number for number, n in asked.items() if n} == set(result.numbers) & set(asked)


def test_a_dry_run_says_what_would_be_run_and_what_was_published(capsys):
    assert reproduce.main(["ddpm_cifar10", "--dry_run", "--root=there", "--config.mesh.fsdp=8"]) == 0
    train, evaluate, *_ = capsys.readouterr().out.split("\n\n")
    assert "train.py" in train and "configs/ddpm.py --workdir=runs/ddpm_cifar10" in train
    for flag in ("--config.data.root=there", "--config.evaluation.n=50000", "--config.evaluation.bound_n=10000"):
        assert flag in train and flag not in evaluate  # which reads the run's own settings
    assert train.endswith("--config.mesh.fsdp=8") and "evaluate.py" in evaluate
    assert reproduce.main(["edm_cifar10", "--dry_run", "--checkpoint=edm.pkl", "--source_config=edm.json"]) == 0
    shown = capsys.readouterr().out
    assert "train.py" not in shown and "| fid | 1.97 |" in shown
    assert "--checkpoint=edm.pkl --source_config=edm.json --config.data.name=cifar10" in shown


def test_what_would_fail_after_days_is_refused_at_once(tmp_path):
    refused("--inception=… is no file: FID and inception score need pt_inception", reproduce.main, ["ncsn_cifar10"])
    refused("--setp=3 is no flag of this command", reproduce.main, ["ncsn_cifar10", "--dry_run", "--setp=3"])


def test_numbers_stand_beside_those_published():
    measured = {
        "fid": {"value": 3.456789, "standard_error": 0.0312, "n": 50_000},
        "bits_per_dim": 3.1234567,
        "bits_per_dim_standard_error": 0.0123,
        "bits_per_dim_n": 512,
        "left_out": {"inception_score": "not finite", "bound": "too few"},
    }
    numbers = {"fid": 3.17, "inception_score": 9.46, "bits_per_dim": 3.16, "bound_bits_per_dim": 3.75}
    assert reproduce.compared(numbers, measured) == [
        {"number": "fid", "published": 3.17, "here": "3.457 ± 0.031", "n": 50_000},
        {"number": "inception_score", "published": 9.46, "here": "not finite", "n": ""},
        {"number": "bits_per_dim", "published": 3.16, "here": "3.123 ± 0.012", "n": 512},
        {"number": "bound_bits_per_dim", "published": 3.75, "here": "too few", "n": ""},
    ]
    (lacking,) = reproduce.compared({"fid": 3.17}, {})
    assert lacking["here"] == "not measured"


TINY = {
    "training.steps": 2,
    "training.batch_size": 8,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "optimizer.warmup_steps": 0,
    "evaluation.bound_n": 4,
    "evaluation.levels": 2,
    "sampler.batch_size": 10,
    "network.ddpm.channels": 8,
    "network.ddpm.blocks": 1,
    "network.ddpm.multipliers": (1, 1),
    "sde.tabulated.n_steps": 24,
    "sampler.steps": 24,
}


@pytest.mark.slow
def test_a_rehearsal_on_made_up_data_ends_with_the_comparison(tmp_path, monkeypatch):
    """All of it at tiny width: archive, training, samples, FID by Inception, bound, page; and once more, at once."""
    from score_jax.interop.feature_networks import inception_entries
    from tests.interop.test_feature_networks import made
    from tests.interop.writing import dense, write_zip

    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = RNG.integers(0, 256, (8, 3073), dtype=np.uint8)
        pixels[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(pixels.tobytes())
    weights, workdir = tmp_path / "inception.pth", tmp_path / "run"
    write_zip(weights, {name: dense(name, np.asarray(a)) for name, a in made(inception_entries).items()})
    asked = [f"--config.{key}={value}" for key, value in TINY.items()]
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # of the tests: many devices, and programs that are not optimised
    flags = [f"--root={folder}", f"--inception={weights}", f"--workdir={workdir}", "--n=20", *asked]
    assert reproduce.main(["ddpm_cifar10", *flags]) == 0
    found = json.loads((workdir / "reproduction.json").read_text())
    fid, _, bound = found["rows"]
    assert fid["published"] == 3.17 and fid["n"] == 20
    assert fid["here"].startswith(f"{found['evaluation']['fid']['value']:.4g} ± ")
    assert bound["here"].startswith(f"{found['evaluation']['bound_bits_per_dim']:.4g} ± ") and bound["n"] == 4
    assert "Ho et al. 2020, table 1" in (workdir / "reproduction.md").read_text()
    (measured,) = workdir.glob("measured-newest-n20-seed0/evaluation.json")
    made = measured.stat().st_mtime_ns
    assert reproduce.main(["ddpm_cifar10", *flags]) == 0
    assert json.loads((workdir / "reproduction.json").read_text())["rows"] == found["rows"]
    assert measured.stat().st_mtime_ns == made  # hours of sampling are not spent again

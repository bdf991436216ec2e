"""Reproduces a published result: trains, or takes the authors' checkpoint, draws 50,000 samples, compares the numbers.

    python -m experiments.reproduce ddpm_cifar10 --inception=pt_inception-2015-12-05-6726825d.pth --root=DATA
    python -m experiments.reproduce score_sde_cifar10_ve --checkpoint=checkpoint_24.pth --source_config=ve.json …
    python -m experiments.reproduce edm_cifar10 --dry_run

DATA is CIFAR-10 as published (`score_jax.data.cifar10`), --inception pytorch-fid's file. Everything goes into
--workdir, runs/NAME. Stopped at any moment and started again with the same command, it goes on. --step takes another
checkpoint of the run than the newest, as the papers that report the best of several. What else is given, such as
--config.mesh.data=8, changes the training's settings.

An evaluation that is there, of as many samples by the same seed of the same checkpoint, is not made again. Writes
reproduction.json, and reproduction.md, which it prints: the published numbers beside those measured, their n,
and in what the two differ. --dry_run prints the commands and the published numbers, and runs nothing.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reproduce.published import RESULTS, Result
from experiments.studies.study import table
from score_jax.lab.evaluation import is_done
from score_jax.training import checkpoint
from score_jax.training.logging import write_json
from score_jax.types import InputError

_COMMANDS = Path(__file__).resolve().parent.parent
# Number -> the measure that makes it
_MEASURES = {
    "fid": "frechet",
    "inception_score": "inception_score",
    "bits_per_dim": "likelihood",
    "bound_bits_per_dim": "bound",
}


def settings_of(result: Result, given: argparse.Namespace) -> list[str]:
    """Returns the flags of what is measured, and how."""
    values: dict[str, Any] = {
        "data.root": given.root,
        "evaluation.n": given.n,
        "evaluation.measures": (*_MEASURES.values(), "copies"),
        "evaluation.features.name": "inception",
        "evaluation.features.weights": given.inception,
        **result.settings,
    }
    return [f"--config.{key}={value}" for key, value in values.items() if value != ""]


def measured_in(given: argparse.Namespace) -> Path:
    """Returns the folder of the evaluation."""
    of = Path(given.checkpoint).stem if given.checkpoint else f"step{given.step}" if given.step else "newest"
    return Path(given.workdir) / f"measured-{of}-n{given.n}-seed{given.seed}"


def is_measured(given: argparse.Namespace) -> bool:
    """Whether the evaluation is there: of the newest checkpoint, where none is named."""
    folder = measured_in(given)
    if not is_done(folder):
        return False
    newest = None if given.checkpoint or given.step else checkpoint.steps(Path(given.workdir))[0]
    return newest is None or bool(json.loads((folder / "evaluation.json").read_text())["step"] == newest)


def commands(result: Result, given: argparse.Namespace, further: Sequence[str]) -> list[list[str]]:
    """Returns the commands: training, unless a checkpoint is there, and evaluation."""
    python, settings = [sys.executable], [*settings_of(result, given), *further]
    evaluate = [*python, str(_COMMANDS / "evaluate.py"), f"--seed={given.seed}", f"--out={measured_in(given)}"]
    if given.checkpoint:
        theirs = [f"--checkpoint={given.checkpoint}"]
        theirs += [f"--source_config={given.source_config}"] if given.source_config else []
        return [[*evaluate, *theirs, "--config.data.name=cifar10", *settings]]
    train = [*python, str(_COMMANDS / "train.py"), f"--config={_COMMANDS.parent / result.config}"]
    of_step = [f"--step={given.step}"] if given.step else []
    return [
        [*train, f"--workdir={given.workdir}", f"--config.seed={given.seed}", *settings],
        [*evaluate, f"--workdir={given.workdir}", *of_step],
    ]


def compared(numbers: Mapping[str, float], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each published number, with what was measured of it, or why it was not."""
    rows = []
    for name, published in numbers.items():
        found, apart = measured.get(name), {key: measured.get(f"{name}_{key}") for key in ("standard_error", "n")}
        ours = found if isinstance(found, Mapping) else {"value": found, **apart}
        left_out = measured.get("left_out", {})
        lacking = left_out.get(name, left_out.get(_MEASURES[name], "not measured")) if found is None else ""
        error, n = ours.get("standard_error"), ours.get("n")
        value = lacking or f"{ours['value']:.4g}" + ("" if error is None else f" ± {error:.2g}")
        rows.append({"number": name, "published": published, "here": value, "n": "" if n is None else n})
    return rows


def page(name: str, result: Result, rows: Sequence[Mapping[str, Any]], of: str) -> str:
    """Returns the comparison as text."""
    return (
        f"{name}, {of}\n\n{table(rows)}\n\n- Published: {result.source}; {result.as_published}.\n"
        f"- Here: {result.differs}.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given, further = _parsed(argv)
    result = RESULTS[given.name]
    planned = commands(result, given, further)
    if given.dry_run:
        published = [{"number": name, "published": value} for name, value in result.numbers.items()]
        print(*map(shlex.join, planned), page(given.name, result, published, "nothing was run"), sep="\n\n")
        return 0
    for command in planned:
        if command is planned[-1] and is_measured(given):
            continue
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    workdir = Path(given.workdir)
    measured = json.loads((measured_in(given) / "evaluation.json").read_text())
    rows = compared(result.numbers, measured)
    text = page(given.name, result, rows, given.checkpoint or f"{workdir}, step {measured['step']:,}")
    write_json(workdir / "reproduction.json", {"name": given.name, "rows": rows, "evaluation": measured})
    (workdir / "reproduction.md").write_text(text)
    print(text)
    return 0


def _parsed(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(RESULTS))
    parser.add_argument("--inception", default="", help="pytorch-fid's weights")
    parser.add_argument("--root", default="", help="folder or archive of CIFAR-10; by default the usual places")
    parser.add_argument("--workdir", help="of the run; by default runs/NAME")
    parser.add_argument("--checkpoint", default="", help="the authors' checkpoint, in place of training")
    parser.add_argument("--source_config", default="", help="the checkpoint's own config, where it needs one")
    parser.add_argument("--step", type=int, help="checkpoint of the run; by default the newest")
    parser.add_argument("--n", type=int, default=50_000, help="samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry_run", action="store_true", help="print what would be run")
    given, further = parser.parse_known_args(argv)
    given.workdir = given.workdir or f"runs/{given.name}"
    _require_inputs(given, further)
    return given, further


def _require_inputs(given: argparse.Namespace, further: Sequence[str]) -> None:
    """Refuses, before anything is trained, what would be found out days later."""
    strange = [word for word in further if not word.startswith("--config.")]
    if strange:
        raise InputError(f"{strange[0]} is no flag of this command: see --help; settings are --config.KEY=VALUE")
    if given.dry_run:
        return
    if not Path(given.inception).is_file():
        raise InputError(
            f"--inception={given.inception or '…'} is no file: FID and inception score need "
            "pt_inception-2015-12-05-6726825d.pth, pytorch-fid's weights"
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")

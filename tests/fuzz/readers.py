"""Every reader of foreign files, with a good file and what is done to it."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_jax import data, interop, metrics
from score_jax.lab import evaluation, kept, published, reports, settings
from score_jax.lab.restoring import inputs
from score_jax.lab.sweeps import folder as sweep_folders
from score_jax.lab.sweeps import outcomes, outputs
from score_jax.training import checkpoint, digests, logging
from score_jax.types import InputError
from tests.fuzz import mutations as by
from tests.fuzz import originals
from tests.fuzz.mutations import Mutation
from tests.training import tiny


class Reader(NamedTuple):
    """What reads files of one kind.

    Attributes:
      original: returns good files by name.
      changes: what is done to a file, by a pattern of its name; one file of a case is changed.
      read: reads the files in a folder.
      raises: what it may raise by its contract.
      share: of all cases, beside the other readers'.
    """

    original: Callable[[], Mapping[str, bytes]]
    changes: Mapping[str, Mutation]
    read: Callable[[Path], Any]
    raises: tuple[type[Exception], ...] = (InputError,)
    share: int = 4

    def mutation(self, name: str) -> Mutation | None:
        """Returns what is done to the file of that name, if anything."""
        return next((change for pattern, change in self.changes.items() if fnmatchcase(name, pattern)), None)


def _examples(source: Any) -> Any:
    """The first examples of a source: images are decoded when they are asked for."""
    return source.batch(np.arange(min(len(source), 8)))


def _only(folder: Path) -> Path:
    """The one file in a folder, of several the changed one."""
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def _pictures(folder: Path) -> None:
    failed: list[InputError] = []
    for path in data.picture_files(folder):
        try:
            data.read_picture(path, channels=3, convert=True)
        except InputError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _restored(folder: Path) -> Any:
    with checkpoint.open_checkpoints(folder, read_only=True) as manager:
        return checkpoint.restore_state(manager, tiny.state(), config=tiny.CONFIG, step=2)


def _with_right_digests(folder: Path) -> Any:
    (folder / "checkpoints" / "2" / "sha256.json").unlink()  # it would be among the files that have one
    digests.write_digests(folder / "checkpoints" / "2")
    return _restored(folder)


def _report_of_sweep(folder: Path) -> None:
    read = outcomes.read_outcomes(folder)
    outputs.as_csv(read)
    reports.write_sweep(folder, read)


def _run_settings(folder: Path) -> Any:
    return settings.of_run(folder).to_dict()


def _parts(folder: Path) -> Any:
    """A part of an unfinished evaluation: made again where it is damaged."""
    return kept.Kept(folder, originals.CONDITIONS).once("moments", lambda: {"made": np.zeros(1)})


NCSN = lambda name: lambda folder: interop.load(folder / name, source="ncsn")
PICTURE = by.at_random


def _ncsn_settings(suffix: str) -> Callable[[Path], Any]:
    """Reads a checkpoint of NCSN with its config in such a file."""

    def read(folder: Path) -> Any:
        given = {"source": "ncsn", "source_config": folder / f"config.{suffix}"}
        return published.open_published(folder / "checkpoint.safetensors", **given).settings

    return read


READERS: dict[str, Reader] = {
    "npy": Reader(originals.npy, {"*": by.of_npy}, lambda f: _examples(data.array_file(f / "x.npy"))),
    "npz": Reader(originals.npz(np.savez), {"*": by.of_zip}, lambda f: _examples(data.array_file(f / "x.npz"))),
    "npz, deflated": Reader(
        originals.npz(np.savez_compressed), {"*": by.of_zip}, lambda f: _examples(data.array_file(f / "x.npz"))
    ),
    "idx": Reader(
        originals.idx, {"*.gz": by.of_gzip(by.of_idx), "*": by.of_idx}, lambda f: _examples(data.mnist(f, split="test"))
    ),
    "cifar, binary": Reader(
        originals.cifar_binary, {"*": by.at_random}, lambda f: _examples(data.cifar10(f, split="test")), share=2
    ),
    "cifar, python": Reader(
        originals.cifar_python, {"*": by.of_pickle}, lambda f: _examples(data.cifar10(f, split="test"))
    ),
    "cifar, archive": Reader(
        originals.cifar_archive,
        {"*": by.of_gzip(by.of_tar)},
        lambda f: _examples(data.cifar10(f / "cifar.tar.gz", split="test")),
    ),
    "png": Reader(lambda: {"png.png": originals.pictures()["png.png"]}, {"*": by.of_png}, _pictures),
    "other pictures": Reader(originals.pictures, {"*.png": by.of_png, "*": by.at_random}, _pictures, share=6),
    "picture folder": Reader(
        originals.picture_folder, {"*": by.of_png}, lambda f: _examples(data.folder(f, labels=True)), share=2
    ),
    "mask": Reader(originals.mask, {"*": by.of_png}, lambda f: inputs.read_mask(f / "mask.png", (12, 9, 3)), share=2),
    "tfds": Reader(
        originals.tfds,
        {"*.json": by.of_json, "*": by.at_random},
        lambda f: _examples(data.tfds.load("tiny", data_dir=f)),
        share=2,
    ),
    "torch.save, zip": Reader(originals.torch_zip, {"*": by.of_zip}, NCSN("checkpoint.pth")),
    "torch.save, stream": Reader(originals.torch_stream, {"*": by.of_pickle}, NCSN("checkpoint.pth")),
    "safetensors": Reader(originals.safetensors_file, {"*": by.of_safetensors}, NCSN("checkpoint.safetensors")),
    "numpy.savez of tensors": Reader(originals.numpy_file, {"*": by.of_zip}, NCSN("checkpoint.npz")),
    "index of parts": Reader(
        originals.index, {"*.json": by.of_json, "*": by.of_safetensors}, NCSN("model.index.json"), share=2
    ),
    "pickle of modules": Reader(
        originals.edm_pickle, {"*": by.of_pickle}, lambda f: interop.score_model(f / "edm.pkl", source="edm")
    ),
    "config.json of diffusers": Reader(
        originals.diffusers_folder,
        {"*.json": by.of_json},
        lambda f: published.open_published(f, source="diffusers").settings,
    ),
    "torch.save, score SDE": Reader(
        originals.score_sde,
        {"*.pth": by.of_zip, "*.json": by.of_json},
        lambda f: interop.score_model(f / "checkpoint.pth", source="score_sde_pytorch", config=f / "config.json"),
        share=2,
    ),
    "config of NCSN, JSON": Reader(
        originals.with_config("json"),
        {"config.*": by.of_json},
        _ncsn_settings("json"),
    ),
    "config of NCSN, YAML": Reader(
        originals.with_config("yml"),
        {"config.*": by.of_yaml},
        _ncsn_settings("yml"),
    ),
    "usual source": Reader(
        originals.torch_zip, {"*": by.of_zip}, lambda f: published.usual_source(f / "checkpoint.pth"), share=1
    ),
    "moments": Reader(
        originals.moments,
        {"*": by.of_zip},
        lambda f: metrics.load_moments(f / "moments.npz", originals.CONDITIONS),
    ),
    "parts of an evaluation": Reader(originals.moments, {"*": by.of_zip}, _parts, raises=(), share=2),
    "settings of a run": Reader(originals.run_folder, {"config.json": by.of_json}, _run_settings),
    "metrics of a run": Reader(
        originals.run_folder,
        {"metrics.jsonl": by.of_lines},
        lambda f: logging.read_jsonl(f / "metrics.jsonl"),
        raises=(),
        share=2,
    ),
    "evaluation of a run": Reader(
        lambda: {"evaluation.json": originals.run_folder()["evaluations/ddim-10/evaluation.json"]},
        {"*": by.of_json},
        evaluation.is_done,
        raises=(),
        share=1,
    ),
    "report of a run": Reader(originals.run_folder, {"*.json": by.of_json, "*.jsonl": by.of_lines}, reports.write_run),
    "report of a sweep": Reader(
        originals.sweep_folder,
        {"sweep.json": by.of_json, "*/evaluation.json": by.of_json, "cells/*.json": by.of_json},
        _report_of_sweep,
    ),
    "sweep.json": Reader(
        lambda: {"sweep.json": originals.sweep_folder()["sweep.json"]},
        {"*": by.of_json},
        sweep_folders.read_sweep,
        share=1,
    ),
    "checkpoint": Reader(originals.checkpoints, {"checkpoints/2/*": by.at_random}, _restored, share=1),
    "checkpoint, right digests": Reader(
        originals.checkpoints,
        {"checkpoints/2/*METADATA": by.of_json, "checkpoints/2/run/*": by.of_json, "checkpoints/2/*": by.at_random},
        _with_right_digests,
        share=1,
    ),
    "parameters of a checkpoint": Reader(
        originals.checkpoints,
        {"checkpoints/2/*METADATA": by.of_json, "checkpoints/2/*": by.at_random},
        checkpoint.parameters,
        raises=(),
        share=1,
    ),
    "digests": Reader(
        originals.checkpoints,
        {"checkpoints/2/sha256.json": by.of_json},
        lambda f: digests.check_digests(f / "checkpoints" / "2"),
        raises=(ValueError,),
        share=1,
    ),
}

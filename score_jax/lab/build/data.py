"""The data that the settings name, and how they are brought into the range of training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import data as datasets
from score_jax.data import Source, toy
from score_jax.distributions import GaussianMixture
from score_jax.lab import own
from score_jax.lab.build import names
from score_jax.lab.build.kinds import OWN
from score_jax.lab.experiment import Data, Modes, Preparation
from score_jax.lab.sharing import Shared
from score_jax.training.step import Augment
from score_jax.types import InputError, is_on


def _with_test_split(reader: Callable[..., Source], **options: Any) -> tuple[Source, Source]:
    return reader(split="train", **options), reader(split="test", **options)


def _images(options: ConfigDict) -> tuple[Source, Source]:
    root = options.root or None
    split_own = partial(datasets.hold_out, holdout=options.holdout)
    table: dict[str, Callable[[], tuple[Source, Source]]] = {
        "digits": lambda: _with_test_split(datasets.digits),
        "mnist": lambda: _with_test_split(datasets.mnist, root=root),
        "fashion_mnist": lambda: _with_test_split(datasets.fashion_mnist, root=root),
        "cifar10": lambda: _with_test_split(datasets.cifar10, root=root),
        "tfds": lambda: split_own(datasets.tfds.load(options.tfds, data_dir=root, x_key=options.tfds_feature)),
        "array": lambda: split_own(datasets.array_file(_root(options))),
        "folder": lambda: split_own(
            datasets.folder(
                _root(options),
                size=options.size or None,
                crop=options.crop or None,
                channels=options.channels,
                convert=options.convert,
                background=options.background,
                labels=options.labels,
            )
        ),
    }
    if own.is_own(options.name):
        given = {**options.get("options", {})}
        table[options.name] = lambda: split_own(own.made("data.name", options.name, OWN["data"], given, root=root))
    names.choose("data", options.name, dict.fromkeys([*toy.TOYS, *table]))
    train, held_out = table[options.name]()
    if options.name != "folder" and (options.crop or options.size):
        brought = partial(datasets.resized, size=options.size or options.crop, crop=options.crop or None)
        return brought(train), brought(held_out)
    return train, held_out


def _root(options: ConfigDict) -> str:
    if not options.root:
        raise InputError(f"data {options.name!r} is read from a path of yours: give --config.data.root=PATH")
    return options.root


def data(config: ConfigDict, given: Source | None = None) -> Data:
    """Returns the data that `config.data` names, or those given, of which `data.holdout` are held out.

    Labels are in the training data only where the model is to be conditional.
    """
    options, modes, oracle = config.data, None, None
    if given is not None:
        labelled, held_out = datasets.hold_out(given, options.holdout)
    elif options.name in toy.TOYS:
        labelled, held_out = _points(options, config.seed)
        oracle = GaussianMixture(*(jnp.asarray(v) for v in toy.components(options.name)))
        modes = _modes(options.name)
    else:
        labelled, held_out = _images(options)
    if options.labels and not labelled.num_classes:
        raise InputError(f"data {options.name!r} has no labels: set --config.data.labels=False")
    train = labelled if options.labels else datasets.unlabelled(labelled)
    return Data(options.name, train, held_out, labelled, oracle, modes, options.attribution)


def shared_data(config: ConfigDict, shared: Shared) -> Data:
    """Returns the data that `config.data` names, read once for all experiments of the same; toys by their seed."""
    drawn_by = {"seed": config.seed} if config.data.name in toy.TOYS else {}
    return shared.once("data", {**config.data.to_dict(), **drawn_by}, lambda: data(config))


def _points(options: ConfigDict, seed: int) -> tuple[Source, Source]:
    return toy.toy(options.name, n=options.n, seed=seed), toy.toy(options.name, n=options.n, seed=seed + 1)


def _modes(name: str) -> Modes | None:
    modes = toy.modes(name)
    return None if modes is None else Modes(modes, np.bincount(toy.groups(name), toy.components(name).weights))


def value_range(config: ConfigDict) -> tuple[float, float]:
    """Returns the interval [low, high] that images are mapped onto."""
    interval = config.data.value_range
    numbers = all(isinstance(end, int | float) for end in interval)
    if len(interval) != 2 or not numbers or not interval[0] < interval[1]:
        raise InputError(f"data.value_range is two increasing numbers such as (-1.0, 1.0), got {tuple(interval)}")
    return float(interval[0]), float(interval[1])


def augmentation(config: ConfigDict, source: Source) -> Augment | None:
    """Returns `(key, x0) -> (x0, numbers)` of training, or None.

    Raises:
      InputError: of anything but images.
    """
    probability = config.data.augment
    if not is_on(probability):
        return None
    if not source.grey_levels or len(source.shape) != 3:
        raise InputError(
            f"data.augment is of images, and examples of {config.data.name!r} are {source.shape}: set "
            "--config.data.augment=0"
        )
    return partial(datasets.augmentation.augment, probability=probability)


def preparation(config: ConfigDict, source: Source) -> Preparation:
    """Returns `(key, stored x) -> x0`: dequantization, flips and value range."""
    options = config.data
    return Preparation(source.grey_levels, options.dequantize, options.flip, value_range(config))

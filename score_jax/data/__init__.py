"""Data: random-access sources, exact toys, real images, and a loader whose position can be saved.

`toy`, `tfds`, `images` and `augmentation` are reached by module: `toy.components("moons")`, `tfds.load("cifar10")`,
`images.prepare`, `augmentation.augment`.
"""

from score_jax.data import augmentation, images, tfds, toy
from score_jax.data.array_files import array_file
from score_jax.data.cifar import cifar10
from score_jax.data.embedded import digits
from score_jax.data.idx import fashion_mnist, mnist, read_idx
from score_jax.data.image_folders import folder, picture_files, read_picture
from score_jax.data.loader import Loader, batches
from score_jax.data.resize import center_crop, resize, resized
from score_jax.data.source import (
    ArraySource,
    Source,
    View,
    content_hash,
    hold_out,
    in_memory,
    occurring,
    random_rows,
    some_examples,
    subset,
    unlabelled,
)

__all__ = [
    "ArraySource",
    "Loader",
    "Source",
    "View",
    "array_file",
    "augmentation",
    "batches",
    "center_crop",
    "cifar10",
    "content_hash",
    "digits",
    "fashion_mnist",
    "folder",
    "hold_out",
    "images",
    "in_memory",
    "mnist",
    "occurring",
    "picture_files",
    "random_rows",
    "read_idx",
    "read_picture",
    "resize",
    "resized",
    "some_examples",
    "subset",
    "tfds",
    "toy",
    "unlabelled",
]

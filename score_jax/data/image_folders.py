"""Your own data: a folder of images.

The header of every file is read before anything else, so that an image of another size or kind is found out now and
not in mid-training; pixels are decoded when they are asked for. Hidden files and folders, and what macOS and file
servers leave beside images, are no data. Links are followed, each folder once a class, whatever loops they make.

Images have 8 bits a channel. Deeper grey ones (scans, microscopy, depth) are refused: which part of their range 8 bits
should show is a choice that belongs to who knows them.
"""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_jax.data import bounded
from score_jax.data.labels import Classes, classes
from score_jax.data.resize import fit, pair
from score_jax.data.source import View
from score_jax.types import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_NO_DATA = ("__MACOSX", "@eaDir")
_MODES = {1: "L", 3: "RGB"}
_OPAQUE, _TRANSPARENT = ("1", "L", "P", "RGB", "CMYK", "YCbCr"), ("LA", "PA", "RGBA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for images that lie on their side
_BYTES = 4  # that Pillow takes for a pixel of colour
_THREADS = 4  # that read headers: disks answer several questions at once


_CONVERT = "convert=True brings all to it (--config.data.convert=True), what is transparent on --config.data.background"


class _Form(NamedTuple):
    """What all images are brought to, in this order: laid on a background, cut to `crop`, scaled to `size`.

    Images of another kind are converted, or refused with the words of `cure`.
    """

    channels: int
    convert: bool
    background: tuple[int, ...]
    crop: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    cure: str = _CONVERT


def folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    channels: int = 3,
    convert: bool = False,
    background: str = "white",
    labels: bool = False,
) -> View:
    """Returns the images of a folder and its sub-folders, in the order of their names, read when asked for.

    Args:
      path: holds png, jpg, webp, bmp, gif and tif (of both the first frame), ppm or pgm files.
      size: height and width (one number for both): scaled to cover it, then cut to it; None expects equal sizes.
      crop: cut this much out of the middle first, as CelebA's faces are (140 of 218×178 pixels); None takes all.
      channels: 1 (grey) or 3 (colour).
      convert: turn files of other channel counts into `channels`; off makes them an error.
      background: colour on which `convert` lays transparent images, by name or as "#808080".
      labels: take the sub-folder an image is in as its class, numbered and called by name.
    """
    root = Path(path)
    if channels not in _MODES:
        raise InputError(f"channels={channels}; expected 1 (grey) or 3 (colour)")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder of images")
    paths = _find(root, by_class=labels)
    if not paths:
        raise InputError(
            f"{root}: holds no image; expected {', '.join(_SUFFIXES)} files in it or its sub-folders, not hidden"
        )
    cut, scaled = (pair(sides) if sides else None for sides in (crop, size))
    form = _Form(channels, convert, _colour(background), cut, scaled)
    label, names = _classes(root, paths) if labels else (None, ())
    shape = (*_common_size(paths, form), channels)

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        x = np.empty((len(rows), *shape), np.uint8)
        for i, row in enumerate(rows):
            x[i] = _read(paths[row], form, shape)
        return {"x": x} if label is None else {"x": x, "label": label[rows]}

    return View(len(paths), shape, 256, gather, names, label)


def picture_files(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the image that a path names, or those of a folder and its sub-folders, ascending by name.

    Raises:
      InputError: where there is none.
    """
    named = Path(path)
    found = _find(named, by_class=False) if named.is_dir() else [named]
    if not found or not found[0].is_file():
        expected = f"holds no image ({', '.join(_SUFFIXES)})" if named.is_dir() else "no such file or folder"
        raise InputError(f"{named}: {expected}; expected a picture, or a folder of some")
    return found


def read_picture(path: str | os.PathLike[str], *, channels: int, convert: bool = False) -> np.ndarray:
    """Reads one picture, of any size, as `(H, W, channels)` uint8.

    Args:
      path: the file.
      channels: 1 (grey) or 3 (colour).
      convert: turn another kind into that, on white; off makes it an error.

    Raises:
      InputError: for a file that is no picture, or damaged, or of another kind.
    """
    form = _Form(channels, convert, (255, 255, 255), cure="save it as such")
    size = _head(Path(path), form)
    if isinstance(size, InputError):
        raise size
    return _read(Path(path), form, (*size, channels))


def _find(root: Path, *, by_class: bool) -> list[Path]:
    """Returns the images below `root`, ascending by name; a folder that links lead to again counts once (a class)."""
    above = {_identity(place) for place in (root.resolve(), *root.resolve().parents)}
    seen: set[tuple[str, tuple[int, int]]] = set()
    found, folders = [], [root]
    while folders:
        for path in _entries(folders.pop()):
            if path.is_dir():
                place = (path.relative_to(root).parts[0] if by_class else "", _identity(path))
                if place[1] not in above and place not in seen:
                    seen.add(place)
                    folders.append(path)
            elif path.suffix.lower() in _SUFFIXES:
                if not path.is_file():
                    raise InputError(f"{path}: is a link to nothing; mend or remove it")
                found.append(path)
    return sorted(found)


def _entries(place: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(place), reverse=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from error
    return [place / name for name in names if not name.startswith(".") and name not in _NO_DATA]


def _identity(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _classes(root: Path, paths: Sequence[Path]) -> Classes:
    stray = [path for path in paths if path.parent == root]
    if stray:
        raise InputError(f"{stray[0]}: lies in no sub-folder; with labels, every image lies in the folder of its class")
    return classes(np.array([path.relative_to(root).parts[0] for path in paths]), len(paths))


def _colour(name: str) -> tuple[int, ...]:
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(name)[:3]
    except (ValueError, AttributeError) as error:
        raise InputError(f"background={name!r}; expected a colour such as 'white' or '#808080'") from error


# Headers


def _common_size(paths: Sequence[Path], form: _Form) -> tuple[int, int]:
    """Returns height and width of all that is read of the images, or raises InputError for the first odd one."""
    from PIL import Image

    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused
        heads = list(pool.map(lambda path: _head(path, form), paths))
    refused = [head for head in heads if isinstance(head, InputError)]
    if refused:
        more = f"; {len(refused) - 1} more are refused too" if len(refused) > 1 else ""
        raise InputError(f"{refused[0]}{more}") from refused[0]
    sizes = [form.size or form.crop or head for head in heads if not isinstance(head, InputError)]
    (common, n), *others = Counter(sizes).most_common()
    if others:
        odd = next(i for i, size in enumerate(sizes) if size != common)
        smallest = min(min(size) for size in sizes)
        raise InputError(
            f"{paths[odd]}: is {_by(sizes[odd])}, and {n} of {len(paths)} images are {_by(common)}: bring all to one "
            f"size, --config.data.size={smallest} (or height and width), or remove the odd ones"
        )
    return common


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _head(path: Path, form: _Form) -> tuple[int, int] | InputError:
    """Returns height and width, upright, or what is wrong with an image, by its header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > (Image.MAX_IMAGE_PIXELS or 2**27):
                raise InputError(f"{path}: claims {height}x{width} pixels, more than images have: remove it")
            held = path.stat().st_size
            if _BYTES * width * height > bounded.most(held):
                claims = f"claims {height}x{width} pixels in a file of {held} bytes"
                raise InputError(f"{path}: {claims}, more than images have: save it in pieces, or as an array")
            _require_mode(path, image, form)
            height, width = (width, height) if _on_its_side(image) else (height, width)
            _require_crop(path, height, width, form)
            return height, width
    except InputError as error:
        return error
    except Exception as error:  # Pillow's decoders fail on damaged files in any way
        return _unreadable(path, error)


def _on_its_side(image: Any) -> bool:
    """Whether height and width of the header change places when the image is turned upright."""
    # Of TIFF, Pillow has turned the header already. A PNG with EXIF behind its pixels would be decoded to look for it.
    told = image.format != "PNG" or {"exif", "XML:com.adobe.xmp"} & image.info.keys()
    return bool(told) and image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED


def _require_mode(path: Path, image: Any, form: _Form) -> None:
    """Raises InputError for an image of a kind that isn't wanted, or that cannot become one that is."""
    wanted, transparent = _MODES[form.channels], image.mode in _TRANSPARENT or "transparency" in image.info
    if image.mode in _DEEP:
        raise InputError(
            f"{path}: has more than 8 bits of grey (mode {image.mode}), expected 8: save the part of its range that "
            "matters as 8 bits, or all images as floating-point numbers in one array (data.name=array)"
        )
    if image.mode == wanted and not transparent:
        return
    kind = f"{image.mode} with transparent parts" if transparent else image.mode
    if image.mode not in _OPAQUE + _TRANSPARENT:
        raise InputError(f"{path}: has mode {kind}, expected {wanted}: save it as such")
    if not form.convert:
        raise InputError(f"{path}: has mode {kind}, expected {wanted} (channels={form.channels}); {form.cure}")


def _require_crop(path: Path, height: int, width: int, form: _Form) -> None:
    if form.crop and (height < form.crop[0] or width < form.crop[1]):
        raise InputError(f"{path}: a crop of {_by(form.crop)} doesn't fit images of {height}x{width}")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable image ({bounded.reason(error)}); mend or remove it")


# Pixels


def _read(path: Path, form: _Form, shape: tuple[int, ...]) -> np.ndarray:
    """Reads one image as `(H, W, channels)` uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            _require_mode(path, image, form)
            upright = _flat(ImageOps.exif_transpose(image), form)
    except InputError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    _require_crop(path, upright.height, upright.width, form)
    if form.crop:
        height, width = form.crop
        top, left = (upright.height - height) // 2, (upright.width - width) // 2
        upright = upright.crop((left, top, left + width, top + height))
    x = np.asarray(fit(upright, form.size) if form.size else upright)
    if x.shape[:2] != shape[:2]:
        raise InputError(f"{path}: is {_by(x.shape)} and was {_by(shape)} when training began; mend or remove it")
    return x.reshape(shape)


def _flat(image: Any, form: _Form) -> Any:
    """Brings an image to the wanted mode: transparent parts on the background, colours to grey by their luminance."""
    from PIL import Image

    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, form.background), image.convert("RGBA"))
    wanted = _MODES[form.channels]
    image.load()
    return image if image.mode == wanted else image.convert("RGB").convert(wanted)

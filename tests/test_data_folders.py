"""Folders of images: what counts as one, of which kinds, and that odd ones are found by their headers."""

import os
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from score_jax.data import folder, in_memory
from tests.helpers import refused

RNG = np.random.default_rng(0)


def colours(h=6, w=6):
    return RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)


def write(path, x=None, mode=None, **options):
    """Writes an image, making its folder; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x = colours() if x is None else x
    image = Image.fromarray(x)
    (image.convert(mode) if mode else image).save(path, **options)
    return x


def first(root, **options):
    return folder(root, **options).batch(np.array([0]))["x"][0]


def test_a_folder_is_read_in_the_order_of_names_with_sub_folders_as_classes(tmp_path):
    content = {name: write(tmp_path / name) for name in ("cat/b.png", "ant/x.PNG", "dog/1.bmp")}
    content["cat/z.webp"] = write(tmp_path / "cat/z.webp", lossless=True)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    source = folder(tmp_path, labels=True)
    order = ["ant/x.PNG", "cat/b.png", "cat/z.webp", "dog/1.bmp"]
    batch = source.batch(np.array([3, 0, 2, 1]))
    np.testing.assert_array_equal(batch["x"], np.stack([content[order[i]] for i in (3, 0, 2, 1)]))
    np.testing.assert_array_equal(batch["label"], [2, 0, 1, 1])
    np.testing.assert_array_equal(source.label, [0, 1, 1, 2])
    assert source.names == ("ant", "cat", "dog") and source.shape == (6, 6, 3) and source.grey_levels == 256
    assert "label" not in folder(tmp_path).batch(np.array([0]))
    assert source.batch(np.array([], int))["x"].shape == (0, 6, 6, 3)


# What counts


def test_hidden_files_and_folders_and_what_systems_leave_are_no_data(tmp_path):
    root = tmp_path / ".cache" / "faces"  # that the folder itself is hidden doesn't matter
    for name in ("cat/1.png", "dog/1.png"):
        write(root / name)
    for name in (".ipynb_checkpoints/1.png", "cat/.ipynb_checkpoints/1.png", "dog/.hidden.png", "cat/@eaDir/t.png"):
        write(root / name)
    for name in ("cat/._1.png", "__MACOSX/cat/1.png", "dog/__MACOSX/._1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    source = folder(root, labels=True)
    assert (len(source), source.names) == (2, ("cat", "dog"))
    assert len(folder(root)) == 2


def test_links_are_followed_and_loops_end(tmp_path):
    root, store = tmp_path / "data", tmp_path / "store"
    for name in ("cat/1.png", "cat/2.png", "sub/deep/3.png"):
        write(store / name)
    write(root / "dog/4.png")
    (root / "cat").symlink_to(store / "cat")  # a class kept elsewhere
    (root / "dog/linked.png").symlink_to(store / "sub/deep/3.png")
    (root / "dog/more").symlink_to(store / "sub")
    for place, target in {
        "dog/self": root / "dog",
        "dog/up": root,
        "dog/above": tmp_path,
        "here": root,
        "loop": root / "loop",
        "dog/again": store / "sub",
    }.items():
        (root / place).symlink_to(target)
    source = folder(root, labels=True)
    assert source.names == ("cat", "dog")
    # dog: its own, the linked one, and the folder that two links lead to once
    np.testing.assert_array_equal(np.bincount(source.label), [2, 3])
    assert len(folder(root)) == 5


def test_links_to_one_another_take_no_time(tmp_path):
    """Twelve folders of links to all twelve have more paths than could ever be walked."""
    places = [tmp_path / f"{i:02}" for i in range(12)]
    for place in places:
        write(place / "x.png")
        for other in places:
            (place / other.name).symlink_to(other)
    assert len(folder(tmp_path)) == 12
    assert len(folder(tmp_path, labels=True)) == 144  # every class holds what its links lead to, once


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path):
    write(tmp_path / "a/x.png")
    (tmp_path / "b").mkdir(mode=0)
    refused("b: cannot be read", folder, tmp_path)


def test_folders_that_are_no_data_set_are_one_clear_line(tmp_path):
    refused("empty: no such folder", folder, tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    refused("empty: holds no image; expected .png", folder, tmp_path / "empty")
    write(tmp_path / "a.png")
    refused("a.png: lies in no sub-folder", folder, tmp_path, labels=True)
    refused("channels=2; expected 1", folder, tmp_path, channels=2)
    refused(r"image size \(0, 4\)", folder, tmp_path, size=(0, 4))
    refused("image size 2.5", folder, tmp_path, size=2.5)
    refused("image size 8x8", folder, tmp_path, size="8x8")
    refused(r"image size \(1, 2, 3\)", folder, tmp_path, size=(1, 2, 3))
    refused("background='no colour'; expected a colour", folder, tmp_path, background="no colour")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    refused("b.png: is a link to nothing", folder, tmp_path)


# Kinds of images


def test_images_are_scaled_and_cut_when_read(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = [10, 20, 30]
    write(tmp_path / "a.png", wide)
    write(tmp_path / "b.png", np.full((4, 4, 3), 7, np.uint8))
    x = in_memory(folder(tmp_path, size=8)).x
    np.testing.assert_array_equal(x[0], np.broadcast_to(np.uint8([10, 20, 30]), (8, 8, 3)))
    np.testing.assert_array_equal(x[1], np.full((8, 8, 3), 7))
    assert folder(tmp_path, size=(2, 5)).batch(np.arange(2))["x"].shape == (2, 2, 5, 3)


def test_images_of_any_size_are_cut_to_one(tmp_path):
    a, b = write(tmp_path / "a.png", colours(5, 9)), write(tmp_path / "b.png", colours(8, 4))
    x = folder(tmp_path, crop=(4, 3)).batch(np.arange(2))["x"]
    np.testing.assert_array_equal(x, np.stack([a[0:4, 3:6], b[2:6, 0:3]]))  # odd margins are cut at bottom and right
    refused("b.png: a crop of 4x5 doesn't fit images of 8x4", folder, tmp_path, crop=(4, 5))


GREY = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
HALF = np.dstack([np.full((2, 2, 3), 200, np.uint8), np.uint8([[0, 255], [51, 204]])])  # alpha 0, 1, 0.2, 0.8


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "x.bmp", "x.webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bit_grey_levels_stay_what_they_are(tmp_path, name, channels):
    write(tmp_path / name, GREY, **({"lossless": True} if name == "x.webp" else {}))
    x = first(tmp_path, channels=channels, convert=True)
    np.testing.assert_array_equal(x, np.repeat(GREY[..., None], channels, -1))


def test_grey_images_are_read_as_one_channel_and_others_only_on_request(tmp_path):
    grey = write(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(first(tmp_path, channels=1)[..., 0], grey)
    refused(r"a.png: has mode L, expected RGB \(channels=3\); convert=True.*data\.convert=True", folder, tmp_path)
    write(tmp_path / "b.png", colours(16, 16))
    refused("b.png: has mode RGB, expected L", folder, tmp_path, channels=1)  # before it is asked for


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "LA", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_kinds_are_converted_on_request(tmp_path, mode, channels):
    colour = np.full((4, 4, 3), 255, np.uint8) * np.uint8([[[0]], [[1]], [[1]], [[0]]])
    write(tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}", colour, mode)
    refused(f"x.*: has mode {mode}", folder, tmp_path, channels=channels)
    np.testing.assert_array_equal(first(tmp_path, channels=channels, convert=True), colour[..., :channels])


@pytest.mark.parametrize("background, expected", [("white", [255, 200, 244, 211]), ("#000000", [0, 200, 40, 160])])
@pytest.mark.parametrize("channels, mode", [(1, "RGBA"), (3, "RGBA"), (1, "LA"), (3, "LA")])
def test_transparent_parts_are_laid_on_the_background(tmp_path, background, expected, channels, mode):
    write(tmp_path / "x.png", HALF, mode)
    x = first(tmp_path, channels=channels, convert=True, background=background)
    np.testing.assert_allclose(x, np.reshape(expected, (2, 2, 1)).repeat(channels, -1), atol=1)  # of rounding
    refused(f"x.png: has mode {mode} with transparent parts", folder, tmp_path, channels=channels)


@pytest.mark.parametrize("name, mode", [("x.png", "RGB"), ("x.png", "L"), ("x.png", "P"), ("x.gif", "P")])
def test_a_transparent_colour_is_transparency_too(tmp_path, name, mode):
    black, stored = np.zeros((4, 4, 3), np.uint8), {"RGB": (0, 0, 0)}.get(mode, 0)
    black[2:] = 255
    write(tmp_path / name, black, mode, transparency=stored)
    refused("with transparent parts", folder, tmp_path, channels=1 if mode == "L" else 3)
    x = first(tmp_path, convert=True, background="#0000ff")
    assert {tuple(pixel) for pixel in x[:2].reshape(-1, 3)} <= {(0, 0, 255), (0, 0, 0)} and (x[2:] == 255).all()
    if mode != "P":  # whose palette is Pillow's choice
        assert (x[:2] == [0, 0, 255]).all()


RAMP = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
DEEP = {
    "16.png": RAMP,
    "16.tif": RAMP,
    "16.pgm": RAMP,
    "32.tif": RAMP.astype(np.int32),
    "float.tif": (RAMP / 65280).astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels, convert", [(1, False), (1, True), (3, True)])
def test_images_of_more_than_eight_bits_are_refused_rather_than_clipped(tmp_path, name, channels, convert):
    write(tmp_path / name, DEEP[name])
    refused(
        f"{name}: has more than 8 bits of grey.*data.name=array", folder, tmp_path, channels=channels, convert=convert
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_upright(tmp_path, name, orientation):
    x = np.zeros((4, 8, 3), np.uint8)
    x[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path / name, x, exif=exif)
    found = first(tmp_path)
    turned = {1: x, 3: x[::-1, ::-1], 6: np.rot90(x, -1), 8: np.rot90(x)}[orientation]
    assert folder(tmp_path).shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < 10  # of JPEG


# Headers


def test_an_odd_file_is_found_before_any_image_is_asked_for(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i:02}.png", colours(8 + (i in (20, 30)), 7))
    message = r"20\.png: is 9x7, and 38 of 40 images are 8x7: .*--config\.data\.size=7 \(or height and width\)"
    refused(message, folder, tmp_path)
    assert folder(tmp_path, size=7).shape == (7, 7, 3)
    write(tmp_path / "05.png", GREY)
    write(tmp_path / "06.png", GREY)
    refused(r"05\.png: has mode L, .*; 1 more are refused too", folder, tmp_path, size=7)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(9), b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_found_at_once(tmp_path, content):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    refused("b.png: not a readable image .*; mend or remove it", folder, tmp_path)


def test_an_image_that_claims_more_pixels_than_it_has_is_refused(tmp_path):
    write(tmp_path / "a.png")
    whole = bytearray((tmp_path / "a.png").read_bytes())
    for side, message in ((10_000, "claims 10000x10000 pixels"), (100_000, "not a readable image")):
        whole[16:24] = 2 * side.to_bytes(4, "big")
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
        (tmp_path / "a.png").write_bytes(whole)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one line is enough
            refused(f"a.png: {message}", folder, tmp_path)


def test_an_image_that_is_damaged_or_changed_later_is_named(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.png", colours(32, 32))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:-300])  # its header is whole
    source = folder(tmp_path)
    for content in (whole[:-300], whole[:40], b"", b"hello", whole[:200] + bytes(100) + whole[300:]):
        (tmp_path / "b.png").write_bytes(content)
        refused("b.png: not a readable image .*; mend or remove it", source.batch, np.arange(3))
    source.batch(np.array([0, 2]))
    write(tmp_path / "b.png", colours(32, 31))
    refused("b.png: is 32x31 and was 32x32 when training began; mend or remove it", source.batch, np.arange(3))
    write(tmp_path / "b.png", GREY)
    refused("b.png: has mode L", source.batch, np.arange(3))
    (tmp_path / "b.png").unlink()
    refused("b.png: not a readable image", source.batch, np.arange(3))

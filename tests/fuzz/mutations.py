"""What is done to the bytes of a good file. A mutation is `(rng, content) -> content`, the same for the same rng.

`at_random` knows no format: bits, spans, lengths, magic numbers and digits. The others take a file apart, change a part
of it, and put it together again, checksums and lengths included, so that what is behind these is reached too.
"""

import copy
import gzip
import io
import json
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

Mutation = Callable[[Generator, bytes], bytes]

CANARY = "score_jax_canary"  # what malicious files try to make a file of, or to call
_COMMAND = f"touch {CANARY}"
_MAGICS = [
    *[b"\x93NUMPY\x01\0", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x04", b"\x1f\x8b\x08\0", b"BZh9"],
    *[
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"II*\0",
        b"RIFF",
        b"BM",
        b"P6\n",
        b"{",
        b"[",
        b"\0\0\x08\x03",
    ],
    *[
        b"\x89HDF\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<html>",
        b"\xfd7zXZ\0",
        b"#!/bin/sh\n",
        b"\x00\x00\x00\x0cjP  ",
    ],
]
_LENGTHS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
_DIGITS = [b"0", b"1", b"-1", b"255", b"65536", b"2147483648", b"9223372036854775807", b"9" * 30, b"1e308", b"0x10"]


def _one(rng: Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _place(rng: Generator, n: int) -> int:
    """A place among n bytes: often near the ends, where headers, pickles and directories are."""
    near = int(min(n, 40_000) * rng.random() ** 2)
    return int(_one(rng, [near, near, near, n - near - 1, int(n * rng.random())])) if n else 0


def _flip(rng: Generator, data: bytearray) -> None:
    data[_place(rng, len(data))] ^= 1 << int(rng.integers(8))


def _span(rng: Generator, data: bytearray) -> slice:
    at = _place(rng, len(data))
    return slice(at, at + int(2 ** rng.uniform(0, 10)))


def _overwrite(rng: Generator, data: bytearray) -> None:
    span = _span(rng, data)
    data[span] = rng.bytes(len(data[span]))


def _cut_out(rng: Generator, data: bytearray) -> None:
    del data[_span(rng, data)]


def _repeat(rng: Generator, data: bytearray) -> None:
    span = _span(rng, data)
    data[span.start : span.start] = data[span] * int(_one(rng, [1, 1, 1, 20]))


def _cut_off(rng: Generator, data: bytearray) -> None:
    del data[_place(rng, len(data)) :]


def _set_length(rng: Generator, data: bytearray) -> None:
    """Writes a number that lengths are not, of one to eight bytes in either order."""
    at, size = int(min(len(data), 512) * rng.random()), int(_one(rng, [1, 2, 4, 8]))
    number = int(_one(rng, [*_LENGTHS, len(data), len(data) + 1])) % 2 ** (8 * size)
    data[at : at + size] = number.to_bytes(size, _one(rng, ["little", "big"]))


def _swap_magic(rng: Generator, data: bytearray) -> None:
    magic = _one(rng, _MAGICS)
    data[: len(magic)] = magic


def _set_digits(rng: Generator, data: bytearray) -> None:
    """Changes one of the numbers that are written in digits."""
    digits = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if digits:
        at = int(_one(rng, digits))
        data[at : at + 1] = _one(rng, _DIGITS)


_STEPS = [
    _flip,
    _flip,
    _flip,
    _overwrite,
    _cut_out,
    _repeat,
    _cut_off,
    _set_length,
    _set_length,
    _swap_magic,
    _set_digits,
]


def at_random(rng: Generator, content: bytes) -> bytes:
    """Returns the content with one to four places changed."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        _one(rng, _STEPS)(rng, data)
        data = data or bytearray(b"\0")
    return bytes(data)


def either(first: Mutation, second: Mutation, share: float = 0.6) -> Mutation:
    """Returns the mutation that is the first in this share of cases, else the second."""
    return lambda rng, content: (first if rng.random() < share else second)(rng, content)


# Text


def _nested(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


_ODD: list[Any] = [
    *[
        None,
        True,
        -1,
        0,
        1,
        3,
        2**31,
        2**63,
        10**30,
        0.0,
        -0.5,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * 9999,
    ],
    *["os:system", f"{CANARY}:run", "../../etc/passwd", "/etc/passwd", "a\nb\0c\x1b[31m", "\ud800", "none", "12"],
    *[[], {}, [1], [[[]]], {"name": "os:system"}, {"": 1}, [0] * 1000, "${HOME}", "{0.__class__}", "%n"],
]
# Texts that JSON's writer would not make; most put in place of a value.
_RAW = [_nested(100_000, "[", "]"), _nested(100_000, '{"a":', "}"), "9" * 5000, "1" + "0" * 400, "1e9999", "[" * 5000]


def _odd(rng: Generator) -> Any:
    return copy.deepcopy(_one(rng, _ODD))  # what is put in may be changed again


def _holders(value: Any) -> list[Any]:
    """Every object and list in a value, itself first."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(found for part in inner for found in _holders(part))] if isinstance(value, dict | list) else []


def of_value(rng: Generator, value: Any) -> Any:
    """Changes one to three entries of what JSON can hold, in place, and returns it."""
    for _ in range(rng.integers(1, 4)):
        holders = [h for h in _holders(value) if h]
        if not holders:
            return _odd(rng)
        holder = _one(rng, holders)
        key = _one(rng, list(holder)) if isinstance(holder, dict) else int(rng.integers(len(holder)))
        match rng.integers(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(_odd(rng))[:40]] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                holder[str(_odd(rng))[:40]] = _odd(rng)
            case 3:
                holder[key] = [holder[key]]
            case _:
                holder[key] = _odd(rng)
    return value


def _as_json(rng: Generator, content: bytes) -> bytes:
    try:
        value = of_value(rng, json.loads(content))
    except ValueError:  # a folder's file beside those of JSON
        return at_random(rng, content)
    text = json.dumps(value)
    if rng.random() < 0.15:
        quoted = json.dumps("here")
        holders = [h for h in _holders(value) if isinstance(h, dict) and h]
        if holders:
            holder = _one(rng, holders)
            holder[_one(rng, list(holder))] = "here"
        text = json.dumps(value).replace(quoted, _one(rng, _RAW), 1)
    return _one(rng, [text] * 9 + [_one(rng, _RAW), text + text]).encode("utf-8", "surrogatepass")


of_json = either(_as_json, at_random, 0.75)

_ALIASES = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))])
_MERGES = "\n".join(["m0: &m0 {x: 1}", *(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, 60))])
_YAML = [
    f'x: !!python/object/apply:os.system ["{_COMMAND}"]',
    f"x: !!python/object/new:subprocess.Popen [[touch, {CANARY}]]",
    "x: !!python/name:os.system",
    "x: !!python/module:antigravity",
    "x: !!python/object:argparse.Namespace [1, 2]",
    "x: !!python/object:argparse.Namespace {a: *b}",
    "x: &x [*x]",
    "x: !!binary 8J8=",
    "x: !!timestamp 9999-99-99",
    "x: 2001-02-30",
    "x: " + "[" * 3000,
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "<<: *x",
    "<<: [1]",
    "x: 0b" + "1" * 9999,
    "x: " + "9" * 5000,
    "x: 1:" + "59:" * 2000 + "1",
    "%YAML 9.9\n---",
    "--- a\n--- b",
    "\tx: 1",
    _ALIASES,
    _MERGES,
]


def _as_yaml(rng: Generator, content: bytes) -> bytes:
    lines = content.decode().splitlines()
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(lines)))
        odd = json.dumps(_odd(rng)) if rng.random() < 0.5 else _one(rng, _YAML).partition(": ")[2] or "~"
        match rng.integers(4):
            case 0:
                lines.insert(at, _one(rng, _YAML))
            case 1:
                lines[at] = "  " * int(rng.integers(3)) + lines[at].strip()
            case _:
                lines[at] = f"{lines[at].partition(':')[0]}: {odd}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


of_yaml = either(_as_yaml, at_random, 0.75)


def of_lines(rng: Generator, content: bytes) -> bytes:
    """Changes a file with a JSON object on each line: one of them, their order, or bytes."""
    if rng.random() < 0.3:
        return at_random(rng, content)
    lines = content.splitlines()
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(lines)))
        match rng.integers(4):
            case 0:
                lines[at] = _one(rng, [b"", b"null", b"[1]", b"{}", b'{"step": 1e99}', _RAW[0].encode(), b"\xff\0"])
            case 1:
                lines.insert(at, lines[int(rng.integers(len(lines)))])
            case _ if lines[at].startswith(b"{"):
                try:
                    lines[at] = json.dumps(of_value(rng, json.loads(lines[at]))).encode("utf-8", "surrogatepass")
                except (ValueError, RecursionError):
                    lines[at] = b"{}"
    return b"\n".join(lines) + b"\n"


# Pickles

_REDUCE = f"(S'{_COMMAND}'\ntR0".encode()
_POISON = [
    b"cos\nsystem\n" + _REDUCE,
    b"cposix\nsystem\n" + _REDUCE,
    b"c__builtin__\neval\n" + f'(S\'open("{CANARY}", "w")\'\ntR0'.encode(),
    b"cbuiltins\nexec\n" + _REDUCE,
    b"\x8c\x02os\x8c\x06system\x93" + _REDUCE,
    b"(S'touch x'\nios\nsystem\n0",
    b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR0",
    b"cnumpy\nload\n" + f"(S'{CANARY}'\ntR0".encode(),
    b"\x82\x01",
    b"2" * 50,
    b"(" * 50,
    b"l" * 50,
    b"K\x01" + b"q\x00h\x00\x86" * 1000 + b"0",
    b"X\xff\xff\xff\x7f",
    b"\x8d" + b"\xff" * 8,
    b"I" + b"9" * 5000 + b"\n0",
    b"r\xff\xff\xff\xff",
    b"}Nb",
    b"b",
    b"Q",
]


def _as_pickle(rng: Generator, content: bytes) -> bytes:
    places = [at for _, _, at in pickletools.genops(content) if at is not None]
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(_one(rng, places[: max(1, int(len(places) * rng.random()))]))
        match rng.integers(4):
            case 0:
                data[at:at] = _one(rng, _POISON)
            case 1:
                data[at : at + 1] = bytes([_one(rng, _CODES)])
            case 2:
                other = int(_one(rng, places))
                data[at:at] = data[other : other + 8]
            case _:
                _flip(rng, data)
    return bytes(data)


_CODES = [ord(code.code) for code in pickletools.opcodes]
of_pickle = either(_as_pickle, at_random, 0.6)

# Archives


def _entry(rng: Generator, name: str, content: bytes) -> bytes:
    if name.endswith(".npy"):
        return of_npy(rng, content)
    if name.endswith(".pkl"):
        return of_pickle(rng, content)
    return at_random(rng, content)


_NAMES = ["../../out", "/tmp/out", "a" * 300, "", "x\0y", "data.pkl", "archive/data.pkl", "x.npy", "..\\out", "é\n"]


def _as_zip(rng: Generator, content: bytes) -> bytes:
    """Changes an entry, its name or its compression; sums and directory are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = int(rng.integers(len(entries)))
    at = 0 if rng.random() < 0.5 else at
    name, held = entries[at]
    kind = zipfile.ZIP_STORED
    match rng.integers(10):
        case 0:
            entries[at] = (_one(rng, _NAMES), held)
        case 1:
            entries.append((name, _entry(rng, name, held)))
        case 2:
            entries.pop(at)
        case 3:
            kind = _one(rng, [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        case 4:
            entries[at] = (name, held + bytes(int(2 ** rng.uniform(0, 22))))
            kind = zipfile.ZIP_DEFLATED
        case _:
            entries[at] = (name, _entry(rng, name, held))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as archive:
        for entry, bytes_of in entries:
            info = zipfile.ZipInfo("x", (2020, 1, 1, 0, 0, 0))  # whose constructor would mend the name
            info.filename, info.orig_filename, info.compress_type = entry, entry, kind
            archive.writestr(info, bytes_of)
    return made.getvalue()


def _zip_fields(rng: Generator, content: bytes) -> bytes:
    """Changes a number of an entry's header, of the directory, or of its end."""
    signature, size = _one(rng, [(b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22)])
    places = [i for i in range(len(content)) if content.startswith(signature, i)] if len(content) < 10**5 else []
    at = _one(rng, places) if places else content.rfind(signature)
    data = bytearray(content)
    field, width = at + int(rng.integers(4, size)), int(_one(rng, [2, 4]))
    data[field : field + width] = (int(_one(rng, _LENGTHS)) % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data)


of_zip = either(_as_zip, either(_zip_fields, at_random, 0.5), 0.65)


def of_gzip(inner: Mutation) -> Mutation:
    """Changes what a gzip stream holds, or its own bytes."""

    def mutate(rng: Generator, content: bytes) -> bytes:
        if rng.random() < 0.35:
            return at_random(rng, content)
        held = inner(rng, gzip.decompress(content))
        bomb = bytes(2**22) if rng.random() < 0.03 else b""
        return gzip.compress(held + bomb, 1, mtime=0)

    return mutate


def _as_tar(rng: Generator, content: bytes) -> bytes:
    """Changes members: contents, names, sizes, types."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive, tarfile.open(fileobj=made, mode="w") as changed:
        members = archive.getmembers()
        odd = int(rng.integers(len(members)))
        for place, member in enumerate(members):
            held = archive.extractfile(member)
            bytes_of = held.read() if held else b""
            if place == odd:
                match rng.integers(5):
                    case 0:
                        member.name = _one(rng, ["../../out", "/tmp/out", "x" * 300, "data_batch_1"])
                    case 1:
                        member.type = _one(
                            rng, [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
                        )
                        member.linkname = _one(rng, ["/etc/passwd", "../x", member.name])
                    case 2:
                        bytes_of = b""
                    case 3:
                        member.pax_headers = {"size": str(_one(rng, _LENGTHS)), "path": "x" * 50}
                    case _:
                        bytes_of = _entry(rng, f"{member.name}.pkl" if bytes_of[:1] == b"\x80" else "", bytes_of)
            member.size = len(bytes_of)
            changed.addfile(member, io.BytesIO(bytes_of))
    data = bytearray(made.getvalue())
    if rng.random() < 0.2:
        _tar_header(rng, data)
    return bytes(data)


def _tar_header(rng: Generator, data: bytearray) -> None:
    """Changes the header of the first member, with the right sum."""
    at = int(rng.integers(500))
    data[at : at + 4] = _one(rng, [b"7777", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"0000", b"    ", b"\0\0\0\0"])[
        : 512 - at
    ]
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])


of_tar = either(_as_tar, at_random, 0.7)

# Arrays

_DESCRIPTIONS = [
    *["|O", "<f8", ">f4", "<c16", "|V8", "<U1000000", "<U0", "|S0", "<M8[ns]", "|b1", "<f2", "<i8", "", "O", "f4,f4"],
    *[[("a", "<f4")], [("a", "|O")], ("<f4", (2,)), None, 7, "x" * 99, "<f4\n", "|V0", "=f4"],
]
_SHAPES = [
    *[
        (),
        (0,),
        (1,),
        (10**9,),
        (2**62, 2),
        (2**63,),
        (-1,),
        (-4, -3),
        (0, 2**60),
        (1,) * 33,
        (1,) * 70,
        (True, 2),
        (2.0,),
    ],
    *[[3, 4], None, 3, "3", (3, 4), (4, 3), (6, 2)],
]


def _as_npy(rng: Generator, content: bytes) -> bytes:
    """Writes another header in front of the same numbers."""
    (length,) = struct.unpack("<H", content[8:10])
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (3, 4)}
    match rng.integers(5):
        case 0:
            header["descr"] = _one(rng, _DESCRIPTIONS)
        case 1 | 2:
            header["shape"] = _one(rng, _SHAPES)
        case 3:
            header["fortran_order"] = _one(rng, [True, 1, "yes", None])
        case _:
            header.pop(_one(rng, list(header)))
    text = _one(rng, [repr(header)] * 9 + ["[" * 9000, f"__import__('os').system('{_COMMAND}')", "{" + "'a':" * 500])
    version = int(_one(rng, [1, 1, 1, 2, 3, 4]))
    body = text.encode() + b"\n"
    start = struct.pack("<H", len(body)) if version == 1 else struct.pack("<I", len(body))
    return b"\x93NUMPY" + bytes([version, 0]) + start + body + content[10 + length :]


of_npy = either(_as_npy, at_random, 0.5)


def of_idx(rng: Generator, content: bytes) -> bytes:
    """Changes a size or the type of an IDX file, or its bytes."""
    if rng.random() < 0.5:
        return at_random(rng, content)
    data = bytearray(content)
    if rng.random() < 0.5:
        data[2 + int(rng.integers(2))] = int(rng.integers(256))
    else:
        at = 4 + 4 * int(rng.integers(data[3]))
        data[at : at + 4] = struct.pack(">I", int(_one(rng, _LENGTHS)) % 2**32)
    return bytes(data)


def _as_safetensors(rng: Generator, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    changed = of_json(rng, header)
    declared = len(changed) if rng.random() < 0.9 else int(_one(rng, _LENGTHS))
    return struct.pack("<Q", declared) + changed + content[8 + length :]


of_safetensors = either(_as_safetensors, at_random, 0.65)

# Images


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _as_png(rng: Generator, content: bytes) -> bytes:
    """Changes chunks, with their sums: the header's sizes and kinds, odd and huge chunks, their order."""
    chunks = _chunks(content)
    at = int(rng.integers(len(chunks)))
    name, held = chunks[at]
    match rng.integers(6):
        case 0 | 1:
            header = bytearray(chunks[0][1])
            field = int(_one(rng, [0, 4, 8, 9, 10, 11, 12]))
            odd = struct.pack(">I", int(_one(rng, [0, 1, 9000, 50_000, 2**31 - 1, 2**31])))
            header[field : field + (4 if field < 8 else 1)] = odd if field < 8 else bytes([int(rng.integers(20))])
            chunks[0] = (b"IHDR", bytes(header))
        case 2:
            chunks.pop(at)
        case 3:
            chunks.insert(at, _one(rng, chunks))
        case 4:
            bomb = zlib.compress(bytes(2**24))
            text = _one(rng, [(b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb)])
            more = [(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"), (b"tRNS", b"\0"), (b"PLTE", b"\1\2\3"), (b"acTL", bytes(8))]
            chunks.insert(at, _one(rng, [text, *more]))
        case _:
            chunks[at] = (name, at_random(rng, held) if held else b"x")
    parts = [struct.pack(">I", len(h)) + n + h + struct.pack(">I", zlib.crc32(n + h)) for n, h in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


of_png = either(_as_png, at_random, 0.65)

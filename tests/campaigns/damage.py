"""Damage files: change bytes, or change what a container holds and repair its lengths and checksums.

A change of plain bytes mostly ends at the first checksum or length of a format. The others reach the code behind it.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

INTEGERS = (0, 1, 2, 3, 255, 256, 65535, 65536, 2**24, 2**28 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 65535, 65536, 100_000, 2**31, 2**63, 10**30, -(2**40), 0.5, -0.0, 1e308, math.inf,
    -math.inf, math.nan, "", "x", "0", "é\ud800", "../../x", "a" * 5000, "5" * 5000, [], {}, [[]], [0], [None], [{}],
    [1, 2, 3, 4, 5, 6], [1e308, math.nan], {"size": [10, 10], "counts": [100]}, {"": 0}, [[1, 1, 20, 1, 20, 20]],
)  # fmt: skip
"""Values that take the place of one value of JSON."""

DEEP = 20_000  # brackets inside each other, more than Python's parser of JSON follows


def damage(data: bytes, kind: str, random: Random) -> bytes:
    """Return a damaged copy of a file.

    Args:
        data: content of the file.
        kind: how the file is built: "png", "json", "lines", "zip", "safetensors" or "bytes".
        random: source of all choices; the same state gives the same damage.
    """
    inside: Callable[[bytes, Random], bytes] | None = STRUCTURED.get(kind)
    damaged = inside(data, random) if inside and random.random() < 0.7 else _bytes(data, random)
    return _bytes(damaged, random) if random.random() < 0.1 else damaged


def _bytes(data: bytes, random: Random) -> bytes:
    """Change one to four places of the bytes; most often near the beginning, where the headers are."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        end = len(out) if random.random() < 0.6 else min(len(out), 200)
        at = random.randrange(end) if end else 0
        length = random.choice((1, 2, 4, 16, 200))
        choice = random.randrange(9)
        if choice == 0:
            del out[at:]
        elif choice == 1:
            del out[at : at + length]
        elif choice == 2:
            out[at:at] = random.randbytes(length)
        elif choice == 3:
            out[at : at + length] = random.randbytes(min(length, len(out) - at))
        elif choice == 4:
            out[at:at] = out[at : at + length]
        elif choice == 5:
            out[at : at + length] = bytes(min(length, len(out) - at))
        elif choice == 6 and out:
            out[at] ^= 1 << random.randrange(8)
        else:
            width = random.choice((2, 4, 8))
            packed = (random.choice(INTEGERS) % (1 << 8 * width)).to_bytes(width, random.choice(("little", "big")))
            out[at : at + width] = packed
    return bytes(out)


def _json(data: bytes, random: Random) -> bytes:
    """Replace, remove or repeat one value; or nest brackets deeper than parsers follow."""
    if random.random() < 0.02:
        return b"[" * DEEP + b"]" * random.choice((0, DEEP))
    try:
        content = json.loads(data)
    except ValueError:
        return _bytes(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = random.choice(places)
        choice = random.randrange(8)
        if choice == 0:
            del holder[key]
        elif choice == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif choice == 2:
            other, at = random.choice(places)
            holder[key] = json.loads(json.dumps(other[at]))
        elif choice == 3 and isinstance(holder[key], str) and holder[key]:
            text = holder[key]
            at = random.randrange(len(text))
            holder[key] = (
                text[:at] + chr(random.choice((33, 48, 95, 111, 126, 255, 0x1F600))) * random.choice((1, 1, 9)) + text[at:]
            )
        elif choice == 4 and isinstance(holder[key], int | float):
            holder[key] = random.choice((-holder[key], holder[key] + 1, holder[key] * 1000, holder[key] + 0.5))
        else:
            holder[key] = json.loads(json.dumps(random.choice(VALUES)))
    return json.dumps(content).encode()


def _places(value: Any) -> Any:
    """Yield (holder, key) of every value inside lists and objects."""
    for key in value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _lines(data: bytes, random: Random) -> bytes:
    """Damage one line of a file of lines of JSON."""
    lines = data.splitlines()
    at = random.randrange(len(lines))
    lines[at] = _json(lines[at], random)
    return b"\n".join(lines) + b"\n" * random.randrange(2)


def _png(data: bytes, random: Random) -> bytes:
    """Change one chunk, or the pixels before compression, and repair lengths and checksums."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    at = random.randrange(len(chunks))
    kind, body = chunks[at]
    choice = random.randrange(6)
    if kind == b"IHDR" and len(body) == 13:
        fields = list(struct.unpack(">IIBBBBB", body))
        which = random.randrange(7)
        fields[which] = (
            random.choice(INTEGERS) % (1 << 32 if which < 2 else 256) if random.random() < 0.5 else random.randrange(9)
        )
        chunks[at] = kind, struct.pack(">IIBBBBB", *fields)
    elif choice == 0:
        chunks.insert(random.randrange(len(chunks) + 1), chunks[at])
    elif choice == 1:
        del chunks[at]
    elif choice == 2:
        chunks[at] = random.choice((b"PLTE", b"tRNS", b"acTL", b"fdAT", b"gAMA", b"iCCP", b"eXIf", b"zTXt", b"IDAT")), body
    elif kind == b"IDAT":
        try:
            chunks[at] = kind, zlib.compress(_bytes(zlib.decompress(body), random))
        except zlib.error:
            chunks[at] = kind, _bytes(body, random)
    else:
        chunks[at] = kind, _bytes(body, random)
    out = data[:8]
    for name, content in chunks:
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out


def _zip(data: bytes, random: Random) -> bytes:
    """Damage one member and pack all again, with right checksums; or rename, repeat or omit a member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = random.randrange(len(members))
    name, content = members[at]
    choice = random.randrange(8)
    if choice == 0:
        members.append(members[at])
    elif choice == 1:
        del members[at]
    elif choice == 2:
        members[at] = random.choice(("../x.png", "/etc/x.png", "a/b/c/d/e.png", "x.png", "", "\x00.png", name.upper())), content
    else:
        inside = STRUCTURED["png"] if content[:4] == b"\x89PNG" and random.random() < 0.5 else _bytes
        members[at] = name, inside(content, random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def _safetensors(data: bytes, random: Random) -> bytes:
    """Damage the JSON header, or the JSON inside its metadata, and repair its length."""
    (length,) = struct.unpack_from("<Q", data)
    header, tensors = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.6:
        content = json.loads(header)
        about = content["__metadata__"]
        key = random.choice(list(about))
        about[key] = _json(about[key].encode(), random).decode()
        header = json.dumps(content).encode()
    else:
        header = _json(header, random)
    return struct.pack("<Q", len(header)) + header + tensors


STRUCTURED = {"json": _json, "lines": _lines, "png": _png, "zip": _zip, "safetensors": _safetensors}

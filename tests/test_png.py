"""Label PNGs read without Pillow: the same values as with Pillow, and an error for damaged files."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hodor import masks
from hodor.mask_files import png

SIZES = st.tuples(st.integers(1, 21), st.integers(1, 21))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def filtered(lines: np.ndarray, kinds: list[int], lanes: int) -> bytes:
    """Lines of bytes [H, n] with a row filter each, written down pixel by pixel from the PNG specification."""
    out = bytearray()
    for y, kind in enumerate(kinds):
        out.append(kind)
        for x, value in enumerate(lines[y].tolist()):
            a = int(lines[y, x - lanes]) if x >= lanes else 0
            b = int(lines[y - 1, x]) if y else 0
            c = int(lines[y - 1, x - lanes]) if y and x >= lanes else 0
            p = a + b - c
            if abs(p - a) <= abs(p - b) and abs(p - a) <= abs(p - c):
                paeth = a
            else:
                paeth = b if abs(p - b) <= abs(p - c) else c
            out.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes(out)


def file(lines: np.ndarray, kinds: list[int], width: int, depth: int = 8, colour: int = 3, parts: int = 1) -> bytes:
    """A PNG file; its pixels in several IDAT chunks if asked for."""
    head = struct.pack(">IIBBBBB", width, len(lines), depth, colour, 0, 0, 0)
    packed = zlib.compress(filtered(lines, kinds, 2 if depth == 16 else 1))
    step = -(-len(packed) // parts)
    pixels = b"".join(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))
    palette = chunk(b"PLTE", masks.palette().tobytes()[: 3 << min(depth, 8)]) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + pixels + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("png")


def agree(path: Path) -> np.ndarray:
    """Both readers on one file; the fast one must not have asked the slow one."""
    wanted, read = masks.read_labels(path), png._plain(path.read_bytes(), str(path))
    assert read is not None
    assert read.dtype == wanted.dtype
    assert read.flags.writeable
    assert read.tolist() == wanted.tolist() == png.read_labels(path).tolist()
    return read


@settings(max_examples=120, deadline=None)
@given(data=st.data(), size=SIZES, depth=st.sampled_from([1, 2, 4, 8, 16]), parts=st.integers(1, 3))
def test_every_filter_and_depth_reads_as_pillow_reads_it(
    folder: Path, data: st.DataObject, size: tuple[int, int], depth: int, parts: int
) -> None:
    height, width = size
    stride = -(-width * depth // 8)
    few = st.sampled_from([0, 1, 2, 200, 255])
    lines = data.draw(hnp.arrays(np.uint8, (height, stride), elements=data.draw(st.sampled_from([few, st.integers(0, 255)]))))
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    colour = data.draw(st.sampled_from([0, 3])) if depth < 16 else 0
    path = folder / "filtered.png"
    path.write_bytes(file(lines, kinds, width, depth, colour, parts))
    read = agree(path)
    assert read.shape == size
    if depth == 8:
        assert read.tolist() == lines.tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=SIZES, mode=st.sampled_from(["P", "L", "1", "I;16"]), optimize=st.booleans())
def test_what_pillow_writes_is_read(
    folder: Path, data: st.DataObject, size: tuple[int, int], mode: str, optimize: bool
) -> None:
    top = data.draw(st.sampled_from([1, 3, 15, 255]))
    values = data.draw(hnp.arrays(np.uint8, size, elements=st.integers(0, top)))
    if mode == "1":
        picture = Image.fromarray(values > 0)
    elif mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette(masks.palette().tobytes())
    picture.save(folder / "pillow.png", optimize=optimize)
    agree(folder / "pillow.png")


def test_what_opencv_writes_is_read(folder: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    values = np.indices((40, 50)).sum(0).astype(np.uint8) // 9
    for compression, strategy in ((1, 3), (9, 0), (6, 1)):
        cv2.imwrite(str(folder / "cv.png"), values, [cv2.IMWRITE_PNG_COMPRESSION, compression, 102, strategy])
        assert agree(folder / "cv.png").tolist() == values.tolist()


def smooth(size: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(size)
    return ((y - 50) ** 2 + (x - 60 + 9 * np.sin(y / 7)) ** 2 < 900).astype(np.uint8) * 255


def test_a_mask_with_paeth_and_average_rows_needs_no_pillow(folder: Path) -> None:
    mask = smooth((120, 160))
    for kinds in ([4] * 120, [3] * 40 + [2, 1, 4, 0] * 20):
        (folder / "mask.png").write_bytes(file(mask, kinds, 160, colour=0))
        assert agree(folder / "mask.png").tolist() == mask.tolist()


def test_noise_with_paeth_rows_is_left_to_pillow(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 300), dtype=np.uint8)
    (folder / "noise.png").write_bytes(file(noise, [4] * 64, 300))
    assert png._plain((folder / "noise.png").read_bytes(), "") is None
    assert png.read_labels(folder / "noise.png").tolist() == noise.tolist()


def test_unusual_files_read_as_pillow_reads_them(folder: Path) -> None:
    mask = smooth((30, 90))
    grey = Image.fromarray(mask)
    alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    alpha.save(folder / "alpha.png")
    grey.save(folder / "clear.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    Image.fromarray(np.rot90(mask)).save(folder / "turned.png", exif=exif)
    grey.save(folder / "bitmap.png", "BMP")
    for name in ("alpha", "clear", "turned", "bitmap"):
        path = folder / f"{name}.png"
        assert png._plain(path.read_bytes(), "") is None
        assert png.read_labels(path).tolist() == masks.read_labels(path).tolist() == mask.tolist()
        assert png.decode_labels(path.read_bytes(), "x").tolist() == mask.tolist()


def same_error(path: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as wanted:
        masks.read_labels(path)
    with pytest.raises(type(wanted.value)) as raised:
        png.read_labels(path)
    assert str(raised.value) == str(wanted.value)
    return str(raised.value)


def test_what_is_no_label_png_is_refused_in_the_same_words(folder: Path) -> None:
    Image.new("RGB", (3, 4)).save(folder / "colour.png")
    assert "colour.png: expected ids in a palette or grey PNG, got RGB" in same_error(folder / "colour.png")
    with pytest.raises(
        ValueError, match=r"^mask z.zip: seq/1.png: expected ids .*, got RGB: run `hodor doctor z.zip: seq/1.png` to see"
    ):
        png.decode_labels((folder / "colour.png").read_bytes(), "z.zip: seq/1.png")
    (folder / "text.png").write_text("no picture")
    Image.new("L", (3, 4)).save(folder / "moving.png", save_all=True, append_images=[Image.new("L", (3, 4), 7)])
    assert "moving.png: expected one picture, got 2: save each picture" in same_error(folder / "moving.png")
    assert "not a known picture format" in same_error(folder / "text.png")
    assert "does not exist" in same_error(folder / "nowhere.png")
    assert "is a folder" in same_error(folder)


def test_a_damaged_file_is_an_error_naming_it_and_never_another_mask(folder: Path) -> None:
    mask = smooth((60, 100))
    whole = file(mask, [0] * 60, 100, parts=2)
    path = folder / "damaged.png"
    rng = np.random.default_rng(0)
    for cut in (*range(8, 60, 5), *rng.integers(60, len(whole), 30).tolist(), len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"damaged.png cannot be read as a picture: it is cut short$"):
            png.read_labels(path)
    for place in (*range(20, 34), *rng.integers(8, len(whole), 150).tolist()):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged.png cannot be read as a picture: [^\n]+$"):
            png.read_labels(path)


def remade(content: bytes, height: int = 4) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_damage_with_a_correct_checksum_is_an_error() -> None:
    good = zlib.compress(bytes(24))
    assert png.decode_labels(remade(good), "m").shape == (4, 5)
    assert png.decode_labels(remade(zlib.compress(bytes(90))), "m").shape == (4, 5)  # rows too many, as Pillow takes it
    for content, message in (
        (good[:-3], "m cannot be read as a picture: its pixels are cut short"),
        (good[:-4] + b"abcd", "m cannot be read as a picture: its pixels cannot be decompressed"),
        (b"nonsense", "m cannot be read as a picture: its pixels cannot be decompressed"),
        (zlib.compress(bytes(23)), "m cannot be read as a picture: its pixels are cut short"),
        (zlib.compress(b"\x07" * 24), "m cannot be read as a picture: its rows have the unknown filter 7"),
        (b"", "m cannot be read as a picture: its pixels are cut short"),
    ):
        with pytest.raises(ValueError, match=message):
            png.decode_labels(remade(content), "m")


def test_a_small_file_cannot_fill_the_memory() -> None:
    import tracemalloc

    packed = zlib.compress(bytes(50_000_000))
    tracemalloc.start()
    png.decode_labels(remade(packed), "bomb")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    huge = remade(zlib.compress(b""), height=1 << 31 - 1)
    with pytest.raises(ValueError, match=r"^mask huge cannot be read as a picture: "):
        png.decode_labels(huge, "huge")


@pytest.mark.parametrize("name", png.INFLATERS)
def test_every_inflater_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.setattr(png, "inflater", lambda: name)
    mask = smooth((60, 100))
    whole = file(mask, [0] * 60, 100)
    assert png.decode_labels(whole, "m").tolist() == mask.tolist()
    test_damage_with_a_correct_checksum_is_an_error()
    test_a_small_file_cannot_fill_the_memory()


def test_plain_files_are_read_without_pillow(folder: Path) -> None:
    masks.write_labels(folder / "plain.png", smooth((20, 30)) // 255)
    code = "import sys; from hodor.mask_files import png; print(png.read_labels(sys.argv[1]).sum(), 'PIL' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, str(folder / "plain.png")], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(int((smooth((20, 30)) // 255).sum())), "False"]


def test_zlib_is_used_where_nothing_faster_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    png.inflater.cache_clear()
    assert png.inflater() == "zlib"
    buffer = io.BytesIO()
    Image.fromarray(smooth((9, 9))).save(buffer, "PNG")
    assert png.decode_labels(buffer.getvalue(), "m").shape == (9, 9)
    png.inflater.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_masks_read_one_after_the_other_reuse_the_same_memory(folder: Path) -> None:
    masks.write_labels(folder / "large.png", np.pad(smooth((120, 160)), ((0, 360), (0, 694))) // 255)
    code = (
        "import resource, sys\nfrom hodor.mask_files import png\n"
        "def read():\n    a = png.read_labels(sys.argv[1])\n    b = png.read_labels(sys.argv[1])\n    (a ^ b).copy()\n"
        "def faults():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "read()\nread()\nbefore = faults()\nfor _ in range(20):\n    read()\nprint(faults() - before)"
    )
    command = [sys.executable, "-c", code, str(folder / "large.png")]
    faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(faults) < 1000  # about 100 a mask, 6000 in all, if each were laid into new pages

"""Picture files: every path reads the same pixels, unusual ranges have a note or are refused, and no picture is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import make, number, picture
from PIL import Image, ImageOps, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from hodor.data.file_cache import FileCache, cover_size, shrink
from hodor.data.file_cache import read_picture as read_for_training
from hodor.data.layouts import open_layout
from hodor.data.videofiles import VideoFiles
from hodor.data.videos import Videos
from hodor.frames import open_source
from hodor.mask_files import doctor, png
from hodor.masks import read_labels, write_labels
from hodor.scoring.pages.pictures import Worst, _in_folder
from hodor.video.content import BLOCK, content_hash
from hodor.video.images import Stack
from hodor.video.pictures import Levels, picture_size, read_picture

SIZE = (48, 64)
GREYS = np.arange(48 * 64).reshape(SIZE) % 250 + 3
"""An 8-bit grey picture with 250 of 256 levels, the largest 252."""


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def deep_colours(path: Path, values: np.ndarray) -> None:
    """Write 16 bits a colour, which Pillow cannot write."""
    codec, form = ("png", "rgb48be") if path.suffix == ".png" else ("tiff", "rgb48le")
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as out:
        stream: Any = out.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *values.shape[:2], form
        out.mux(stream.encode(av.VideoFrame.from_ndarray(values.astype(np.uint16), format=form)))
        out.mux(stream.encode(None))


def grey(top: int, dtype: Any = np.uint16, suffix: str = "png") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path = path.with_suffix(f".{suffix}")
        Image.fromarray((GREYS / 255 * top).round().astype(dtype)).save(path)
        return path

    return write


def colour(top: int, suffix: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path = path.with_suffix(f".{suffix}")
        deep_colours(path, (np.dstack([GREYS] * 3) / 255 * top).round())
        return path

    return write


def inverted(path: Path) -> Path:
    """A 16-bit TIFF in which 0 is white."""
    path, tags = path.with_suffix(".tif"), ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray((65535 - GREYS * 257).astype(np.uint16)).save(path, tiffinfo=tags)
    return path


def turned(suffix: str, factor: int = 1, **options: Any) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path, stored = path.with_suffix(f".{suffix}"), np.rot90(GREYS * factor)
        Image.fromarray(stored.astype(np.uint8 if factor == 1 else np.uint16)).save(path, exif=exif(6), **options)
        return path

    return write


FORMS = {
    "8 bits": grey(255, np.uint8),
    "8 bits, turned PNG": turned("png"),
    "8 bits, turned TIFF": turned("tif"),
    "8 bits, turned TIFF, packed": turned("tif", compression="tiff_deflate"),
    "16 bits, turned TIFF": turned("tif", 257),
    "16 bits": grey(65535),
    "16 bits TIFF": grey(65535, suffix="tif"),
    "16 bits, 0 is white": inverted,
    "12 in 16": grey(4095),
    "10 in 16": grey(1023, suffix="tif"),
    "8 in 32": grey(255, np.int32, "tif"),
    "16 in 32": grey(65535, np.int32, "tif"),
    "float 0..1": grey(1, np.float32, "tif"),
    "float 0..255": grey(255, np.float32, "tif"),
    "RGB of 16 bits": colour(65535, "png"),
    "RGB of 10 in 16": colour(1023, "png"),
    "RGB of 12 in 16, TIFF": colour(4095, "tif"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_path_reads_the_picture_of_8_bits(form: str, tmp_path: Path) -> None:
    values = GREYS / 255
    if form == "float 0..1":
        Image.fromarray(values.astype(np.float32)).save(file := tmp_path / "0.tif")
    else:
        file = FORMS[form](tmp_path / "0")
    files = VideoFiles("clip", ("0",), (file,), {}, {}, ())
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / file.name).write_bytes(file.read_bytes())
    worst = [Worst("clip", "0", 1, 0.0, 0.0)]
    read = {
        "segment, a file": next(iter(open_source(file))).image,
        "segment, a folder": next(iter(open_source(tmp_path / "clip"))).image,
        "evaluate": next(files.stream()),
        "evaluate, one": files.pictures([0])[0],
        "train": read_for_training(file, SIZE, SIZE, files.levels),
        "train, a still image": read_for_training(file, None, SIZE),
        "report": _in_folder(tmp_path, worst)("clip", "0"),
    }
    for path, image in read.items():
        assert image is not None
        assert image.dtype == np.uint8
        assert np.array_equal(image, np.dstack([GREYS] * 3)), path
    assert picture_size(file) == SIZE


def test_a_range_of_fewer_bits_has_a_note(tmp_path: Path) -> None:
    notes = {}
    for form in FORMS:
        if form != "float 0..1":
            notes[form] = open_source(FORMS[form](tmp_path / form.replace(".", "_"))).notes
    said = "the values of its {} pictures end at {}: they are read as 0 to {}"
    assert {form: note for form, note in notes.items() if note} == {
        "12 in 16": [said.format("16-bit", 4047, 4095)],
        "10 in 16": [said.format("16-bit", 1011, 1023)],
        "8 in 32": [said.format("32-bit", 252, 255)],
        "float 0..255": [said.format("float", 252, 255)],
        "RGB of 10 in 16": [said.format("16-bit", 1011, 1023)],
        "RGB of 12 in 16, TIFF": [said.format("16-bit", 4047, 4095)],
    }


def test_all_frames_of_a_video_have_one_range(tmp_path: Path) -> None:
    """The first frames are dark: their own range would brighten them and make the video flicker."""
    frames = [np.full(SIZE, top, np.uint16) for top in (100, 1000, 4000)]
    for i, frame in enumerate(frames):
        frame[0] = 0
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path)
    assert source.notes[0] == "the values of its 16-bit pictures end at 4000: they are read as 0 to 4095"
    assert [int(f.image.max()) for f in source] == [6, 62, 249]
    files = tuple(sorted(tmp_path.glob("*.png")))
    video = VideoFiles("clip", ("0", "1", "2"), files, {}, {}, ())
    assert [int(image.max()) for image in video.stream()] == [6, 62, 249]
    assert [int(read_for_training(f, None, SIZE, video.levels).max()) for f in files] == [6, 62, 249]
    stack = tmp_path / "stack.tif"
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(stack, save_all=True, append_images=pages[1:])
    assert [int(f.image.max()) for f in open_source(stack)] == [6, 62, 249]


def test_clips_and_reports_have_the_range_of_the_video(tmp_path: Path) -> None:
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part / "bear").mkdir(parents=True)
    for i, top in enumerate((100, 1000, 4000)):
        frame = np.full(SIZE, top, np.uint16)
        frame[0] = 0
        Image.fromarray(frame).save(tmp_path / "JPEGImages" / "bear" / f"{i:05d}.png")
        write_labels(tmp_path / "Annotations" / "bear" / f"{i:05d}.png", np.eye(*SIZE, dtype=np.uint8))
    layout = open_layout(tmp_path, "folder")
    videos = Videos(layout, FileCache(1 << 20), SIZE, 2)
    assert [int(videos.picture(layout.videos[0], i).max()) for i in range(3)] == [6, 62, 249]
    report = _in_folder(tmp_path / "JPEGImages", [Worst("bear", "00000", 1, 0.0, 0.0)])
    assert [int(np.max(report("bear", f"{i:05d}"))) for i in range(3)] == [6, 62, 249]


def test_a_frame_beyond_the_range_of_the_sampled_ones_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hodor.video.pictures.SAMPLED", 1)
    for i, top in enumerate((1000, 4000)):
        Image.fromarray(np.linspace(0, top, 64).round().astype(np.uint16)[None].repeat(48, 0)).save(tmp_path / f"{i}.png")
    frames = open_source(tmp_path).frames()
    next(frames)
    with pytest.raises(
        ValueError, match=r"1\.png: expected values from 0 to 1023, the range of the other pictures, got 0 to 4000"
    ):
        next(frames)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (np.linspace(-1024, 3071, 64).astype(np.int32), "-1024 to 3071"),
        (np.linspace(0, 70000, 64).astype(np.int32), "0 to 70000"),
        (np.linspace(-0.5, 1, 64).astype(np.float32), "-0.5 to 1"),
        (np.linspace(0, 1e6, 64).astype(np.float32), r"0 to 1e\+06"),
        (np.full(64, np.nan, np.float32), "nan to nan"),
    ],
)
def test_a_range_that_is_not_understood_is_refused_everywhere(values: np.ndarray, got: str, tmp_path: Path) -> None:
    file = tmp_path / "0.tif"
    Image.fromarray(values[None].repeat(48, 0)).save(file)
    line = rf"expected values from 0 to 65535, got {got}: convert the pictures to 8 or 16 bits"
    video = VideoFiles("clip", ("0",), (file,), {}, {}, ())
    reads: list[Callable[[], object]] = [
        lambda: open_source(file),
        lambda: list(video.stream()),
        lambda: _in_folder(tmp_path, [Worst(tmp_path.name, "0", 1, 0, 0)])(tmp_path.name, "0"),
    ]
    for read in reads:
        with pytest.raises(ValueError, match=rf"0\.tif: {line}$"):
            read()
    with pytest.raises(ValueError, match=line):
        read_for_training(file, None, SIZE)


def test_little_contrast_has_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bright pixel hides that the other values have 10 bits; a thermal camera uses a small part of its range."""
    hot = (GREYS / 255 * 1023).round().astype(np.uint16)
    hot[5, 5] = 65535
    Image.fromarray(hot).save(tmp_path / "hot.png")
    source = open_source(tmp_path / "hot.png")
    assert source.notes == [
        "nearly all values of its pictures lie from 12 to 1011 of 65535, which leaves 4 of 256 grey levels: "
        "stretch them if the objects are hard to see"
    ]
    thermal = (7000 + GREYS * 6).astype(np.uint16)
    Image.fromarray(thermal).save(tmp_path / "thermal.tif")
    assert len(open_source(tmp_path / "thermal.tif").notes) == 2
    for _ in range(2):
        next(VideoFiles("clip", ("0",), (tmp_path / "hot.png",), {}, {}, ()).stream())
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [f"{tmp_path / 'hot.png'}: {source.notes[0]}"]


def test_dark_grey_with_alpha_of_16_bits_is_refused(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for name, top in (("light", 65535), ("dark", 1023)):
        pixels = np.dstack([(GREYS / 255 * top).round(), np.full(SIZE, 65535)]).astype(">u2").reshape(48, -1)
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        head = struct.pack(">IIBBBBB", 64, 48, 16, 4, 0, 0, 0)
        whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / f"{name}.png").write_bytes(whole)
    assert np.array_equal(read_picture(tmp_path / "light.png")[..., 0], GREYS)
    with pytest.raises(ValueError, match=r"dark\.png: expected grey or RGB, got dark 16-bit grey with alpha: save it without"):
        read_picture(tmp_path / "dark.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_reads_8_bit_pictures_as_before(orientation: int, tmp_path: Path) -> None:
    """The bytes of the clips of earlier trainings: draft decoding, rotation, reduction."""
    rng = np.random.default_rng(orientation)
    image = Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).resize((400, 240), Image.Resampling.BICUBIC)
    clip = (80, 20)  # so that the draft depends on the order of height and width
    for name, options in (("a.jpg", {"quality": 90}), ("b.png", {}), ("c.webp", {"lossless": True})):
        for form in (image, image.convert("L"), *([image.convert("P")] if name == "b.png" else [])):
            path = tmp_path / name
            form.save(path, exif=exif(orientation), **options)
            with Image.open(path) as file:
                stored = file.height, file.width
                across = orientation >= 5
                size = cover_size(stored[::-1] if across else stored, clip)
                file.draft("RGB", size if across else size[::-1])
                file.load()
                expected = shrink(ImageOps.exif_transpose(file).convert("RGB"), size)
            upright = stored[::-1] if across else stored
            for mask_size in (None, upright):
                assert read_for_training(path, mask_size, clip).tobytes() == expected.tobytes()


# Several pictures in one file


def moving(path: Path, count: int = 8, **options: Any) -> Path:
    frames = [Image.fromarray(picture(i)) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


KINDS: dict[str, dict[str, Any]] = {
    "stack.tif": {},
    "moving.webp": {"duration": 40, "lossless": True},
    "moving.png": {"duration": 40},
    "moving.avif": {"duration": 40, "quality": 95},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_of_a_file_is_a_frame(name: str, tmp_path: Path) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    path = moving(tmp_path / name, 70, **KINDS[name])
    for source in (open_source(path), open_source(tmp_path), open_source(str(tmp_path / "*.*"))):
        frames = list(source)
        assert [number(f.image) for f in frames] == [i % 50 for i in range(70)]
        assert [f.name for f in frames] == [f"{i:05d}" for i in range(70)]
        assert (source.count, source.size, source.name) == (70, SIZE, path.stem)
        times = [None if name == "stack.tif" else i * 0.04 for i in range(70)]
        assert [f.time for f in frames] == (times if name == "stack.tif" else pytest.approx(times))
        assert source.rate == (None if name == "stack.tif" else 25)
        for start, stop in ((0, None), (3, 66), (65, 90), (5, 5), (0, 0)):
            wanted = frames[start:stop]
            for reverse in (False, True):
                read = list(source.frames(start, stop, reverse))
                assert [f.index for f in read] == [f.index for f in (wanted[::-1] if reverse else wanted)]
                for a, b in zip(read, wanted[::-1] if reverse else wanted, strict=True):
                    assert np.array_equal(a.image, b.image)
                    assert (a.name, a.time) == (b.name, b.time)


def test_a_gif_in_a_folder_gives_all_its_pictures(tmp_path: Path) -> None:
    moving(tmp_path / "clip.gif", 5, duration=[30, 40, 50, 60, 70])
    frames = list(open_source(tmp_path))
    assert [number(f.image) for f in frames] == list(range(5))
    assert [f.time for f in frames] == pytest.approx([0, 0.03, 0.07, 0.12, 0.18])


def test_deep_colours_in_a_stack_keep_their_range(tmp_path: Path) -> None:
    """Each page of 10 bits in 16 is read like a file of its own."""
    files = []
    for i in range(3):
        deep_colours(tmp_path / f"{i}.tif", np.dstack([GREYS * (i + 1) % 250] * 3) / 255 * 1023)
        files.append((tmp_path / f"{i}.tif").read_bytes())
    (tmp_path / "all.tiff").write_bytes(joined(files))
    stack = [f.image for f in open_source(tmp_path / "all.tiff")]
    alone = [f.image for f in open_source(str(tmp_path / "*.tif"))]
    assert len(np.unique(stack[0])) > 200
    for a, b in zip(stack, alone, strict=True):
        assert np.array_equal(a, b)


def joined(files: list[bytes]) -> bytes:
    """Join TIFF files of one page (little-endian) into one: the offsets of each are moved, and the pages are chained."""
    import struct

    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}
    out, link = bytearray(files[0][:8]), 4
    for file in files:
        base = len(out) + len(out) % 2
        out += bytes(base - len(out)) + file
        at = base + struct.unpack_from("<I", file, 4)[0]
        struct.pack_into("<I", out, link, at)
        count = struct.unpack_from("<H", out, at)[0]
        for place in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, number_of = struct.unpack_from("<HHI", out, place)
            value = struct.unpack_from("<I", out, place + 8)[0]
            inline = sizes[kind] * number_of <= 4
            if tag == 273 and inline:
                struct.pack_into("<I", out, place + 8, value + base)
            if not inline:
                struct.pack_into("<I", out, place + 8, value + base)
                for k in range(number_of if tag == 273 else 0):
                    offset = struct.unpack_from("<I", out, base + value + 4 * k)[0]
                    struct.pack_into("<I", out, base + value + 4 * k, offset + base)
        link = at + 2 + 12 * count
        struct.pack_into("<I", out, link, 0)
    return bytes(out)


def test_previews_and_pictures_for_old_viewers_are_no_frames(tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    tags[254] = 1  # a reduced version of another page
    small = Image.fromarray(picture(30, (12, 16)))
    small.encoderinfo = {"tiffinfo": tags}  # the tags of a page that is appended
    Image.fromarray(picture(3)).save(tmp_path / "scan.tif", save_all=True, append_images=[small])
    assert number(read_picture(tmp_path / "scan.tif")) == 3
    assert len(list(open_source(tmp_path / "scan.tif"))) == 1
    frames = [Image.fromarray(picture(i)) for i in range(4)]
    frames[0].save(tmp_path / "old.png", save_all=True, append_images=frames[1:], default_image=True)
    assert [number(f.image) for f in open_source(tmp_path / "old.png")] == [1, 2, 3]
    frames[1].save(tmp_path / "depth.mpo", save_all=True, append_images=[frames[0].resize((16, 12))])
    (tmp_path / "depth.mpo").rename(tmp_path / "depth.jpg")
    assert [number(f.image) for f in open_source(tmp_path / "depth.jpg")] == [1]


def test_a_file_of_several_pictures_is_refused_where_one_is_expected(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    for name in ("2.tif", "2.webp", "2.png", "2.gif"):
        path = moving(folder / name)
        line = r"2\.\w+: expected one picture, got [48]: save each picture as a file of its own"
        source = open_source(folder)
        with pytest.raises(ValueError, match=line):
            list(source)
        with pytest.raises(ValueError, match=line):
            list(VideoFiles("clip", ("0",), (path,), {}, {}, ()).stream())
        with pytest.raises(ValueError, match=r"expected one picture, got [48]"):
            read_for_training(path, None, SIZE)
        for read in (read_labels, doctor.read, png.read_labels):
            with pytest.raises(ValueError, match=f"mask .*{line}"):
                read(path)
        path.unlink()


def test_an_imagej_file_that_keeps_its_pictures_behind_one_page_is_refused(tmp_path: Path) -> None:
    for count, good in ((1, True), (100, False)):
        tags = ImageFileDirectory_v2()
        tags[270] = f"ImageJ=1.53t\nimages={count}\nframes={count}\n"
        Image.fromarray(picture(0)).save(tmp_path / "hyper.tif", tiffinfo=tags)
        if good:
            assert len(list(open_source(tmp_path / "hyper.tif"))) == 1
        else:
            with pytest.raises(ValueError, match=r"hyper\.tif: its header announces 100 pictures \(ImageJ\), got 1"):
                open_source(tmp_path / "hyper.tif")


def test_channels_of_a_stack_have_a_note(tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    tags[270] = "ImageJ=1.53t\nimages=8\nchannels=2\nslices=1\nframes=4\n"
    source = open_source(moving(tmp_path / "cells.tif", tiffinfo=tags))
    assert source.notes == ["its header lists 2 channels: all its pictures are frames, in the order of the file"]
    tags[270] = "ImageJ=1.53t\nimages=8\nframes=8\n"
    assert open_source(moving(tmp_path / "time.tif", tiffinfo=tags)).notes == []


# Rotated pictures and masks


def test_masks_are_upright(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[5:20, 30:60], mask[30:40, 5:20] = 1, 2
    kinds: dict[str, dict[str, Any]] = {
        "m.png": {},
        "m.tif": {},
        "n.tif": {"compression": "tiff_lzw"},
        "m.webp": {"lossless": True},
    }
    for name, options in kinds.items():
        Image.fromarray(np.rot90(mask)).save(tmp_path / name, exif=exif(6), **options)
        assert np.array_equal(doctor.read(tmp_path / name, SIZE).labels, mask), name
    assert np.array_equal(read_labels(tmp_path / "m.png"), mask)
    assert np.array_equal(png.read_labels(tmp_path / "m.png"), mask)


def test_the_rotation_is_left_out_if_the_masks_fit_the_picture_as_stored(tmp_path: Path) -> None:
    Image.fromarray(picture(7)).save(tmp_path / "0.jpg", exif=exif(6), quality=95)
    for mask_size, size in (((48, 64), (48, 64)), ((64, 48), (64, 48))):
        mask = tmp_path / "mask.png"
        Image.fromarray(np.ones(mask_size, np.uint8)).save(mask)
        video = VideoFiles("clip", ("0",), (tmp_path / "0.jpg",), {"0": mask}, {}, ())
        assert next(video.stream()).shape[:2] == picture_size(tmp_path / "0.jpg", mask_size) == size
        assert read_for_training(tmp_path / "0.jpg", mask_size, (64, 64)).shape[:2] == size


# Content


def test_the_content_of_files_tells_sources_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(BLOCK * 200)
    path = tmp_path / "a.bmp"
    Image.fromarray(picture(0)).save(path)
    head = path.read_bytes()
    source = open_source(path)
    path.write_bytes(head + data)
    first = content_hash(source)
    assert content_hash(source) == first
    for place in (len(head), len(head) + len(data) // 2, len(data) - 9):
        changed = bytearray(head + data)
        changed[place : place + 2 * BLOCK * 3] = bytes(len(changed[place : place + 2 * BLOCK * 3]))
        path.write_bytes(changed)
        assert content_hash(source) != first
    path.write_bytes(head + data[:-1])
    assert content_hash(source) != first


def test_the_content_of_a_folder_and_of_an_iterator(tmp_path: Path) -> None:
    for i in range(200):
        Image.fromarray(picture(i, (8, 8))).save(tmp_path / f"{i}.bmp")
    first = content_hash(open_source(tmp_path))
    for i in (0, 199):
        Image.fromarray(picture(i + 1, (8, 8))).save(tmp_path / f"{i}.bmp")
        assert content_hash(open_source(tmp_path)) != first
        Image.fromarray(picture(i, (8, 8))).save(tmp_path / f"{i}.bmp")
    assert content_hash(open_source(tmp_path)) == first
    (tmp_path / "7.bmp").rename(tmp_path / "a7.bmp")
    assert content_hash(open_source(tmp_path)) != first
    one, other = (open_source(picture(i) for i in numbers) for numbers in ((0, 1), (1, 1)))
    assert content_hash(one) != content_hash(other)
    assert len(list(one)) == 2, "a frame was used up"


def test_the_content_of_an_address_is_its_first_frame(tmp_path: Path) -> None:
    hashes = []
    for name, size in (("a", SIZE), ("b", SIZE), ("c", (64, 48))):
        source = open_source(make(tmp_path / f"{name}.mp4", 3, size=size))
        source.files = ()  # as for an address
        hashes.append(content_hash(source))
    assert hashes[0] == hashes[1] != hashes[2]


def test_levels_without_pictures_have_the_range_of_each_picture() -> None:
    levels = Levels()
    values = np.linspace(0, 1, 100)
    assert levels.reduce((values * 1023).round().astype(np.uint16)).max() == 255
    assert levels.reduce((values * 65535).round().astype(np.uint16)).max() == 255
    assert levels.notes == []


def test_a_stack_knows_its_file(tmp_path: Path) -> None:
    source = open_source(moving(tmp_path / "s.tif"))
    assert isinstance(source, Stack)
    assert source.files == (tmp_path / "s.tif",)

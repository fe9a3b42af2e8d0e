"""Mattes and cut-outs as films and as EXR: values, colours, depth, and what a resumed run writes."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from job import SIZE, mask, network, picture, video
from sounds import film, offset

from hodor.frames import open_source
from hodor.outputs.films import MATTES
from hodor.outputs.selection import OutputOptions
from hodor.outputs.writers import CutoutWriter, ExrWriter, MatteWriter, Result, read_soft
from hodor.segment import Outputs, segment
from hodor.video.films import ACCURATE, Colour

HDR = Colour(9, 16, 9, False)


def result(i: int, deep: np.ndarray | None = None, size: tuple[int, int] = SIZE) -> Result:
    labels = mask(i, size=size)
    ramp = np.linspace(0, 1, size[1], dtype=np.float32)[None].repeat(size[0], 0)
    return Result(i, f"{i:05d}", i / 25, picture(i, size), labels, (1, 2), np.stack([ramp, ramp[:, ::-1]]), deep=deep)


def decoded(path: Path, form: str, decoder: str | None = None) -> list[np.ndarray]:
    """Decode a film; FFmpeg's own decoder of VP9 leaves alpha out, that of libvpx does not."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if decoder is None:
            return [f.to_ndarray(format=form, interpolation=ACCURATE if "16" in form or "48" in form or "64" in form else None)
                    for f in container.decode(stream)]  # fmt: skip
        context = av.CodecContext.create(decoder, "r")
        packets = [*container.demux(stream)]
        return [f.to_ndarray(format=form) for packet in packets for f in context.decode(packet)]


@pytest.mark.parametrize("codec", MATTES)
def test_a_matte_is_a_film_of_the_soft_mask(codec: Any, tmp_path: Path) -> None:
    path = tmp_path / f"matte.{MATTES[codec][1]}"
    with MatteWriter(path, 1, codec, 25) as writer:
        for i in range(4):
            writer.write(result(i))
    wanted = np.round(np.linspace(0, 255, SIZE[1]))
    frames = decoded(path, "rgb24")
    assert len(frames) == 4
    within = {"ffv1": 0, "prores": 1, "vp9": 6, "h264": 4}[codec]
    assert np.abs(frames[2][..., 1] - wanted).max() <= within
    if codec == "prores":
        assert np.abs(decoded(path, "rgba64le")[2][..., 3] / 257 - wanted).max() < 0.4
    if codec == "vp9":
        assert np.abs(decoded(path, "rgba", "libvpx-vp9")[2][..., 3] - wanted).max() <= 6


def test_exr_has_a_layer_for_each_object_with_the_exact_levels(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR")
    with ExrWriter(tmp_path / "exr", (2, 1, 7)) as writer:
        writer.write(result(3))
    channels = exr.File(str(tmp_path / "exr" / "00003.exr")).channels()
    assert set(channels) == {"object_1.A", "object_2.A", "object_7.A"} or set(channels) == {"object_1", "object_2", "object_7"}
    ramp = np.round(np.linspace(0, 255, SIZE[1]))
    values = {name.split(".")[0]: channel.pixels for name, channel in channels.items()}
    assert values["object_1"].dtype == np.float16
    np.testing.assert_array_equal(np.round(values["object_1"].astype(float)[5] * 255), ramp)
    np.testing.assert_array_equal(np.round(values["object_2"].astype(float)[5] * 255), ramp[::-1])
    assert not values["object_7"].any()


def test_exr_without_its_package_is_refused_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expected the package OpenEXR, .* got none: pip install 'hodor-vos\[exr\]'"):
        Outputs(tmp_path, exr=(1,))


def test_a_wrong_matte_codec_is_refused(tmp_path: Path) -> None:
    for make in (lambda: Outputs(tmp_path, matte_codec="av1"), lambda: MatteWriter(tmp_path / "a.mov", 1, "av1")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"expected a matte codec \(prores, ffv1, vp9, h264\), got 'av1'"):
            make()


def hdr(
    path: Path, pixels: str = "yuv420p10le", colour: Colour = HDR, codec: str = "libx265", size: tuple[int, int] = SIZE
) -> Path:
    """A film with 10 bits whose brightness is a slow ramp."""
    height, width = size
    with av.open(str(path), "w") as container:
        options = {"x265-params": "lossless=1:log-level=none"} if codec == "libx265" else {}
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = colour[:3]
        context.color_range = 2 if colour.full else 1
        for i in range(3):
            frame = av.VideoFrame(width, height, pixels)
            for k, plane in enumerate(frame.planes):
                values = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                values[:, : plane.width] = 200 + 2 * np.arange(plane.width) if k == 0 else 500 + 8 * k
                plane.update(values.tobytes())
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def tags(path: Path) -> Colour:
    with open_source(path) as source:
        assert source.colour is not None
        return source.colour


@pytest.mark.parametrize(
    ("kind", "end", "colour", "kept"),
    [
        ("prores", "mov", HDR, HDR),
        ("prores", "mov", Colour(9, 18, 9, True), Colour(9, 18, 9, False)),
        ("ffv1", "mkv", HDR, Colour(9, 16, 0, True)),
        ("vp9", "webm", HDR, HDR),
        ("vp9", "webm", Colour(9, 18, 9, True), Colour(9, 18, 9, True)),
        ("prores", "mov", Colour(1, 1, 1, False), Colour(1, 1, 1, False)),
    ],
)
def test_cut_outs_keep_the_colour_tags_and_10_bits_where_the_codec_can(
    kind: Any, end: str, colour: Colour, kept: Colour, tmp_path: Path
) -> None:
    source, path = hdr(tmp_path / "in.mkv", colour=colour), tmp_path / f"out.{end}"
    assert tags(source) == colour
    with open_source(source) as opened:
        opened.deep = True
        assert opened.has_deep
        frames = list(opened)
        with CutoutWriter(path, 1, kind, opened.rate, opened.colour) as writer:
            for frame in frames:
                assert frame.deep is not None
                assert np.abs(frame.deep / 257 - frame.image).max() < 1.1, "both have the same values"
                writer.write(_with(frame))
    assert tags(path) == kept
    assert frames[0].deep is not None
    assert len(np.unique(frames[0].deep[5, :, 1])) > 80, "more levels than 8 bits have"
    if kind == "vp9":
        shown = decoded(path, "rgb24")[0]
        assert np.abs(shown.astype(int) - frames[0].image).mean() < 3
        return
    made = decoded(path, "rgb48le" if kind == "ffv1" else "gbrp16le")[0].astype(int)
    code = 65535 / 1023
    assert np.abs(made - frames[0].deep).max() < (0.01 if kind == "ffv1" else 2) * code


def _with(frame: Any) -> Result:
    labels = mask(0)
    soft = np.ones((2, *SIZE), np.float32)
    return Result(frame.index, frame.name, frame.time, frame.image, labels, (1, 2), soft, deep=frame.deep)


def test_a_source_without_tags_is_written_as_bt709(tmp_path: Path) -> None:
    source, path = video(tmp_path / "in.mp4", 3), tmp_path / "out.webm"
    with open_source(source) as opened, CutoutWriter(path, 1, "vp9", 25, opened.colour) as writer:
        for frame in opened:
            writer.write(_with(frame))
    assert tags(path) == Colour(1, 1, 1, False)


def test_a_run_writes_every_kind_of_film_with_the_colours_depth_and_sound_of_its_source(tmp_path: Path) -> None:
    source, out = hdr(tmp_path / "in.mkv"), tmp_path / "out"
    options: dict[str, Any] = {"prores": (1,), "ffv1": (2,), "vp9": (1,), "matte": (2,), "exr": (1, 2), "overlay": True}
    with open_source(source) as opened:
        summary = segment(opened, {1: mask(1)}, copy.copy(network()), Outputs(out, **options))
    assert summary.notes == ["HDR is read without tone mapping"]
    assert sorted(p.name for p in out.iterdir()) == [
        "cutout_1.mov",
        "cutout_1.webm",
        "cutout_2.mkv",
        "exr",
        "masks",
        "matte_2.mov",
        "overlay.mp4",
        "run.json",
    ]
    assert tags(out / "overlay.mp4") == tags(out / "cutout_1.mov") == HDR
    with av.open(str(out / "cutout_2.mkv")) as container:
        assert "16" in next(container.decode(video=0)).format.name
    segment_again = {"masks": {1: mask(1)}, "network": copy.copy(network())}
    with open_source(source) as opened:
        segment(opened, outputs=Outputs(out, matte_codec="ffv1", matte=(1,)), overwrite=True, **segment_again)  # type: ignore[arg-type]
    left = sorted(p.name for p in out.iterdir())
    assert left == ["masks", "matte_1.mkv", "run.json"], "overwrite removes every output"


def test_cut_outs_and_mattes_have_the_sound_of_the_source(tmp_path: Path) -> None:
    source, out = film(tmp_path / "in.mp4", "aac", seconds=0.6, size=SIZE), tmp_path / "out"
    with open_source(source) as opened:
        outputs = Outputs(out, prores=(1,), matte=(1,), matte_codec="vp9")
        summary = segment(opened, {0: mask(0)}, copy.copy(network()), outputs)
    assert summary.notes == ["matte_1.webm lacks sound of the source: WEBM does not hold its sound (aac)"]
    assert offset(out / "cutout_1.mov") == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("smooth_time", [0, 2])
@pytest.mark.parametrize("stop", [3, 17])
def test_a_resumed_run_has_the_mattes_of_an_unbroken_one(
    smooth_time: int, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the backward and in the forward pass."""
    monkeypatch.setattr("hodor.segment.SAVE_EVERY", 2)
    clip = video(tmp_path / "clip.mp4", 24)
    refine: dict[str, Any] = {"grow": 2, "feather": 2, "remove_specks": 5, "smooth_time": smooth_time}
    options: dict[str, Any] = {"matte": (1,), "matte_codec": "ffv1", "exr": (1, 2), "cutout": (2,), "coco": True} | refine

    def run(folder: Path, resume: bool = False, until: int | None = None) -> None:
        def progress(count: int, total: int | None) -> None:
            if count == until:
                raise KeyboardInterrupt

        with open_source(clip) as source:
            segment(source, {12: mask(12)}, copy.copy(network()), Outputs(folder, **options), resume=resume, progress=progress)

    run(tmp_path / "whole")
    run(tmp_path / "parts", until=stop)
    run(tmp_path / "parts", resume=True)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert len(files) == 24 * 3 + 3
    assert sorted(p.relative_to(tmp_path / "parts") for p in (tmp_path / "parts").rglob("*") if p.is_file()) == files
    for file in files:
        if file.suffix != ".mkv":
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file
    films = [decoded(tmp_path / folder / "matte_1.mkv", "gray") for folder in ("whole", "parts")]
    assert all(np.array_equal(a, b) for a, b in zip(*films, strict=True))


def test_another_refinement_is_another_run(tmp_path: Path) -> None:
    assert Outputs(tmp_path, grow=2).names == ["grow 2"]
    assert Outputs(tmp_path, matte=(1,), exr=(1, 2)).names == ["matte 1", "exr (1, 2)"]
    assert OutputOptions().chosen == []


def test_the_soft_masks_that_films_need_are_those_that_read_soft_gives(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", 8)
    with open_source(clip) as source:
        outputs = Outputs(tmp_path / "out", soft=True, matte=(1,), matte_codec="ffv1")
        segment(source, {5: mask(5)}, copy.copy(network()), outputs)
    for i, frame in enumerate(decoded(tmp_path / "out" / "matte_1.mkv", "gray")):
        planes, objects = read_soft(tmp_path / "out" / "soft" / f"{i:05d}.npz")
        np.testing.assert_array_equal(frame, np.round(planes[objects.index(1)] * 255).astype(np.uint8))

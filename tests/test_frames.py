"""Sources of frames that are not videos, the errors of all sources, and reading ahead."""

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import make, number, picture
from PIL import Image

from hodor.frames import open_source, prefetch


def test_what_holds_no_pictures_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(make(tmp_path / "whole.mp4").read_bytes()[:900])
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").touch()
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    messages = {
        text: "is not a video FFmpeg can read",
        empty: "is not a video FFmpeg can read",
        headless: "is not a video FFmpeg can read",
        sound: "sound.mp4 has no video stream",
        folder: "holds no image",
        str(tmp_path / "*.jpg"): "no image matches",
    }
    for spec, message in messages.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        open_source(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match="camera 97 cannot be opened: "):
        open_source("97")
    with pytest.raises(ValueError, match="expected at least one frame from frames, got none"):
        open_source(iter(()))
    with pytest.raises(ValueError, match="expected 0 <= start <= stop, got start 5, stop 3"):
        open_source([picture(0)]).frames(5, 3)


def test_a_change_of_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    both = tmp_path / "both.h264"
    parts = [make(tmp_path / f"{h}.h264", 4, size=(h, 64)) for h in (48, 96)]
    both.write_bytes(b"".join(p.read_bytes() for p in parts))
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, height in enumerate((48, 48, 96)):
        Image.fromarray(picture(i, (height, 64))).save(folder / f"{i}.png")
    for spec, index in ((both, 4), (folder, 2)):
        with pytest.raises(ValueError, match=rf"^expected frames of 48x64 pixels .*, got 96x64 for frame {index} \(.*\) of "):
            list(open_source(spec))


def test_a_folder_is_read_in_natural_order_for_all_names(tmp_path: Path) -> None:
    names = ["10.png", "2.png", "1.PNG", "Urlaub 2019, Tür (3).jpg", "a%03d.png", "frame:7.png", "é.webp", "x.y.z.bmp"]
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(tmp_path / name)
    for junk in ("notes.txt", ".DS_Store", "._1.png", "clip.mp4"):
        (tmp_path / junk).write_text("junk")
    (tmp_path / "folder.png").mkdir()
    source = open_source(tmp_path)
    frames = list(source)
    assert [f.name for f in frames] == ["1", "2", "10", "a%03d", "frame:7", "Urlaub 2019, Tür (3)", "x.y.z", "é"]
    assert [number(f.image) for f in frames] == [2, 1, 0, 4, 5, 3, 7, 6]
    assert (source.count, source.rate, frames[0].time) == (8, None, None)
    assert source.notes == ["skipped 5 that are not images: .DS_Store, ._1.png, clip.mp4, ..."]
    assert [f.name for f in source.frames(1, 3, reverse=True)] == ["10", "2"]
    assert [f.name for f in open_source(str(tmp_path / "[0-9]*.png"))] == ["2", "10"]
    assert [f.name for f in open_source(tmp_path / "2.png")] == ["2"]
    Image.fromarray(picture(0)).save(tmp_path / "10.jpg")
    with pytest.raises(ValueError, match=r"10\.jpg and 10\.png share the name 10: give a pattern"):
        open_source(tmp_path)


def test_masks_among_the_frames_are_left_out_with_a_note(tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    (shots / "masks").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(i)).save(shots / f"{i}.jpg")
    for name in ("0.png", "mask.png", "masks/1.png", "masks/2.png"):
        Image.fromarray(picture(9)).save(shots / name)
    (tmp_path / "link.png").symlink_to(shots / "mask.png")
    for spec, masks, names in (
        (shots, ["0.png", "mask.png"], "0.png, mask.png"),
        (str(shots / "*.*"), ["mask.png", "0.png"], "0.png, mask.png"),
        (shots, ["../link.png", "0.png"], "0.png, mask.png"),
        (str(shots / "**" / "*.*"), ["masks", "0.png", "mask.png"], "0.png, 1.png, 2.png, ..."),
    ):
        source = open_source(spec, [shots / m for m in masks])
        assert [(f.name, number(f.image)) for f in source] == [("0", 0), ("1", 1), ("2", 2)]
        assert f"left out of the frames, because given as a mask: {names}" in source.notes
    (shots / "0.png").unlink()
    source = open_source(shots, [tmp_path / "no.png"])
    assert [f.name for f in source] == ["0", "1", "2", "mask"]
    assert source.notes == [
        "skipped 1 that are not images: masks",
        "1 of 4 frames have names unlike the others: mask (frame 3)",
    ]
    assert len(list(open_source(shots / "mask.png", [shots / "mask.png"]))) == 1, "a picture can be its own mask"


def test_a_video_may_have_a_colon_or_a_percent_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "plain.mp4", 3).rename(tmp_path / "cam:2 100%05d.mp4")
    assert len(list(open_source(path))) == 3
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("cam:2 100%05d.mp4"))) == 3


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(picture(i, (96, 96))).save(tmp_path / f"{i}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:400])
    frames = open_source(tmp_path).frames()
    assert next(frames).index == 0
    with pytest.raises(ValueError, match=r"1\.jpg cannot be read as an image \(.*\): replace it or remove it"):
        next(frames)


def test_images_are_read_upright_without_alpha_in_8_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    Image.fromarray(picture(5)).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "phone.png"))).image, np.rot90(picture(5), -1))
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "deep.png"))).image[..., 1], deep >> 8)
    clear = np.dstack([picture(3), np.zeros((48, 64), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(next(iter(open_source(tmp_path / "clear.png"))).image, picture(3))


def test_iterators_accept_arrays_and_tensors() -> None:
    torch = pytest.importorskip("torch")
    rgb = picture(9)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
    given = [
        rgb,
        np.dstack([rgb, rgb[..., 0]]),
        tensor.requires_grad_(),
        tensor.detach().numpy(),
        rgb.astype(float).transpose(2, 0, 1) / 255,
    ]
    frames = list(open_source(iter(given)))
    assert [(f.index, f.name, f.time) for f in frames] == [(i, f"{i:05d}", None) for i in range(5)]
    for frame in frames:
        np.testing.assert_array_equal(frame.image, rgb)
    grey = next(iter(open_source([rgb[..., 2]]))).image
    np.testing.assert_array_equal(grey, np.dstack([rgb[..., 2]] * 3))
    assert [f.index for f in open_source(rgb for _ in range(9)).frames(2, 5)] == [2, 3, 4]


def test_an_iterator_is_read_once_and_not_backwards() -> None:
    source = open_source(picture(i) for i in itertools.count())
    with pytest.raises(ValueError, match="frames cannot be read backwards: save it to a video file"):
        list(source.frames(reverse=True))
    assert len(list(source.frames(stop=3))) == 3
    with pytest.raises(ValueError, match="frames has been read already"):
        list(source)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((5, 6, 7), np.uint8), r"for frame 0, got shape \(5, 6, 7\)"),
        (np.zeros(5, np.uint8), r"for frame 0, got shape \(5,\)"),
        (np.full((3, 5, 6), 200.0), r"^expected uint8 .* for frame 0, got values from 200 to 200"),
        (np.full((3, 5, 6), np.nan), "for frame 0, got values from nan to nan"),
        (np.zeros((5, 6, 3), np.int32), "for frame 0, got int32"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(item: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source([item])


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "hodor-prefetch"]


def test_prefetch_gives_the_same_items_and_stays_ahead_by_its_depth() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    ahead = prefetch(items(), depth=3)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(made) == 5  # one given, three waiting, one in hand
    assert list(ahead) == list(range(1, 50))
    assert not workers()


def test_prefetch_ends_its_thread_when_left_and_closes_the_source() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    for _ in range(20):
        ahead = prefetch(items())
        assert next(ahead) == 0
        ahead.close()
        for i in prefetch(items()):
            if i == 3:
                break
        prefetch(items())  # never started: no thread
    gc.collect()
    assert not workers()
    assert closed == ["hodor-prefetch"] * 40


def test_prefetch_raises_what_its_source_raises() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("frame 1 is broken")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="frame 1 is broken"):
        next(ahead)
    assert not workers()
    with pytest.raises(ValueError, match="expected depth of at least 1, got 0"):
        prefetch([], 0)


def test_several_videos_are_named_where_one_is_expected(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        make(tmp_path / name)
    for spec in (tmp_path, tmp_path / "*.mp4"):
        with pytest.raises(
            ValueError, match=r"^expected one video or images, got 2 videos \(a\.mp4, b\.mp4\): give one of them$"
        ):
            open_source(spec)

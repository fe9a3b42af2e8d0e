"""Folders of benchmarks as they are on disk, and how they are read."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clips import damage, make, number
from PIL import Image

import benchmarks
from benchmarks import SIZE, labels, numbered
from hodor.data.benchmarks import BENCHMARKS
from hodor.data.check import examine
from hodor.data.layouts import Layout, VideoFiles, open_layout
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.masks import write_labels
from hodor.names import natural_key

REAL = Path(__file__).parents[2] / "shared" / "data"
DAVIS, GIRLS = REAL / "davis2016-train", REAL / "davis2017-schoolgirls"
BUILT = {
    "davis2016": benchmarks.davis2016,
    "davis2017": benchmarks.davis2017,
    "youtube-vos": benchmarks.youtube,
    "lvos": benchmarks.lvos,
    "mose": benchmarks.mose,
}


def only(layout: Layout) -> VideoFiles:
    (video,) = layout.videos
    return video


@pytest.mark.parametrize("kind", BUILT)
def test_auto_recognises_each_benchmark_and_notes_it(kind: str, tmp_path: Path) -> None:
    layout = open_layout(BUILT[kind](tmp_path))
    assert layout.kind == kind
    assert layout.notes[0].startswith(f"{tmp_path} is read as {kind}: ")
    assert layout.names == open_layout(tmp_path, layout.kind).names


@pytest.mark.parametrize("kind", BUILT)
def test_every_frame_and_mask_of_every_kind_reads_at_one_size(kind: str, tmp_path: Path) -> None:
    video = only(open_layout(BUILT[kind](tmp_path), kind))  # type: ignore[arg-type]
    pictures = video.pictures(range(len(video.frames)))
    assert [p.shape for p in pictures] == [(*SIZE, 3)] * len(video.frames)
    assert all((a == b).all() for a, b in zip(pictures, video.stream(), strict=True))
    assert video.masks
    assert {video.labels(frame).shape for frame in video.masks} == {SIZE}
    assert list(video.given) == [frame for frame in video.frames if frame in video.given]


def test_davis_2016_reads_path_pairs_and_any_value_as_object_one(tmp_path: Path) -> None:
    video = only(open_layout(benchmarks.davis2016(tmp_path), "davis2016"))
    assert (video.name, video.single, video.frames) == ("swan", True, tuple(numbered(4)))
    assert (video.labels("00002") == (labels(2, (255,)) > 0)).all()
    assert video.given == {"00000": None}
    assert video.required == video.frames


def test_davis_2017_uses_val_by_default_and_other_lists_by_name(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    assert open_layout(root, "davis2017").names == ("cows",)
    assert open_layout(root, "davis2017", "train").names == ("bear",)
    secret = only(open_layout(root, "davis2017", "test-dev"))
    assert (list(secret.masks), secret.given, secret.required) == (["00000"], {"00000": None}, tuple(numbered(4)))


def test_davis_void_is_read_as_background(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    mask = labels(0, (1, 2))
    mask[:4] = 255
    Image.fromarray(mask).save(root / "Annotations" / "480p" / "cows" / "00000.png")
    assert (only(open_layout(root)).labels("00000") == labels(0, (1, 2))).all()


def test_full_resolution_is_used_where_480p_is_missing(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    for base in ("JPEGImages", "Annotations"):
        (root / base / "480p").rename(root / base / "Full-Resolution")
    assert "Full-Resolution" in str(only(open_layout(root)).masks["00000"])


def test_youtube_gives_each_object_where_it_begins_and_requires_the_frames_of_meta(tmp_path: Path) -> None:
    video = only(open_layout(benchmarks.youtube(tmp_path), "youtube-vos"))
    assert video.given == {"00000": (2,), "00010": (5,)}
    assert video.required == video.frames == ("00000", "00005", "00010", "00015")
    assert video.categories == {2: "zebra", 5: "yak"}


def test_youtube_with_all_frames_follows_them_and_requires_the_same_few(tmp_path: Path) -> None:
    video = only(open_layout(benchmarks.youtube(tmp_path, all_frames=True), "youtube-vos"))
    assert video.frames == tuple(numbered(20))
    assert video.required == ("00000", "00005", "00010", "00015")
    assert list(video.given) == ["00000", "00010"]


def test_a_youtube_split_folder_is_a_root_too(tmp_path: Path) -> None:
    layout = open_layout(benchmarks.youtube(tmp_path, all_frames=True) / "valid")
    assert (layout.kind, layout.split, only(layout).frames) == ("youtube-vos", "valid", tuple(numbered(20)))


def test_youtube_without_meta_begins_objects_on_their_first_mask(tmp_path: Path) -> None:
    (benchmarks.youtube(tmp_path) / "valid" / "meta.json").unlink()
    layout = open_layout(tmp_path, "youtube-vos")
    assert only(layout).given == {"00000": None, "00010": None}
    assert any("no meta.json" in note for note in layout.notes)


def test_lvos_gives_an_object_on_the_start_of_its_range_and_names_have_eight_digits(tmp_path: Path) -> None:
    video = only(open_layout(benchmarks.lvos(tmp_path), "lvos"))
    assert video.given == {"00000001": (1,), "00000011": (2,)}
    assert video.required == video.frames == tuple(numbered(8, 8, 5, 1))


@pytest.mark.parametrize("version", [1, 2])
def test_mose_gives_the_first_frame_of_valid(tmp_path: Path, version: int) -> None:
    root = benchmarks.mose(tmp_path, version=version)
    layout = open_layout(root)
    assert (layout.kind, layout.split, only(layout).given) == ("mose", "valid", {"00000": None})
    assert len(only(open_layout(root, "mose", "train")).masks) == 4


def test_mose_2_reports_a_length_that_differs_from_meta(tmp_path: Path) -> None:
    root = benchmarks.mose(tmp_path, version=2)
    (root / "valid" / "JPEGImages" / "cd34" / "00003.jpg").unlink()
    with pytest.raises(ValueError, match=r"cd34 has 3 frames, but its meta.json states 4"):
        open_layout(root, "mose")


def test_val_and_valid_are_the_same_split(tmp_path: Path) -> None:
    assert open_layout(benchmarks.mose(tmp_path), "mose", "val").split == "valid"


def test_a_video_file_stands_for_a_folder_of_frames(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make(tmp_path / "videos" / "clip.mp4", 9)
    write_labels(tmp_path / "Annotations" / "clip" / "00003.png", labels(3, (4,)))
    video = only(open_layout(tmp_path))
    assert video.frames == tuple(numbered(9))
    assert [number(p) for p in video.pictures([7, 2, 7])] == [7, 2, 7]
    assert [number(p) for p in video.stream()] == list(range(9))
    again: VideoFiles = pickle.loads(pickle.dumps(video))  # also after its file has been opened
    assert number(again.pictures([5])[0]) == 5
    with pytest.raises(IndexError, match="expected frames 0 to 8 of clip, got 9"):
        video.pictures([9])


def test_damaged_frames_of_a_video_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    damage(make(tmp_path / "videos" / "clip.mp4", 9, bf=0, noise=True), 5)
    write_labels(tmp_path / "Annotations" / "clip" / "00003.png", labels(3, (4,)))
    video = only(open_layout(tmp_path))
    assert len(video.pictures([0, 4])) == 2
    line = r"^frame 5 of .*clip\.mp4 does not decode \(Invalid data found .*\): replace the file$"
    with pytest.raises(ValueError, match=line):
        video.pictures([3, 5])
    with pytest.raises(ValueError, match=line):
        list(video.stream())


def test_frames_of_a_video_file_have_the_names_of_its_masks_if_each_has_one(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make(tmp_path / "videos" / "clip.mp4", 3)
    for name in ("10", "9", "11"):
        write_labels(tmp_path / "masks" / "clip" / f"{name}.png", labels(0, (1,)))
    assert only(open_layout(tmp_path)).frames == ("9", "10", "11")


def test_a_folder_with_a_folder_an_object_joins_them_and_keeps_overlaps(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "images" / "v", numbered(3))
    for i, left in ((0, 4), (1, 10)):
        for name in numbered(3)[i:]:
            mask = np.zeros(SIZE, np.uint8)
            mask[8:20, left : left + 12] = 255
            write_labels_255(tmp_path / "Annotations" / "v" / f"{i:03d}" / f"{name}.png", mask)
    layout = open_layout(tmp_path)
    video = only(layout)
    assert sorted(video.parts) == [1, 2]
    assert any("numbered from 0" in note for note in layout.notes)
    assert np.unique(video.labels("00000")).tolist() == [0, 1]
    assert (video.labels("00001")[10, [5, 12, 20]] == [1, 2, 2]).all()
    assert video.planes("00001")[1].sum() == video.planes("00001")[2].sum() == 144


def write_labels_255(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_a_flat_folder_is_one_video_if_names_count_up_and_sizes_agree(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "shot" / "JPEGImages", numbered(4))
    benchmarks.masks(tmp_path / "shot" / "Annotations", {"00001": (1,)}, numbered(4))
    layout = open_layout(tmp_path / "shot")
    assert (layout.names, only(layout).given) == (("shot",), {"00001": None})
    assert "is read as one video of 4 frames" in layout.notes[-1]


def test_a_flat_folder_of_other_names_or_sizes_is_stills(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "images", ["00000", "00001"])
    benchmarks.frames(tmp_path / "images", ["00002"], size=(30, 40))
    for name in ("00000", "00002"):
        write_labels(tmp_path / "masks" / f"{name}.png", labels(0, (1,), (30, 40) if name == "00002" else SIZE))
    layout = open_layout(tmp_path)
    assert [(v.name, v.frames, v.required) for v in layout.videos] == [(n, (n,), (n,)) for n in ("00000", "00002")]
    assert "1 images without a mask are skipped" in layout.notes


def test_zero_and_255_in_any_folder_is_one_object_and_other_values_are_ids(tmp_path: Path) -> None:
    for name, value in (("a", 255), ("b", 255)):
        benchmarks.frames(tmp_path / "JPEGImages" / name, numbered(2))
        write_labels_255(tmp_path / "Annotations" / name / "00000.png", labels(0, (value,)))
    assert [v.single for v in open_layout(tmp_path).videos] == [True, True]
    write_labels_255(tmp_path / "Annotations" / "b" / "00000.png", labels(0, (7, 255)))
    layout = open_layout(tmp_path)
    assert [v.single for v in layout.videos] == [False, False]
    assert np.unique(layout.video("b").labels("00000")).tolist() == [0, 7]


def test_frames_follow_numbers_not_letters(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "JPEGImages" / "v", ["2", "10", "1"])
    write_labels(tmp_path / "Annotations" / "v" / "1.png", labels(0, (1,)))
    assert only(open_layout(tmp_path)).frames == ("1", "2", "10")
    assert sorted(["b2", "a10", "a9"], key=natural_key) == ["a9", "a10", "b2"]


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    for base in ("JPEGImages", "Annotations"):
        (root / base / "480p" / "cows" / ".DS_Store").write_bytes(b"x")
        (root / base / "480p" / "cows" / "._00000.png").write_bytes(b"x")
    assert only(open_layout(root)).frames == tuple(numbered(4))


def test_all_problems_are_reported_in_one_line(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path, count=6)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cows\nbear\nsecret\nghost\n")
    (root / "JPEGImages" / "480p" / "cows" / "00002.jpg").unlink()
    (root / "Annotations" / "480p" / "bear" / "00000.png").unlink()
    with pytest.raises(ValueError, match="read as davis2017") as error:
        open_layout(root, "davis2017")
    message = str(error.value)
    assert "\n" not in message
    assert "cows lacks frames 00002" in message
    assert "cows has masks without frames: 00002" in message
    assert "bear has no mask on its first frame 00000" in message
    assert "ghost has no frames" in message


def test_youtube_reports_frames_and_masks_of_meta_that_are_missing(tmp_path: Path) -> None:
    root = benchmarks.youtube(tmp_path)
    (root / "valid" / "JPEGImages" / "0a" / "00015.jpg").unlink()
    (root / "valid" / "Annotations" / "0a" / "00010.png").unlink()
    with pytest.raises(ValueError, match=r"no mask on frame 00010, where 5 begin; 0a lacks frames 00015 of its meta\.json"):
        open_layout(root, "youtube-vos")


def test_only_and_without_choose_and_a_wrong_name_is_reported(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cows\nbear\n")
    assert open_layout(root, only=["bear"]).names == ("bear",)
    assert open_layout(root, without=["bear", "not-there"]).names == ("cows",)
    with pytest.raises(ValueError, match=r"^expected a sequence of .* \(cows, bear\), got 'cow'$"):
        open_layout(root, only=["cow"])


def test_wrong_kinds_splits_folders_and_meta_files_are_reported(tmp_path: Path) -> None:
    root = benchmarks.youtube(tmp_path / "y")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: give the root folder of a data set"):
        open_layout(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected a data set format \(auto, davis2016, .*\), got 'davis'"):
        open_layout(root, "davis")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^expected a split of .* \(train, valid\), got 'test'$"):
        open_layout(root, "youtube-vos", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^expected frames in JPEGImages, images or videos, and masks in Annotations"):
        open_layout(tmp_path / "empty")
    (root / "valid" / "meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta.json is not JSON .*: download it again"):
        open_layout(root, "youtube-vos")


def test_a_frame_without_a_mask_and_a_damaged_picture_are_reported(tmp_path: Path) -> None:
    video = only(open_layout(benchmarks.youtube(tmp_path), "youtube-vos"))
    with pytest.raises(ValueError, match=r"expected a frame of 0a with a mask \(00000, 00010\), got '00005'"):
        video.labels("00005")
    assert not isinstance(video.images, Path)
    video.images[1].write_bytes(b"\xff\xd8 no jpeg")
    with pytest.raises(ValueError, match=r"00005.jpg cannot be read as an image .*: replace it or remove it"):
        video.pictures([1])


def test_layouts_import_neither_pyav_nor_torch() -> None:
    line = "import sys, hodor.data.layouts; print([m for m in ('av', 'torch', 'tyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_a_fixture_for_every_kind() -> None:
    assert {*BUILT, "folder"} == set(BENCHMARKS)


@pytest.mark.skipif(not DAVIS.is_dir(), reason="the DAVIS 2016 train sequences are not here")
def test_the_real_davis_2016_videos_can_be_read() -> None:
    layout = open_layout(DAVIS, "davis2016", only=["bear", "bmx-bumps"])
    bear = layout.video("bear")
    assert (len(bear.frames), bear.frames[0], bear.labels("00077").max()) == (82, "00000", 1)
    assert bear.pictures([81])[0].shape == (480, 854, 3)


@pytest.mark.skipif(not GIRLS.is_dir(), reason="schoolgirls of DAVIS 2017 is not here")
@pytest.mark.parametrize("kind", ["auto", "davis2017"])
def test_a_real_sequence_alone_in_its_folder_is_one_video(kind: str) -> None:
    video = only(open_layout(GIRLS, kind))  # type: ignore[arg-type]
    assert (len(video.frames), video.labels("00000").max()) == (80, 7)
    assert list(video.given) == (["00000"] if kind == "davis2017" else list(video.frames))
    json.dumps(video.frames)


@pytest.mark.parametrize("entry", [{"objects": [1]}, {"objects": {"1": 3}}, {"objects": {"1": {"frames": [[1], 2]}}}])
def test_values_of_another_type_in_a_meta_file_are_refused(entry: object, tmp_path: Path) -> None:
    root = benchmarks.youtube(tmp_path)
    file = root / "valid" / "meta.json"
    file.write_text(json.dumps({"videos": {"0a": entry}}))
    with pytest.raises(ValueError, match=r"meta.json, read as youtube-vos, is damaged: [^\n]*$"):
        open_layout(root, "youtube-vos", "valid")


def shots(root: Path, names: Sequence[str] = ("a", "b", "c"), places: tuple[str, str] = ("JPEGImages", "Annotations")) -> Path:
    for name in names:
        benchmarks.frames(root / places[0] / name, numbered(4))
        benchmarks.masks(root / places[1] / name, dict.fromkeys(numbered(4), (1,)), numbered(4))
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("place", ["ImageSets", "ImageSets/Main", "."])
@pytest.mark.parametrize("line", ["{}", "JPEGImages/{}/00000.jpg JPEGImages/{}/00000.png", "{}.mp4", "./{}"])
def test_lists_of_splits_are_obeyed_in_any_folder(tmp_path: Path, encoding: str, place: str, line: str) -> None:
    root = shots(tmp_path)
    (root / place).mkdir(parents=True, exist_ok=True)
    for split, names in (("train", "ab"), ("val", "c")):
        text = "".join(line.format(name, name) + "\r\n" for name in names)
        (root / place / f"{split}.txt").write_bytes(text.encode(encoding))
    assert open_layout(root).names == ("c",)
    train = open_layout(root, "folder", "train")
    assert (train.names, train.split) == (("a", "b"), "train")
    assert any(note.endswith("train.txt: 2 of 3 are used") for note in train.notes)
    assert open_layout(root, "davis2017", "train").names == ("a", "b")
    stream = Stream(Data(root=(root,), size=SIZE, min_area=1, min_side=1), 3, 1, 0)
    assert stream.sources[0].names() == ["a", "b"]
    assert examine(root, Data(split="val", min_area=1, min_side=1)).videos == 1
    with pytest.raises(ValueError, match=r"^expected a split of .* \(train, val\), got 'test'$"):
        open_layout(root, "folder", "test")


def test_a_list_of_videos_that_do_not_exist_or_of_nothing_is_refused(tmp_path: Path) -> None:
    root = shots(tmp_path)
    listed = root / "ImageSets" / "train.txt"
    listed.parent.mkdir()
    listed.write_text("a\nzebra\n")
    with pytest.raises(ValueError, match=r"train\.txt lists zebra, of which there are no masks$"):
        open_layout(root, "folder", "train")
    listed.write_text("\n")
    with pytest.raises(ValueError, match=r"^expected a list of names in .*train\.txt, got none: write one name per line"):
        open_layout(root, "folder", "train")
    listed.write_bytes(b"a\n\xff\xfe\xfd")
    with pytest.raises(ValueError, match=r"^expected a list of names in .*train\.txt, got bytes that are not text: save it as"):
        open_layout(root, "folder", "train")


def test_training_on_a_folder_whose_lists_lack_its_split_is_refused(tmp_path: Path) -> None:
    root = shots(tmp_path)
    (root / "val.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"^expected a split of .* \(val\), got 'train'$"):
        Stream(Data(root=(root,), size=SIZE), 3, 1, 0)


def test_davis_lists_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cows\n", encoding="utf-8-sig")
    assert open_layout(root).names == ("cows",)


@pytest.mark.parametrize("kind", ["mose", "youtube-vos"])
def test_lists_beside_the_folders_of_a_split_are_obeyed(tmp_path: Path, kind: str) -> None:
    root = BUILT[kind](tmp_path)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("zebra\n")
    with pytest.raises(ValueError, match=r"train\.txt lists zebra, of which there are no masks"):
        open_layout(root, kind, "train")  # type: ignore[arg-type]
    assert open_layout(root, kind, "valid").videos  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["p{}", "images/p{}.jpg", "images/p{}.jpg masks/p{}.png"])
def test_lists_of_images_are_obeyed(tmp_path: Path, line: str) -> None:
    benchmarks.frames(tmp_path / "images", [f"p{t}" for t in range(4)])
    for t in range(4):
        write_labels(tmp_path / "masks" / f"p{t}.png", labels(t, (1,)))
    listed = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(line.format(t, t) + "\n" for t in (1, 3)), encoding="utf-8-sig")
    data = Data(root=(tmp_path,), size=SIZE, min_area=1, min_side=1)
    assert Stream(data, 1, 1, 0).sources[0].names() == ["p1", "p3"]
    found = examine(tmp_path, data)
    assert (found.frames, found.objects) == (2, 2)
    assert any(note.endswith("train.txt: 2 of 4 are used") for note in found.notes)
    listed.write_text("p1\np9\n")
    with pytest.raises(ValueError, match=r"^expected images with masks for the names of .*train\.txt, got none for p9: "):
        examine(tmp_path, data)


def test_the_frame_folders_of_sa_v_are_found(tmp_path: Path) -> None:
    """Frames at 24 a second, a folder of masks for each object on every fourth of them, and a list beside them."""
    for name in ("sav_1", "sav_2", "sav_3"):
        benchmarks.frames(tmp_path / "JPEGImages_24fps" / name, numbered(9), (1, 2))
        for i in (0, 1):
            for t in (0, 4, 8):
                plane = (labels(t, (1, 2)) == i + 1).astype(np.uint8)
                write_labels(tmp_path / "Annotations_6fps" / name / f"{i:03d}" / f"{t:05d}.png", plane)
    (tmp_path / "sav_val.txt").write_text("sav_1\nsav_3\n")
    layout = open_layout(tmp_path)
    assert (layout.kind, layout.names) == ("folder", ("sav_1", "sav_3"))
    video = layout.videos[0]
    assert (len(video.frames), list(video.masks), sorted(video.parts)) == (9, ["00000", "00004", "00008"], [1, 2])
    assert (video.labels("00004") == labels(4, (1, 2))).all()
    found = examine(tmp_path, Data(min_area=1, min_side=1))
    assert (found.videos, found.labelled, found.objects, found.damaged) == (2, 6, 12, {})


def test_a_video_with_an_empty_folder_of_masks_is_left_out_with_a_note(tmp_path: Path) -> None:
    root = shots(tmp_path)
    for path in (root / "Annotations" / "b").iterdir():
        path.unlink()
    layout = open_layout(root)
    assert layout.names == ("a", "c")
    assert f"b has no masks in {root / 'Annotations' / 'b'}: it is left out" in layout.notes

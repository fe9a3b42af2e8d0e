"""Readers of the formats of video data sets. The entry point is `hodor.data.layouts.open_layout`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hodor.data.mask_reader import masks_in, meaning_of
from hodor.data.search import (
    VALID,
    Search,
    folders,
    pick_split,
    pictures_in,
    place_of,
    read_json,
    sized,
    split_folder,
    split_lists,
    split_names,
)
from hodor.data.videofiles import VideoFiles, shown
from hodor.names import natural_key, read_list
from hodor.video.pictures import picture_size

SAMPLED = 12
"""Masks that are read to find out whether the masks of a folder contain only 0 and 255."""
IMAGES = ("JPEGImages", "images", "frames", "videos", "JPEGImages_24fps")
"""Folders of frames in the format "folder"; the last one is SA-V's."""
MASKS = ("Annotations", "masks", "Annotations_6fps")
"""Folders of masks in the format "folder"; the last one is SA-V's."""


def is_davis2016(root: Path) -> str | None:
    """Return the reason why a folder is DAVIS 2016, or None."""
    sets = root / "ImageSets"
    if (sets / "2017").is_dir():
        return None
    return next((f"it has ImageSets/{name}" for name in ("2016", "480p", "1080p") if (sets / name).is_dir()), None)


def is_davis2017(root: Path) -> str | None:
    """Return the reason why a folder is DAVIS 2017, or None."""
    return "it has ImageSets/2017" if (root / "ImageSets" / "2017").is_dir() else None


def is_youtube_vos(root: Path) -> str | None:
    """Return the reason why a folder is YouTube-VOS, or None."""
    return _by_meta(root)[0]


def is_lvos(root: Path) -> str | None:
    """Return the reason why a folder is LVOS, or None."""
    return _by_meta(root)[1]


def is_mose(root: Path) -> str | None:
    """Return the reason why a folder is MOSE, or None."""
    split = any(place != root for place in _split_folders(root))
    return "it has train or valid folders with JPEGImages, and no list of objects" if split else None


def is_folder(root: Path) -> str:
    """Return the reason why a folder is no benchmark; every folder qualifies."""
    return "it has frames and masks, and nothing that only a benchmark has"


def _split_folders(root: Path) -> list[Path]:
    return [p for p in (root, *(root / n for n in (*VALID, "test", "train"))) if (p / "JPEGImages").is_dir()]


def _by_meta(root: Path) -> tuple[str | None, str | None]:
    """Return the reasons why a folder is YouTube-VOS and LVOS: the first meta file with either sign decides."""
    for place in _split_folders(root):
        for meta in (*place.glob("*meta*.json"), *place.parent.glob(f"{place.name}_meta.json")):
            objects = _first_object(read_json(meta))
            if "frame_range" in objects:
                return None, f"{meta.relative_to(root) if meta.is_relative_to(root) else meta} has frame ranges"
            if isinstance(objects.get("frames"), list):
                return f"{meta.relative_to(root)} lists the frames of objects", None
    return None, None


def davis2016(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read DAVIS 2016: every non-zero pixel is object 1. Given: the first frame. Required: all frames.

    The lists of a split contain pairs of paths, or names of sequences.
    """
    return _davis(search, split, ("2016", "480p", "1080p"), single=True)


def davis2017(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read DAVIS 2017. Given: the objects of the first frame. Required: all frames."""
    return _davis(search, split, ("2017",), single=False)


def _davis(search: Search, split: str | None, sets: tuple[str, ...], single: bool) -> tuple[str, list[VideoFiles]]:
    root = search.root
    image_bases, masks = [sized(root / "JPEGImages"), root / "videos"], sized(root / "Annotations")
    folder = next((root / "ImageSets" / name for name in sets if (root / "ImageSets" / name).is_dir()), None)
    lists = split_lists(root) if folder is None else {p.stem: p for p in sorted(folder.glob("[!.]*.txt"))}
    if folder is None and not lists:
        split, names = split or "", folders(masks)
        if not names:  # the folder contains one sequence
            sequence = _flat(search, root.resolve().name, [base for base in image_bases if base.is_dir()], masks)
            return split, [replace(video, given={video.frames[0]: None}, single=single) for video in sequence]
        search.notes.append("no ImageSets: every sequence with masks is used")
    else:
        split = pick_split(search.root, split, list(lists))
        if folder is None:
            names, search.listing = folders(masks), lists[split]
        else:
            names = [_sequence_of(line) for line in read_list(lists[split])]
    videos = []
    for name in search.chosen(names):
        files = search.files(name, place_of(image_bases, name), masks / name, gapless=True)
        if files:
            frames, images, found = files
            if frames[0] not in found:
                search.problems.append(f"{name} has no mask on its first frame {frames[0]}")
            videos.append(VideoFiles(name, frames, images, found, {frames[0]: None}, frames, single))
    return split, videos


def mose(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read MOSE. Given: the objects of the first frame. Required: all frames.

    The lengths in meta.json of MOSE v2, if it exists, are compared with the number of frames.
    """
    split, place = split_folder(search, split)
    lengths = {name: about.get("length") for name, about in search.videos_of(place, split).items()}
    videos = []
    for name in search.chosen(folders(place / "Annotations")):
        files = search.files(name, place_of([place / "JPEGImages"], name), place / "Annotations" / name, gapless=True)
        if files:
            frames, images, found = files
            if frames[0] not in found:
                search.problems.append(f"{name} has no mask on its first frame {frames[0]}")
            if isinstance(lengths.get(name), int) and lengths[name] != len(frames):
                search.problems.append(f"{name} has {len(frames)} frames, but its meta.json states {lengths[name]}")
            videos.append(VideoFiles(name, frames, images, found, {frames[0]: None}, frames))
    return split, videos


def youtube_vos(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read YouTube-VOS. Given: each object on its first frame. Required: the frames of all objects.

    meta.json lists the frames of each object. The frames are those of <split>_all_frames if that folder exists, else every
    fifth frame.
    """
    split, place = split_folder(search, split)
    listed, bases = search.videos_of(place, split), [place / "JPEGImages"]
    all_frames = f"{place.name}_all_frames"
    for base in (place.parent / all_frames / "JPEGImages", place.parent / "all_frames" / all_frames / "JPEGImages"):
        if base.is_dir():
            bases.insert(0, base)
            search.notes.append(f"all frames of {base} are used")
    if not listed:
        search.notes.append(f"no meta.json in {place}: objects begin on their first mask, every frame is required")
    videos = []
    for name in search.chosen(listed or folders(place / "Annotations")):
        files = search.files(name, place_of(bases, name), place / "Annotations" / name)
        if not files:
            continue
        frames, images, found = files
        if not listed:
            videos.append(VideoFiles(name, frames, images, found, dict.fromkeys(found), frames))
            continue
        objects = {int(i): about for i, about in listed[name].get("objects", {}).items()}
        frames_of = {i: sorted(about.get("frames", ()), key=natural_key) for i, about in objects.items()}
        scored = set().union(*frames_of.values())
        given = _begin(search, name, {i: names[0] for i, names in frames_of.items() if names}, found)
        if missing := sorted(scored - set(frames), key=natural_key):
            search.problems.append(f"{name} lacks frames {shown(missing)} of its meta.json")
        required = tuple(frame for frame in frames if frame in scored)
        categories = {i: str(about["category"]) for i, about in objects.items() if about.get("category")}
        videos.append(VideoFiles(name, frames, images, found, given, required, categories=categories))
    return split, videos


def lvos(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read LVOS. Given: each object on the first frame of its range, from <split>_meta.json. Required: all frames."""
    split, place = split_folder(search, split)
    listed = search.videos_of(place, split)
    if not listed:
        search.notes.append(f"no {split or 'split'}_meta.json at {place}: objects begin on their first mask")
    videos = []
    for name in search.chosen(listed or folders(place / "Annotations")):
        files = search.files(name, place_of([place / "JPEGImages"], name), place / "Annotations" / name)
        if not files:
            continue
        frames, images, found = files
        given: Mapping[str, tuple[int, ...] | None] = dict.fromkeys(found)
        if listed:
            numbers = {int(frame): frame for frame in frames if frame.isdecimal()}
            starts: dict[int, str] = {}
            for i, about in listed[name].get("objects", {}).items():
                start = str(about["frame_range"]["start"]).rpartition(".")[0] or str(about["frame_range"]["start"])
                starts[int(i)] = numbers.get(int(start), start)
            given = _begin(search, name, starts, found)
        videos.append(VideoFiles(name, frames, images, found, given, frames))
    return split, videos


def folder(search: Search, split: str | None) -> tuple[str, list[VideoFiles]]:
    """Read any folder of frames and masks. Given: each object on its first mask. Required: all frames.

    The masks are Annotations/<video>/<frame>.png, Annotations/<video>/<object>/<frame>.png, or the files of one folder without
    subfolders. Such a folder is one video if the names count up and all images have one size. Otherwise its images are single
    images, each a video of one frame.
    """
    root, lists = search.root, split_lists(search.root)
    if split and ((root / split).is_dir() or not lists):
        root = root / split
        lists = {**lists, **split_lists(root)} if root.is_dir() else lists
        search.listing = next((lists[name] for name in split_names(split) if name in lists), None)
    elif lists:
        split = pick_split(root, split, list(lists))
        search.listing = lists[split]
    else:  # the list of all videos that SA-V has beside its folders
        search.listing = next((p for p in sorted(root.glob("sav_*.txt"))), None)
    image_bases = [sized(root / n) for n in IMAGES if (root / n).is_dir()]
    masks = next((sized(root / n) for n in MASKS if (root / n).is_dir()), None)
    if not image_bases or masks is None:
        folders_expected = "frames in JPEGImages, images or videos, and masks in Annotations or masks"
        raise ValueError(f"expected {folders_expected} in {root}, got neither or only one of them")
    names = folders(masks)
    if not names:
        return split or "", _flat(search, root.resolve().name, image_bases, masks)
    videos = []
    for name in search.chosen(names):
        parts = _parts(search, name, masks / name)
        joined = {f: p for folder in reversed(parts.values()) for f, p in masks_in(folder).items()}
        files = search.files(name, place_of(image_bases, name), None if parts else masks / name)
        if files:
            frames, images, found = files
            if parts:
                if strays := sorted(joined.keys() - set(frames), key=natural_key):
                    search.problems.append(f"{name} has masks without frames: {shown(strays)}")
                found = {frame: joined[frame] for frame in frames if frame in joined}
            if found:
                videos.append(VideoFiles(name, frames, images, found, dict.fromkeys(found), frames, parts=parts))
            else:
                search.notes.append(f"{name} has no masks in {masks / name}: it is left out")
    return split or "", _detect_single(search, videos)


def _flat(search: Search, name: str, image_bases: Sequence[Path], masks: Path) -> list[VideoFiles]:
    """Read a folder of images without subfolders: one video, or single images."""
    images = next((base for base in image_bases if pictures_in(base)), None)
    if images is None:
        search.problems.append(f"{masks} has masks, but there is no image in {shown([str(b) for b in image_bases])}")
        return []
    found = pictures_in(images)
    if _is_video(found):
        files = search.files(name, images, masks) if search.chosen([name]) else None
        if not files:
            return []
        search.notes.append(f"{images} is read as one video of {len(files[0])} frames")
        return _detect_single(search, [VideoFiles(name, *files, dict.fromkeys(files[2]), files[0])])
    mask_files = masks_in(masks)
    if strays := [mask for mask in mask_files if mask not in found]:
        search.problems.append(f"{masks} has masks without images: {shown(strays)}")
    if unlabelled := len(found) - len(found.keys() & mask_files.keys()):
        search.notes.append(f"{unlabelled} images without a mask are skipped")
    names = search.chosen(n for n in found if n in mask_files)
    search.notes.append(f"{images} is read as {len(names)} single images")
    return _detect_single(search, [VideoFiles(n, (n,), (found[n],), {n: mask_files[n]}, {n: None}, (n,)) for n in names])


def _is_video(found: Mapping[str, Path]) -> bool:
    """Whether pictures are frames of one video: names that count up by one and the same step, pictures of one size."""
    ends = [end for name in found if (end := re.fullmatch(r"(.*?)(\d+)", name))]
    if len(found) < 2 or len(ends) < len(found):
        return len(found) == 1
    steps = {int(b[2]) - int(a[2]) for a, b in itertools.pairwise(ends)}
    if len({end[1] for end in ends}) > 1 or len(steps) > 1:
        return False
    sizes = set()
    for path in list(found.values())[:: max(1, len(found) // SAMPLED)]:
        sizes.add(picture_size(path))
    return len(sizes) == 1


def _detect_single(search: Search, videos: list[VideoFiles]) -> list[VideoFiles]:
    """Set `single` if some masks, evenly spaced over the folder, contain only 0 and 255: every non-zero pixel is object 1."""
    if any(video.parts for video in videos):
        return videos
    some = videos[:: max(1, len(videos) // SAMPLED)]
    each = [list(video.masks.values()) for video in some if video.masks]
    several = max(3, SAMPLED // max(1, len(each)))
    paths = [path for files in each for path in files[:: max(1, len(files) // several)]]
    meaning = meaning_of(
        paths, search.notes.append
    )  # training logs and counts a file that cannot be read; tracking stops at it
    search.notes += meaning.notes
    return [replace(video, single=True, shades=True) for video in videos] if meaning.single else videos


def _parts(search: Search, name: str, folder: Path) -> dict[int, Path]:
    """Return {id: folder} if each object has its own folder of masks. If the numbers begin at 0, the ids are one higher."""
    inner = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not inner or masks_in(folder):
        return {}
    if odd := [p.name for p in inner if not p.name.isdecimal()]:
        search.problems.append(f"{name} has folders of masks whose names are not the number of an object: {shown(sorted(odd))}")
        return {}
    offset = int(any(int(p.name) == 0 for p in inner))  # id 0 is the background
    if offset:
        search.notes.append(f"{name}: objects are numbered from 0; their ids are one higher")
    return {int(p.name) + offset: p for p in sorted(inner, key=lambda p: int(p.name))}


def _begin(
    search: Search, name: str, starts: Mapping[int, str], masks: Mapping[str, Path]
) -> dict[str, tuple[int, ...] | None]:
    """Return {frame: ids that begin there}. Add a problem for a frame without a mask."""
    given: dict[str, tuple[int, ...] | None] = {}
    for frame in sorted(set(starts.values()), key=natural_key):
        ids = tuple(sorted(i for i, start in starts.items() if start == frame))
        if frame in masks:
            given[frame] = ids
        else:
            search.problems.append(f"{name} has no mask on frame {frame}, where {', '.join(map(str, ids))} begin")
    if not given and not starts:
        search.problems.append(f"{name} has no object in its meta.json")
    return given


def _first_object(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of the first object in a meta file; empty if there is none."""
    videos = meta.get("videos")
    video: Any = next(iter(videos.values()), {}) if isinstance(videos, dict) else {}
    objects = video.get("objects", {}) if isinstance(video, dict) else {}
    first: Any = next(iter(objects.values()), {}) if isinstance(objects, dict) else {}
    return first if isinstance(first, dict) else {}


def _sequence_of(line: str) -> str:
    """Return the sequence of a line: "bear", or the folder in "/JPEGImages/480p/bear/00000.jpg /Annotations/...png"."""
    first = line.split()[0]
    return Path(first).parent.name if "/" in first else first

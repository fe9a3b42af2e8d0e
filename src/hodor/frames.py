"""Read frames from any source, and write pictures and videos.

    with open_source("clip.mp4") as source:              # or a folder, "shots/*.jpg", camera 0, an iterator
        for frame in prefetch(source.frames(start=10)):  # frames(reverse=True) starts at the end
            writer.write(overlay(frame.image, labels), frame.time)
    if source.stopped:                                   # None, or "frame 37: ..." where a damaged video ended
        ...

No function here holds a whole video in memory. A file is decoded while its frames are used. Backwards it is decoded in
blocks, each from the keyframe before it, so at most 32 pictures are held at once, whatever the distance of the
keyframes. If the time stamps of a video do not identify its frames, each block is decoded from the start and holds up to
256 MB of pictures.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hodor.video.films import VideoWriter as VideoWriter
from hodor.video.images import STILLS, Stream, open_images
from hodor.video.render import Sheet as Sheet
from hodor.video.render import contact_sheet as contact_sheet
from hodor.video.render import overlay as overlay
from hodor.video.source import Frame as Frame
from hodor.video.source import Picture as Picture
from hodor.video.source import Source
from hodor.video.source import prefetch as prefetch
from hodor.video.source import size_of as size_of


def open_source(spec: str | os.PathLike[str] | int | Iterable[Any], left_out: Sequence[str | os.PathLike[str]] = ()) -> Source:
    """Open a source of frames.

    Rotation (display matrix, EXIF) is applied, alpha is dropped, more than 8 bits are reduced to 8 without tone mapping (of
    images by the range of all frames, see `hodor.video.pictures.Levels`), and non-square pixels stay as stored. A video that
    is cut off sets `Source.stopped`; frames that do not decode are named in `Source.damaged`. A damaged image in a folder is
    a ValueError when it is read, since skipping it would shift all later frames.

    Args:
        spec: one of

            - a video file or an address, in any format that FFmpeg reads;
            - an image file; if it holds several pictures (TIFF pages, animated WebP, PNG, GIF or AVIF), each is a frame;
            - a folder of images or a glob pattern, read in natural order (2.png before 10.png); other files and hidden
              files are skipped with a note;
            - the number of a camera (0 or "0");
            - an iterable of pictures: uint8 [H, W, 3] or float [3, H, W] in [0, 1], also grey or with alpha.
        left_out: files of a folder or a glob pattern that are no frames, such as the given masks; a note names them.

    Returns:
        The source. Close it, or use it in a `with` block.

    Raises:
        FileNotFoundError: "clip.mp4 does not exist".
        ValueError: the source has no picture: "clip.mp4 is not a video FFmpeg can read: ...", "clip.mp4 has no video
            stream: ...", "shots holds no image: ...", "a.jpg and a.png share the name a: ...", "camera 0 cannot be
            opened: ...".
    """
    if isinstance(spec, int) or (isinstance(spec, str) and spec.isdecimal() and not os.path.exists(spec)):
        from hodor.video.ffmpeg import camera

        pictures, rate = camera(int(spec))
        return Stream(pictures, f"camera {spec}", rate)
    if not isinstance(spec, str | os.PathLike):
        return Stream(((item, None) for item in spec), "frames", None)
    text, masks = os.fspath(spec), [Path(p) for p in left_out]
    path = Path(text)
    if "://" in text:
        return _video(text, text, text)
    if path.is_dir():
        return open_images(list(path.iterdir()), path.resolve().name, f"{text} holds no image", masks)
    if not path.exists() and glob.has_magic(text):
        found = [Path(p) for p in glob.glob(text, recursive=True)]
        if len(found) == 1 and found[0].suffix.lower() not in STILLS - {".gif"}:
            return open_source(found[0])
        return open_images(found, path.parent.name or "frames", f"no image matches {text}", masks)
    if not path.exists():
        raise FileNotFoundError(f"{text} does not exist")
    if path.suffix.lower() in STILLS - {".gif"}:
        return open_images([path], path.stem, f"{text} is not an image")
    return _video(f"file:{text}", path.stem, text)  # "file:" keeps FFmpeg from reading a colon in a name as a protocol


def _video(url: str, name: str, text: str) -> Source:
    video: Source
    try:
        from hodor.video.ffmpeg import Video

        video = Video(url, name, text)
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        from hodor.video.opencv import OpenCvVideo

        video = OpenCvVideo(text, name)
    video.files = () if "://" in text else (Path(text),)
    return video

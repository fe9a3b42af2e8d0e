"""Cut the example clip from the original video: `python make_clip.py ORIGINAL [START] [COUNT]`.

ORIGINAL is cup.mp4 of OpenCV's tutorials (doc/js_tutorials/js_assets in its repository, also in Debian's package
opencv-doc): 640x480, 26.777 frames a second, 217 frames. Frames START to START + COUNT - 1, counted from 0, are
encoded again as H.264 without sound, at the original's size and frame rate, into cup.mp4 in the folder of this script.
With the default START and COUNT the result is the clip in this repository.
"""

import argparse
import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

CLIP = Path(__file__).with_name("cup.mp4")


def cut(original: str, start: int, count: int, clip: Path) -> None:
    """Encode `count` frames of `original` from frame `start` on into `clip` (MP4, H.264, crf 23, yuv420p, no sound).

    The clip is written to a temporary file and renamed when it is complete. Timing is assumed to be even: frame n is at
    n / (frame rate) seconds.

    Args:
        original: path of the original video.
        start: index of the first frame, from 0.
        count: number of frames.
        clip: path of the new video.

    Raises:
        FileNotFoundError: the original does not exist.
        ValueError: "expected 261 frames from frame 40 on in original.mp4, got 177: choose a smaller START or COUNT".
    """
    temporary = clip.with_name(f".{clip.stem}.part.mp4")
    options = {
        "movflags": "+faststart",
        "fflags": "+bitexact",
    }  # bitexact: no name of the encoder, so the bytes are reproducible
    try:
        with av.open(original) as source, av.open(str(temporary), "w", options=options) as target:
            video = source.streams.video[0]
            rate = Fraction(video.average_rate or 0)
            settings = {"crf": "23", "preset": "slow", "threads": "1"}  # the bytes depend on the number of threads
            stream = target.add_stream("libx264", rate=rate, options=settings)
            stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
            stream.codec_context.time_base = 1 / rate
            for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(stream.codec_context, tag, getattr(video.codec_context, tag))
            done = 0
            for frame in itertools.islice(source.decode(video), start, start + count):
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base, frame.pict_type = done, 1 / rate, PictureType.NONE
                target.mux(stream.encode(frame))
                done += 1
            target.mux(stream.encode())
        if done < count:
            frames = f"{count} frames from frame {start} on"
            raise ValueError(f"expected {frames} in {original}, got {done}: choose a smaller START or COUNT")
        os.replace(temporary, clip)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("original", help="path of the original cup.mp4")
    parser.add_argument(
        "start", type=int, nargs="?", default=40, help="index of the first frame, from 0 (default: %(default)s)"
    )
    parser.add_argument("count", type=int, nargs="?", default=90, help="number of frames (default: %(default)s)")
    options = parser.parse_args()
    cut(options.original, options.start, options.count, CLIP)

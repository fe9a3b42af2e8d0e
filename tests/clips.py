"""Videos for the tests: each frame shows its number as a grey value, and a corner shows the orientation. Made with FFmpeg."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from hodor.frames import Frame


def picture(i: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frame i of the test videos: a grey value that encodes i, and a red top left corner that shows the orientation."""
    image = np.full((*size, 3), 40 + i % 50 * 4, np.uint8)
    image[: size[0] // 4, : size[1] // 4] = (255, 0, 0)
    return image


def number(image: np.ndarray) -> int:
    """Return the i of picture(i), from the middle of the image; i < 50."""
    return round((float(image[image.shape[0] // 2, image.shape[1] // 2].mean()) - 40) / 4)


def make(
    path: Path,
    count: int = 20,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    times: Sequence[float] | None = None,
    form: str | None = None,
    flags: dict[str, str] | None = None,
    noise: bool = False,
    tick: Fraction = Fraction(1, 1000),
    **options: Any,
) -> Path:
    with av.open(str(path), "w", format=form, options=flags or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if times is not None:
            stream.codec_context.time_base = tick
        for i in range(count):
            image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) if noise else picture(i, size)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, *frames: int) -> Path:
    """Overwrite the data of these frames, in the order of presentation."""
    with av.open(str(path)) as container:
        packets = sorted((p.pts, bytes(p)) for p in container.demux(video=0) if p.size)
    data = path.read_bytes()
    for n in frames:
        _, packet = packets[n]
        assert data.count(packet) == 1
        data = data.replace(packet, b"\xff" * len(packet))
    path.write_bytes(data)
    return path


def stamp(frames: Iterator[Frame]) -> list[tuple[int, str, float | None, bytes]]:
    return [(f.index, f.name, f.time, f.image.tobytes()) for f in frames]

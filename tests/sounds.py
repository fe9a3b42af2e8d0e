"""Videos with sound for the tests: a sine wave with a click every quarter of a second, which shows where the sound is."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from clips import picture

RATE = 48_000


def wave(seconds: float) -> np.ndarray:
    """A quiet sine wave of 440 Hz; click k, at k / 4 s, is a burst of (k % 7 + 2) * 500 Hz that lasts 10 ms."""
    t = np.arange(round(seconds * RATE)) / RATE
    sound = 0.05 * np.sin(2 * np.pi * 440 * t)
    for k in range(int(seconds * 4) + 1):
        burst = slice(k * RATE // 4, k * RATE // 4 + RATE // 100)
        sound[burst] += 0.8 * np.sin(2 * np.pi * (k % 7 + 2) * 500 * t[burst])
    return sound.astype(np.float32)


def film(
    path: Path,
    sound: str | None = "aac",
    seconds: float = 2.0,
    streams: int = 1,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    delay: float = 0.0,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """A video of 25 frames a second whose frame i is picture(i); `delay` is the time of its first frame on the file's clock."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        tick = Fraction(1, 25 if path.suffix == ".avi" else 1000)
        stream.codec_context.time_base = tick
        tracks: list[Any] = [container.add_stream(sound, rate=RATE, layout="mono") for _ in range(streams if sound else 0)]
        samples = wave(seconds + delay)
        for track in tracks:
            track.metadata["language"] = "eng"
        written = 0
        for i in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")
            frame.pts, frame.time_base = round((delay + i / 25) / tick), tick
            container.mux(stream.encode(frame))
            until = round((delay + (i + 1) / 25) * RATE)
            for track in tracks:
                part = av.AudioFrame.from_ndarray(samples[None, written:until], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = RATE, written, Fraction(1, RATE)
                for piece in av.AudioResampler(track.codec_context.format, "mono", RATE).resample(part):
                    container.mux(track.encode(piece))
            written = until
        for each in [stream, *tracks]:
            container.mux(each.encode())
    return path


def heard(path: Path, stream: int = 0) -> tuple[float, np.ndarray]:
    """Decode the sound; -> time of the first sample after that of the first video frame, and the samples."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).time
    parts: list[np.ndarray] = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        begin = None
        for frame in container.decode(container.streams.audio[stream]):
            begin = frame.time if begin is None else begin
            parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
        parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
    assert begin is not None
    return begin - first, np.concatenate(parts)


def offset(path: Path, start: float = 0.0, stream: int = 0) -> float:
    """How much later, in seconds, a film plays its sound than `wave` from `start` on."""
    begin, samples = heard(path, stream)
    length = len(samples) / RATE
    true = wave(start + begin + length + 1)
    lags = range(-RATE // 8, RATE // 8)
    at = round((start + begin) * RATE)
    padded = np.pad(true, (RATE, RATE))
    n = 1 << (len(samples) + RATE).bit_length()
    window = padded[at + RATE - RATE // 8 : at + RATE + len(samples) + RATE // 8]
    correlation = np.fft.irfft(np.fft.rfft(window, 2 * n) * np.conj(np.fft.rfft(samples, 2 * n)))[: len(lags)]
    return -lags[int(correlation.argmax())] / RATE

"""Films keep the sound of their source: packets are copied, and stay at their place in time."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from job import SIZE, mask, network
from sounds import film, heard, offset

from hodor.frames import VideoWriter, open_source
from hodor.segment import Outputs, segment

AUDIO_FRAME = {"aac": 1024 / 48000, "mp3": 1152 / 48000, "libopus": 0.021, "pcm_s16le": 0.0, "flac": 4608 / 48000}


def copied(source: Path, path: Path, start: int = 0, stop: int | None = None, codec: Any = "h264") -> VideoWriter:
    """Write the frames of a source with its sound."""
    with open_source(source) as opened, VideoWriter(path, 25, codec=codec, sound=opened.sound) as writer:
        for frame in opened.frames(start, stop):
            writer.write(frame.image, frame.time)
    return writer


def packets(path: Path, stream: int = 0) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[stream]) if packet.size]


def video_length(path: Path) -> float:
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    return times[-1] - times[0] + 0.04


@pytest.mark.parametrize(
    ("name", "sound", "form", "codec"),
    [
        ("in.mp4", "aac", "mp4", "h264"),
        ("in.mov", "pcm_s16le", "mov", "prores4444"),
        ("in.mkv", "libopus", "webm", "vp9"),
        ("in.mkv", "flac", "mkv", "ffv1"),
        ("in.avi", "mp3", "mp4", "h264"),
    ],
)
def test_a_film_has_the_packets_of_the_source_at_their_time(
    name: str, sound: str, form: str, codec: str, tmp_path: Path
) -> None:
    source = film(tmp_path / name, sound)
    path = tmp_path / f"out.{form}"
    assert copied(source, path, codec=codec).notes == []
    kept = packets(path)
    assert set(kept) <= set(packets(source))
    assert len(kept) >= len(packets(source)) - 2
    begin, samples = heard(path)
    frame = AUDIO_FRAME[sound]
    assert 0 <= begin <= frame
    assert begin + len(samples) / 48000 == pytest.approx(video_length(path), abs=frame + 1e-3)
    assert offset(path) == pytest.approx(offset(source), abs=frame if sound == "mp3" else 2e-3)  # AVI has no decoder delay


@pytest.mark.parametrize(("start", "stop"), [(0, 20), (13, 40), (31, None)])
def test_a_part_of_a_video_keeps_the_sound_of_that_part(start: int, stop: int | None, tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    copied(source, path, start, stop)
    begin, samples = heard(path)
    assert begin == pytest.approx(0, abs=1e-3)
    assert len(samples) / 48000 == pytest.approx(((stop or 50) - start) / 25, abs=1024 / 48000)
    assert offset(path, start / 25) == pytest.approx(0, abs=1e-3)


def test_a_part_far_into_a_video_is_found_without_reading_all_before(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4", seconds=16), tmp_path / "out.mp4"
    copied(source, path, 375, 390)
    assert heard(path)[0] == pytest.approx(0, abs=1e-3)
    assert offset(path, 15) == pytest.approx(0, abs=1e-3)


def test_the_clock_of_the_file_may_begin_later_than_0(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mkv", delay=0.5), tmp_path / "out.mp4"
    copied(source, path, 10, 30)
    assert offset(path, 0.5 + 0.4) == pytest.approx(0, abs=2e-3)


def test_start_and_stop_of_the_sound_are_seconds_for_frames_without_a_time(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with open_source(source) as opened:
        sound = replace(opened.sound, start=0.4, stop=1.0)
        with VideoWriter(path, 25, sound=sound) as writer:
            for frame in opened.frames(10, 40):
                writer.write(frame.image)
    begin, samples = heard(path)
    assert (begin, len(samples) / 48000) == (pytest.approx(0, abs=1e-3), pytest.approx(0.6, abs=1024 / 48000))
    assert offset(path, 0.4) == pytest.approx(0, abs=1e-3)


def test_all_streams_of_sound_are_copied_with_their_language(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4", streams=2), tmp_path / "out.mp4"
    copied(source, path)
    with av.open(str(path)) as container:
        assert [stream.metadata.get("language") for stream in container.streams.audio] == ["eng", "eng"]
    assert offset(path, stream=1) == pytest.approx(0, abs=1e-3)


def test_a_container_that_cannot_hold_the_sound_is_written_without_it_and_a_note_says_so(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mkv", "flac"), tmp_path / "out.webm"
    writer = copied(source, path, codec="vp9")
    assert writer.notes == ["out.webm lacks sound of the source: WEBM does not hold its sound (flac)"]
    with av.open(str(path)) as container:
        assert not container.streams.audio
        assert sum(1 for _ in container.decode(video=0)) == 50


def test_a_source_without_sound_gives_none_and_no_note(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4", None), tmp_path / "out.mp4"
    assert copied(source, path).notes == []
    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_damaged_sound_does_not_stop_a_film(tmp_path: Path) -> None:
    """The header of ADTS is destroyed in the middle of an MPEG transport stream: the sound has a gap, the film is whole."""
    source, path = film(tmp_path / "in.ts", "aac"), tmp_path / "out.mp4"
    data = np.frombuffer(source.read_bytes(), np.uint8).reshape(-1, 188).copy()
    sound = (data[:, 1] & 0x1F).astype(int) * 256 + data[:, 2] == 0x101
    middle = np.flatnonzero(sound)[len(np.flatnonzero(sound)) // 3 : len(np.flatnonzero(sound)) // 2]
    data[middle, 8:] = np.random.default_rng(0).integers(0, 256, (len(middle), 180), np.uint8)
    source.write_bytes(data.tobytes())
    writer = copied(source, path)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 50
    assert writer.notes == ["out.mp4 lacks sound of the source: it has a gap of 0.32 s at 0.68 s of the film"]
    assert 0 < len(packets(path)) < 94


def test_a_file_that_is_removed_during_a_run_gives_a_film_without_sound_and_a_note(tmp_path: Path) -> None:
    source, path = film(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with open_source(source) as opened:
        frames = list(opened.frames())
        source.unlink()
        with VideoWriter(path, 25, sound=opened.sound) as writer:
            for frame in frames:
                writer.write(frame.image, frame.time)
    assert writer.notes == ["out.mp4 lacks sound of the source: it cannot be read (No such file or directory)"]


def test_the_overlay_of_a_run_has_the_sound_of_its_source(tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", "aac", seconds=0.6, size=SIZE)

    with open_source(source) as opened:
        summary = segment(opened, {3: mask(0)}, copy.copy(network()), Outputs(tmp_path / "out", overlay=True))
    assert not [note for note in summary.notes if "sound" in note]
    assert offset(tmp_path / "out" / "overlay.mp4") == pytest.approx(0, abs=1e-3)
    begin, samples = heard(tmp_path / "out" / "overlay.mp4")
    assert begin + len(samples) / 48000 == pytest.approx(0.6, abs=1024 / 48000)

"""The command: short start, errors of one line, exit codes, and every command from end to end."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job import HODOR, SIZE, checkpoint, mask, mask_file, masks_in, picture, process, stills
from PIL import Image

from hodor import __version__, cli
from hodor.commands import console
from hodor.frames import open_source
from hodor.masks import write_labels
from hodor.outputs.refine import Refinement
from hodor.training.recipes import RECIPES

Hodor = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def hodor(capfd: pytest.CaptureFixture[str]) -> Hodor:
    """Run the command in this process; -> exit code, stdout, lines of stderr."""

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err.splitlines()

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options that select a tiny network."""
    path = checkpoint(tmp_path_factory.mktemp("network"))
    return ["--checkpoint", path, "--device", "cpu", "--dtype", "float32"]


# Start, help, messages


@pytest.mark.parametrize("arguments", [[*HODOR, "--help"], [sys.executable, "-c", "import hodor"]], ids=["help", "import"])
def test_start_needs_less_than_half_a_second_of_processor_time(arguments: list[str]) -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        subprocess.run(arguments, check=True, capture_output=True)
        times.append(spent() - before)
    assert min(times) < 0.5


def test_neither_import_nor_help_imports_torch_or_av() -> None:
    code = "import sys, hodor.cli\ntry: hodor.cli.main(['--help'])\nfinally: print({'torch', 'av'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert all(f"  {name}" in done.stdout for name in cli.COMMANDS)


def test_no_argument_shows_the_help(hodor: Hodor) -> None:
    assert hodor() == hodor("--help") == hodor("-h")
    assert hodor()[0] == 0


def test_version(hodor: Hodor) -> None:
    assert hodor("--version") == (0, f"hodor {__version__}\n", [])


def test_an_unknown_command_is_named_with_the_valid_ones(hodor: Hodor) -> None:
    code, out, errors = hodor("segmnt", "clip.mp4")
    assert (code, out) == (2, "")
    assert errors == [f"hodor: expected a command ({', '.join(cli.COMMANDS)}), got 'segmnt': see `hodor --help`"]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, hodor: Hodor) -> None:
    code, out, _ = hodor(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: hodor {name}")


def test_an_unknown_option_is_named_and_ends_with_code_2(hodor: Hodor) -> None:
    code, _, errors = hodor("segment", "clip.mp4", "--maks", "m.png")
    assert code == 2
    assert "--maks" in "".join(errors)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one; two"),
        (FileNotFoundError("mask x.png does not exist"), "mask x.png does not exist"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "x.png: No such file or directory"),
        (OSError(28, "No space left on device"), "output: No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y.png"), "/x/y.png: Permission denied"),
    ],
)  # fmt: skip
def test_errors_become_one_line_and_code_2(error: Exception, line: str, hodor: Hodor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("hodor.commands.doctor.main", fail)
    assert hodor("doctor", "x") == (2, "", [f"hodor: {line}"])


def test_of_a_list_of_problems_each_has_a_line(hodor: Hodor, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["2 problems, nothing was scored:", "- a is missing", "- b is missing"]

    def fail(argv: list[str]) -> int:
        raise ValueError("\n".join(lines))

    monkeypatch.setattr("hodor.commands.doctor.main", fail)
    assert hodor("doctor", "x") == (2, "", ["hodor: " + lines[0], *lines[1:]])


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hodor.commands.doctor.main", lambda argv: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor", "x"])


def test_ctrl_c_before_the_work_is_one_line_and_code_130(hodor: Hodor, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hodor.commands.doctor.main", stop)
    assert hodor("doctor", "x") == (130, "", ["hodor: stopped"])


def test_a_reader_that_has_exited_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    running = process(["doctor", *[mask_file(tmp_path / "m.png")] * 3], stdout=writing)
    os.close(writing)
    assert running.communicate(timeout=60)[1] == ""
    assert running.returncode == 141


# segment: the options


ALL: dict[str, list[object]] = {
    "--mask": ["MASK"],
    "--box": ["5:0,0,8,8@2"],
    "--point": ["6:20,20@2", "6:21,21@2"],
    "--background": ["6:1,1@2"],
    "--out": ["OUT"],
    "--overlay": [],
    "--sheet": [],
    "--soft": [],
    "--coco": [],
    "--ytvis": [],
    "--table": [],
    "--cutout": [1, 2],
    "--prores": [1],
    "--mots": [],
    "--labelme": [],
    "--yolo": [],
    "--simplify": [1],
    "--davis": [],
    "--vp9": [1],
    "--ffv1": [2],
    "--matte": [1, 2],
    "--matte-codec": ["ffv1"],
    "--exr": [1, 2],
    "--remove-specks": [20],
    "--fill-holes": [20],
    "--smooth": [3],
    "--grow": [-1],
    "--feather": [2],
    "--smooth-time": [1],
    "--start-frame": [0],
    "--stop-frame": [2],
    "--start-number": [1001],
    "--library": ["LIBRARY"],
    "--save-object": ["thing=1"],
    "--find-confidence": [0.5],
    "--direction": ["forward"],
    "--resume": [],
    "--strict": [],
    "--image": ["unused-by-a-picture"],
    "--json": ["SUMMARY"],
    "--model": ["hodor-lite"],
    "--checkpoint": ["CHECKPOINT"],
    "--device": ["cpu"],
    "--dtype": ["float32"],
    "--overwrite": [],
    "--size": [48],
    "--history": [3],
    "--pin-first": [],
    "--hold-lost": [],
}


def test_every_option_of_segment_works(
    tmp_path: Path, tiny: list[object], hodor: Hodor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clicked:
        """Finds an object in the left half of the lower rows for a box, in the right half for points."""

        def predict(self, box: object = None, **_: object) -> tuple[np.ndarray, float]:
            found = np.zeros(SIZE, bool)
            found[-24:, :48] = box is not None
            found[-24:, 48:] = box is None
            return found, 0.5

    monkeypatch.setattr("hodor.prompts.make_prompter", lambda _: Clicked())
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", hodor("segment", "--help")[1]))
    assert {o for o in known if not o.startswith("--no-")} - {"--help", "--find"} == set(ALL)  # --find: see test_library
    source, out = stills(tmp_path / "in", ["a.png", "b.png", "c.png"]), tmp_path / "out"
    places = {"MASK": f"{mask_file(tmp_path / 'm.png')}@1", "OUT": out, "SUMMARY": tmp_path / "s.json", "CHECKPOINT": tiny[1]}
    places["LIBRARY"] = tmp_path / "objects"
    options = [word for name, values in ALL.items() for word in (name, *(places.get(str(v), v) for v in values))]
    code, printed, errors = hodor("segment", source, *options)
    assert (code, printed) == (0, ""), errors
    assert {p.name for p in out.iterdir()} == {
        *("masks", "overlay.mp4", "sheet.png", "soft", "coco.json", "ytvis.json", "objects.csv"),
        *("cutout_1", "cutout_2", "cutout_1.mov", "cutout_1.webm", "cutout_2.mkv", "matte_1.mkv", "matte_2.mkv", "exr"),
        *("mots.txt", "labelme", "yolo", "davis", "run.json"),
    }  # fmt: skip
    found = masks_in(out / "masks")
    assert list(found) == ["1001.png", "1002.png", "1003.png"]
    assert not found["1001.png"].any(), "forward leaves the frames before the mask empty"
    assert np.array_equal(found["1002.png"], Refinement(fill_holes=20, smooth=3, grow=-1)._labels(mask()))
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["frames"], summary["tracked"], summary["objects"]) == (3, 2, [1, 2, 5, 6])
    assert (found["1003.png"][-14:-8, 8:40] == 5).all()
    assert (found["1003.png"][-14:-8, 56:88] == 6).all()
    assert [p.name for p in (tmp_path / "objects").iterdir()] == ["thing.safetensors"]


def test_segment_follows_with_the_tracking_options(
    tmp_path: Path, tiny: list[object], hodor: Hodor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hodor import tracking

    made = []
    begin = tracking.Tracker.__init__

    def recorded(self: tracking.Tracker, *arguments: object, **options: object) -> None:
        begin(self, *arguments, **options)  # type: ignore[arg-type]
        made.append((self.pin_first, self.hold_lost))

    monkeypatch.setattr(tracking.Tracker, "__init__", recorded)
    source, first = stills(tmp_path / "in", ["a.png", "b.png"]), mask_file(tmp_path / "m.png")
    for options, expected in (((), (True, True)), (("--no-pin-first", "--no-hold-lost"), (False, False))):
        made.clear()
        assert hodor("segment", source, "--mask", first, *tiny, *options, "-o", tmp_path / f"out{len(options)}")[0] == 0
        assert set(made) == {expected}


def test_a_coco_file_of_several_pictures_is_read_by_image(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    box = {"id": 1, "category_id": 1, "segmentation": [[4, 4, 40, 4, 40, 30, 4, 30]], "iscrowd": 0}
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    both = [{**box, "image_id": 1}, {**box, "id": 2, "image_id": 2, "segmentation": [[50, 4, 80, 4, 80, 30, 50, 30]]}]
    file = tmp_path / "both.json"
    file.write_text(json.dumps({"images": images, "annotations": both, "categories": [{"id": 1, "name": "thing"}]}))
    source = stills(tmp_path / "in", ["0.png", "1.png"])
    code, _, errors = hodor("segment", source, "--mask", file, "-o", tmp_path / "no", *tiny)
    assert code == 2
    assert "1.png" in errors[-1]
    assert hodor("segment", source, "--mask", file, "--image", "2.png", "-o", tmp_path / "o", *tiny)[0] == 0
    first = masks_in(tmp_path / "o" / "masks")["0.png"]
    assert first[10, 60] == 1
    assert not first[:, :45].any()
    assert hodor("doctor", file, "--image", "1.png")[0] == 0
    assert hodor("doctor", file)[0] == 2
    assert hodor("doctor")[0] == 2


def test_json_on_stdout_is_nothing_but_json(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    source = stills(tmp_path / "in", ["0.png", "1.png"])
    code, out, errors = hodor(
        "segment", source, "--mask", mask_file(tmp_path / "m.png"), "-o", tmp_path / "o", "--json", "-", *tiny
    )
    assert code == 0
    summary = json.loads(out)
    assert summary["frames"] == 2
    assert {"lost", "notes", "stopped", "interrupted", "frames_per_second", "seconds", "source", "out"} <= summary.keys()
    assert errors[-1].startswith("2 frames, ") or "was lost on" in errors[-1]


def test_masks_on_several_frames_and_a_folder_with_a_file_per_object(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    source = stills(tmp_path / "in", [f"{i}.png" for i in range(4)])
    (tmp_path / "objects").mkdir()
    for i in (1, 2):
        write_labels(tmp_path / "objects" / f"object_{i}.png", (mask() == i).astype(np.uint8))
    late = np.zeros(SIZE, np.uint8)
    late[2:8, 50:90] = 7
    write_labels(tmp_path / "late.png", late)
    given = ["--mask", tmp_path / "objects", "--mask", f"{tmp_path / 'late.png'}@2"]
    code, _, errors = hodor("segment", source, *given, "-o", tmp_path / "out", *tiny)
    assert code == 0
    found = masks_in(tmp_path / "out" / "masks")
    assert np.array_equal(found["0.png"], mask())
    assert np.array_equal(found["2.png"] == 7, late == 7)
    assert f"mask {tmp_path / 'objects'}: ids are the numbers at the end of the file names" in errors


def test_a_file_whose_name_has_an_at_is_not_split(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    source = stills(tmp_path / "in", ["0.png", "1.png"])
    code, _, errors = hodor("segment", source, "--mask", mask_file(tmp_path / "m@1.png"), "-o", tmp_path / "out", *tiny)
    assert code == 0, errors
    assert np.array_equal(masks_in(tmp_path / "out" / "masks")["0.png"], mask())


def test_a_folder_whose_name_is_a_number_is_no_camera(
    tmp_path: Path, tiny: list[object], hodor: Hodor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stills(tmp_path / "2024", ["0.png"])
    monkeypatch.chdir(tmp_path)
    code, _, errors = hodor("segment", "2024", "--mask", mask_file(tmp_path / "m.png"), "-o", "out", *tiny)
    assert code == 0, errors


def test_a_missing_camera_is_one_line(tmp_path: Path, hodor: Hodor) -> None:
    code, _, errors = hodor("segment", "7", "--mask", mask_file(tmp_path / "m.png"))
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("hodor: camera 7 cannot be opened")


def test_progress_without_a_terminal_is_at_most_a_line_in_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("segmenting") as progress:
        for i in range(1, 41):
            now[0] += 0.75
            progress(i, 90)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["segmenting: 14 of 90 frames, 1.3 frames/s", "segmenting: 28 of 90 frames, 1.3 frames/s"]


def test_progress_on_a_terminal_is_a_bar(tmp_path: Path, tiny: list[object]) -> None:
    source = stills(tmp_path / "in", [f"{i}.png" for i in range(8)])
    reading, writing = pty.openpty()
    arguments = ["segment", source, "--mask", mask_file(tmp_path / "m.png"), "-o", tmp_path / "out", *tiny]
    running = process(arguments, stderr=writing)
    os.close(writing)
    shown = b""
    try:
        while chunk := os.read(reading, 4096):
            shown += chunk
    except OSError:  # how a terminal ends on Linux
        pass
    assert running.wait(timeout=60) == 0
    assert "8/8" in shown.decode()


# doctor, score, convert


def test_doctor_reports_what_masks_contain(tmp_path: Path, hodor: Hodor) -> None:
    code, out, errors = hodor("doctor", mask_file(tmp_path / "m.png"))
    assert (code, errors) == (0, [])
    lines = out.splitlines()
    assert lines[0] == f"file    {tmp_path / 'm.png'}: PNG, mode P, 96x64"
    assert lines[-1] == "good: 2 objects, ids as stored"


def test_doctor_ends_with_2_if_it_refuses_one_of_several(tmp_path: Path, hodor: Hodor) -> None:
    write_labels(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    code, out, _ = hodor("doctor", tmp_path / "empty.png", mask_file(tmp_path / "m.png"))
    assert code == 2
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith(("good", "refused"))] == ["refused", "good"]


def test_doctor_names_a_file_that_does_not_exist(tmp_path: Path, hodor: Hodor) -> None:
    assert hodor("doctor", tmp_path / "gone.png") == (2, "", [f"hodor: mask {tmp_path / 'gone.png'} does not exist"])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Ground truth of two sequences, and predictions: "right" is the ground truth, "moved" is shifted by 3 pixels."""
    for name, shift in (("right", 0), ("moved", 3)):
        for i in range(5):
            write_labels(tmp_path / "ground_truth" / name / f"{i:05d}.png", mask(i))
            write_labels(tmp_path / "ours" / name / f"{i:05d}.png", np.roll(mask(i), shift, 1))
    return tmp_path / "ours", tmp_path / "ground_truth"


def test_score_writes_scores_of_sequences_and_objects(folders: tuple[Path, Path], tmp_path: Path, hodor: Hodor) -> None:
    code, out, errors = hodor("score", *folders, "--workers", 1, "--json", tmp_path / "scores.json")
    assert (code, errors) == (0, [])
    assert "right" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {"J&F", "J", "F"} <= scores["summary"].keys()
    sequences = {sequence["name"]: sequence for sequence in scores["sequences"]}
    assert sequences["right"]["summary"]["J&F"] == 1
    moved = {each["object"]: each["summary"] for each in sequences["moved"]["objects"]}
    assert set(moved) == {1, 2}
    assert 0.6 < moved[1]["J"] < 0.9
    assert scores["summary"]["J"] == pytest.approx((2 + moved[1]["J"] + moved[2]["J"]) / 4)


def test_score_of_some_sequences_prints_nothing_but_json_on_stdout(folders: tuple[Path, Path], hodor: Hodor) -> None:
    code, out, _ = hodor("score", *folders, "--sequences", "right", "--late-objects", "--workers", 1, "--json", "-")
    assert code == 0
    assert [sequence["name"] for sequence in json.loads(out)["sequences"]] == ["right"]


def test_score_reports_all_problems_at_once(folders: tuple[Path, Path], hodor: Hodor) -> None:
    (folders[0] / "right" / "00001.png").unlink()
    (folders[0] / "moved" / "00002.png").unlink()
    code, _, errors = hodor("score", *folders, "--workers", 1)
    assert (code, len(errors)) == (2, 3)
    assert "right" in "".join(errors[1:])
    assert "moved" in "".join(errors[1:])


def test_convert_refuses_what_is_no_checkpoint_and_writes_nothing(tmp_path: Path, hodor: Hodor) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"model": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save({"model": print}, tmp_path / "code.pth")
    for file, line in {
        "gone.pth": "no file ",
        "text.pth": "text.pth ",
        "other.pth": "other.pth does not fit the network: missing ",
        "code.pth": "code.pth contains more than tensors and plain values: refused",
    }.items():
        code, out, errors = hodor("convert", tmp_path / file, tmp_path / "out.safetensors")
        assert (code, out, len(errors)) == (2, "", 1), errors
        assert line in errors[0]
    code, _, errors = hodor("convert", tmp_path / "other.pth", tmp_path / "out.safetensors", "--model", "hodor-x")
    names = "hodor-t, stcn, xmem, cutie, cutie-small, stemseg-davis, stemseg-ytvis, stemseg-kitti"
    assert errors == [f"hodor: expected a model with released weights ({names}), got 'hodor-x'"]
    assert not (tmp_path / "out.safetensors").exists()


# benchmark, train


def test_benchmark_measures_and_draws(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    small = ["--frames", 4, "--height", 64, "--width", 96, "--size", 64, "--history", 2]
    files = ["--json", tmp_path / "b.json", "--plot", tmp_path / "b.png", "--curves", "history"]
    code, out, errors = hodor("benchmark", *small, *files, *tiny)
    assert (code, errors) == (0, [])
    report = json.loads((tmp_path / "b.json").read_text())
    assert [c["case"]["objects"] for c in report["cases"][:2]] == [1, 5]
    assert sorted({c["case"]["history"] for c in report["cases"]}) == [1, 2, 4, 7, 10]
    assert all(c["case"] | {"history": 2, "objects": 1} == report["cases"][0]["case"] for c in report["cases"])
    for case in report["cases"]:
        assert case["fps"] > 0
        assert case["ms"] == pytest.approx(1000 / case["fps"], rel=0.01)
        assert all(case["stages"][stage] > 0 for stage in ("decode", "encode", "segment", "remember", "write"))
        assert 50 < case["peak_mb"] < 20_000
        assert case["gflop"] > 0.001
        assert case["state_kb"] > 1
    states = {c["case"]["history"]: c["state_kb"] for c in report["cases"] if c["case"]["objects"] == 1}
    assert states[4] > states[2] > states[1]
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert {"processor", "cores", "torch", "python", "system"} <= report["machine"].keys()
    assert report["peak_gflops"]["mean"] > 0.1
    assert out.count("frames/s") == len(report["cases"])
    with Image.open(tmp_path / "b.png") as drawn:
        assert drawn.width == 2 * round(4.2 * 120), "expected a panel for objects and one for history"
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 20


def test_benchmark_refuses_before_it_measures(tmp_path: Path, tiny: list[object], hodor: Hodor) -> None:
    assert hodor("benchmark", "--plot", "x.gif", *tiny)[2] == [
        "hodor: expected a plot whose name ends in .png or .svg, got x.gif"
    ]
    assert hodor("benchmark", "--frames", 1, *tiny)[2] == ["hodor: expected at least 2 frames to measure, got 1"]


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences and a few stills of one moving block, in the layout of DAVIS."""
    for i in range(4):
        image, labels = Image.fromarray(picture(i)), mask(i)
        for name in ("a", "b"):
            (tmp_path / "JPEGImages" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "JPEGImages" / name / f"{i:05d}.jpg")
            write_labels(tmp_path / "Annotations" / name / f"{i:05d}.png", labels)
        (tmp_path / "stills" / "images").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "stills" / "images" / f"{i}.jpg")
        write_labels(tmp_path / "stills" / "masks" / f"{i}.png", labels)
    return tmp_path


def test_train_runs_from_end_to_end_and_its_weights_track(davis: Path, tmp_path: Path, hodor: Hodor) -> None:
    data: list[object] = ["--data.root", davis, davis / "stills", "--data.size", 64, 96, "--data.min-area", 20]
    few: list[object] = ["--steps", 2, "--batch", 1, "--frames", 2, "--warmup", 1, "--precision", "float32", "--device", "cpu"]
    small: list[object] = ["--data.min-side", 2, "--lr", 1e-4, "--out", tmp_path / "run"]
    code, out, errors = hodor("train", "hodor-lite", *data, *few, *small)
    assert code == 0, errors
    assert out == f"{tmp_path / 'run' / 'weights.safetensors'}\n"
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert lines[0]["lr"] == 1e-4
    trained = ["--checkpoint", tmp_path / "run" / "weights.safetensors", "--size", 64, "--device", "cpu"]
    frames, first = davis / "JPEGImages" / "a", davis / "Annotations" / "a" / "00000.png"
    code, _, errors = hodor("segment", frames, "--mask", first, "-o", tmp_path / "out", *trained)
    assert code == 0, errors
    assert len(masks_in(tmp_path / "out" / "masks")) == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lit"], "expected the name of a recipe, got 'lit': "),
        (["hodor-lite"], "no data: give --data.root, folders of videos"),
        (["hodor-lite", "--data.root", "gone"], "gone does not exist: give a folder of images and masks"),
        (["hodor-lite", "--device", "toaster"], "device 'toaster' cannot be used"),
    ],
)
def test_train_names_what_it_rejects(arguments: list[str], line: str, tmp_path: Path, hodor: Hodor) -> None:
    given: list[Any] = [*arguments, *(["--out", tmp_path / "run"] if len(arguments) > 1 or arguments == ["hodor-lite"] else [])]
    code, out, errors = hodor("train", *given)
    assert (code, out, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith(f"hodor: {line}")


def test_train_lists_its_recipes(hodor: Hodor) -> None:
    code, out, _ = hodor("train", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "77"}])
def test_threads_wait_briefly_unless_the_environment_sets_how(given: dict[str, str], tmp_path: Path) -> None:
    """GNU's OpenMP reports, when torch loads it, how its threads wait for each other."""
    free = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-m", "hodor.cli", "segment", "no.mp4", "--mask", "no.png", "-o", str(tmp_path / "out")],
        env=free | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    reported = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if reported is None:
        pytest.skip("torch uses another OpenMP here")
    assert reported[1] == given.get("GOMP_SPINCOUNT", "1000" if not given else "30000000000")


def test_a_closed_standard_output_is_one_line_and_the_run_is_complete(tmp_path: Path, tiny: list[object]) -> None:
    source, given = stills(tmp_path / "in", ["0.png", "1.png"]), mask_file(tmp_path / "m.png")
    arguments = ["segment", source, "--mask", given, "-o", tmp_path / "out", "--json", "-", *tiny]
    running = process(arguments, stdout=None, preexec_fn=lambda: os.close(1))
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    expected = "hodor: expected an open standard output, got a closed one: leave it open, or write to a file"
    assert errors.splitlines() == [expected]
    assert sorted(masks_in(tmp_path / "out" / "masks")) == ["0.png", "1.png"]


@pytest.mark.parametrize("device", ["/dev/full", "pipe"])
def test_messages_that_cannot_be_written_do_not_end_a_command(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(device, os.O_WRONLY)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        console.info("lost")
        console.info("lost too")
        with pytest.raises(SystemExit) as stop:
            console.fail("lost")
    assert stop.value.code == 2


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_with_one_line_and_a_second_one_does_not_interrupt_that(
    name: str, code: int, hodor: Hodor, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, steps = getattr(signal, name), []
    before = signal.signal(number, signal.SIG_DFL)  # a test run under nohup ignores SIGHUP

    def stop(argv: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("the files are complete")
        return 0

    monkeypatch.setattr(cli, "_run", stop)
    assert hodor("segment") == (code, "", ["hodor: stopped"])
    assert steps == ["the files are complete"]
    assert signal.signal(number, before) == signal.SIG_DFL


def test_a_hangup_that_is_ignored_stays_ignored(hodor: Hodor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli, "_run", lambda argv: os.kill(os.getpid(), signal.SIGHUP) or 0)
        assert hodor("segment") == (0, "", [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_score_writes_its_files_before_it_prints(
    folders: tuple[Path, Path], tmp_path: Path, hodor: Hodor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rich ends the process where the reader of a table has exited."""

    def gone(report: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr("hodor.scoring.reports.print_report", gone)
    assert hodor("score", *folders, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")[0] == 1
    assert json.loads((tmp_path / "a.json").read_text())["sequences"]
    assert (tmp_path / "a.csv").is_file()


def test_a_terminal_that_is_closed_ends_a_run_by_sighup_with_complete_files(tmp_path: Path, tiny: list[object]) -> None:
    source, given, out = (
        stills(tmp_path / "in", [f"{i:03d}.png" for i in range(150)]),
        mask_file(tmp_path / "m.png"),
        tmp_path / "out",
    )
    number, terminal = pty.fork()
    if number == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run under nohup ignores it
        words = ["segment", source, "--mask", given, "-o", out, "--overlay", *tiny]
        os.execvp(HODOR[0], [*HODOR, *map(str, words)])
    while len(list((out / "masks").glob("[0-9]*.png"))) < 20:
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 129
    found = masks_in(out / "masks")
    assert 20 <= len(found) < 150
    with open_source(out / "overlay.mp4") as film:
        assert len(list(film)) == len(found)
    assert not list(out.rglob("*.part"))

"""The HTTP API: every route with right values, in this process. Files beside this one test the process, limits and attacks."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, mask, stills, video
from PIL import Image
from serving import Discs, client, create, ended, network, picture, plane, png

from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.outputs.records import encode_rle
from hodor.session import Session

COUNT = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    video(folder / "a.mp4", COUNT, gop=4)
    stills(folder / "shots", [f"{i}.png" for i in range(3)])
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Any]:
    with client(root) as made:
        yield made


@pytest.fixture
def session(server: Any) -> Iterator[str]:
    path = create(server)
    yield path
    server.delete(path)


def red(frame: int) -> np.ndarray:
    return mask(frame) == 1


def blue(frame: int) -> np.ndarray:
    return mask(frame) == 2


def give(server: Any, session: str, frame: int, obj_id: int, what: np.ndarray) -> Any:
    answer = server.put(
        f"{session}/frames/{frame}/objects/{obj_id}/mask",
        content=png(what.astype(np.uint8)),
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def propagated(server: Any, session: str, **options: Any) -> list[dict[str, Any]]:
    """Propagate to the end; -> all events of it, by polling."""
    after = server.get(session).json()["event"]
    assert server.post(f"{session}/propagation", json=options).status_code == 202
    assert ended(server, f"{session}/propagation")["state"] == "done"
    found: list[dict[str, Any]] = []
    while True:
        part = server.get(f"{session}/events", params={"after": after, "wait": 5}).json()
        assert not part["missed"]
        found += part["events"]
        after = part["last"]
        if any(e["type"] == "propagation" and e["propagation"]["state"] != "running" for e in found):
            return found


def frames_of(events: list[dict[str, Any]]) -> list[int]:
    return [e["frame"] for e in events if e["type"] == "frame"]


# Server and sessions


def test_the_front_page_links_to_routes_that_need_no_other_server(server: Any) -> None:
    front = server.get("/")
    assert front.headers["content-type"].startswith("text/html")
    assert "://" not in front.text
    page = server.get("/api/v1/docs").text
    assert "/api/v1/sessions/{session}/propagation" in page
    assert "://" not in page
    assert "<script" not in page
    assert server.get("/api/v1/openapi.json").json()["openapi"].startswith("3.")


def test_health_states_version_limits_and_outputs(server: Any) -> None:
    found = server.get("/api/v1/health").json()
    assert found["status"] == "ok"
    assert found["limits"]["sessions"] == 64
    assert {"overlay", "coco", "cutout"} <= set(found["outputs"])


def test_metrics_are_prometheus_text(server: Any, session: str) -> None:
    lines = server.get("/api/v1/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['hodor_sessions{state="open"}']) >= 1
    assert float(values["hodor_turns_total"]) > 0
    assert float(values['hodor_answers_total{status="201"}']) >= 1
    assert all(f"# TYPE {name.split('{')[0]} " in "\n".join(lines) for name in values)


def test_a_session_states_its_video_and_is_listed(server: Any, session: str) -> None:
    found = server.get(session).json()
    assert (found["frames"], found["height"], found["width"], found["rate"]) == (COUNT, *SIZE, 25.0)
    assert (found["name"], found["source"], found["objects"], found["undo"], found["redo"]) == ("a.mp4", "a.mp4", [], 0, 0)
    assert found["id"] in [each["id"] for each in server.get("/api/v1/sessions").json()]
    assert server.delete(session).status_code == 204
    assert server.get(session).status_code == 404
    assert not list(server.host.folder.sessions.glob(found["id"]))


def test_a_folder_of_images_is_a_session(server: Any) -> None:
    path = create(server, "shots")
    assert server.get(path).json()["frames"] == 3
    np.testing.assert_array_equal(
        picture(server.get(f"{path}/frames/2?format=png").content), np.asarray(Image.open(server.host.root / "shots" / "2.png"))
    )
    server.delete(path)


def test_files_below_the_root_are_listed_without_hidden_ones(server: Any, root: Path) -> None:
    found = server.get("/api/v1/files").json()["files"]
    assert {"name": "a.mp4", "folder": False, "bytes": (root / "a.mp4").stat().st_size} in found
    assert {"name": "shots", "folder": True, "bytes": None} in found
    assert ".hodor-serve" not in [each["name"] for each in found]
    assert len(server.get("/api/v1/files?path=shots").json()["files"]) == 3


def test_an_upload_becomes_a_session_and_leaves_with_it(server: Any, root: Path) -> None:
    answer = server.post("/api/v1/uploads?name=clip.mp4", content=(root / "a.mp4").read_bytes())
    assert answer.status_code == 201
    assert answer.json()["bytes"] == (root / "a.mp4").stat().st_size
    made = server.post("/api/v1/sessions", json={"upload": answer.json()["upload"], "name": "mine"}).json()
    assert (made["name"], made["source"], made["frames"]) == ("mine", "clip.mp4", COUNT)
    path = f"/api/v1/sessions/{made['id']}"
    give(server, path, 0, 1, red(0))
    assert server.get(f"{path}/frames/3").status_code == 200
    again = server.post("/api/v1/sessions", json={"upload": answer.json()["upload"]})
    assert again.status_code == 404
    server.delete(path)
    assert server.host.folder.upload_bytes() == 0


def test_a_damaged_upload_is_refused_and_can_be_removed(server: Any, root: Path) -> None:
    upload = server.post("/api/v1/uploads?name=clip.mp4", content=(root / "a.mp4").read_bytes()[:700]).json()["upload"]
    count = len(server.get("/api/v1/sessions").json())
    answer = server.post("/api/v1/sessions", json={"upload": upload})
    assert answer.status_code == 422
    assert "clip.mp4" in answer.json()["detail"]
    assert len(server.get("/api/v1/sessions").json()) == count
    assert len(list(server.host.folder.sessions.iterdir())) == count
    assert server.delete(f"/api/v1/uploads/{upload}").status_code == 204
    assert server.delete(f"/api/v1/uploads/{upload}").status_code == 404


def test_a_view_is_stored_as_it_is(server: Any, session: str) -> None:
    view = {"in": 2, "out": 5, "hidden": [1], "text": "ä"}
    assert server.put(f"{session}/view", json=view).status_code == 204
    assert server.get(f"{session}/view").json() == view
    answer = server.put(f"{session}/view", json={"text": "x" * 70_000})
    assert (answer.status_code, answer.json()["limit"]["name"]) == (413, "view_bytes")


# Frames


def test_frames_are_exact_in_any_order(server: Any, session: str, root: Path) -> None:
    expected = [frame.image for frame in open_source(root / "a.mp4")]
    for i in (5, 0, 6, 3, 4, 1, 2):
        np.testing.assert_array_equal(picture(server.get(f"{session}/frames/{i}?format=png").content), expected[i])


def test_a_video_of_variable_rate_is_read_by_index(server: Any, root: Path) -> None:
    from clips import make, number

    times = [0.0, 0.04, 0.3, 0.34, 1.0, 1.04]
    make(root / "variable.mp4", 6, times=times)
    path = create(server, "variable.mp4")
    for i in (4, 1, 5, 0):
        answer = server.get(f"{path}/frames/{i}?format=png")
        assert number(picture(answer.content)) == i
        assert float(answer.headers["frame-time"]) == pytest.approx(times[i], abs=1e-3)
    server.delete(path)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_frames_are_encoded_and_cached(form: str, server: Any, session: str, root: Path) -> None:
    answer = server.get(f"{session}/frames/2?format={form}&quality=95")
    assert answer.headers["content-type"] == f"image/{form}"
    expected = next(open_source(root / "a.mp4").frames(2, 3)).image  # type: ignore[call-overload]
    assert np.abs(picture(answer.content).astype(int) - expected).mean() < 8
    again = server.get(f"{session}/frames/2?format={form}&quality=95", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    small = server.get(f"{session}/frames/2?format={form}&height=32")
    assert picture(small.content).shape == (32, 48, 3)


def test_a_frame_after_the_end_is_refused(server: Any, session: str) -> None:
    answer = server.get(f"{session}/frames/{COUNT}")
    assert answer.status_code == 404
    assert server.get(f"{session}/frames/-1").status_code == 422
    assert server.get(f"{session}/frames/0?format=gif").status_code == 422


# Masks


def test_a_mask_is_given_as_png_and_returned_in_all_forms(server: Any, session: str) -> None:
    answer = give(server, session, 2, 7, red(2))
    (found,) = answer["frame"]["objects"]
    assert (found["id"], found["given"], found["confidence"], found["lost"]) == (7, True, 1.0, False)
    assert found["rle"] == encode_rle(red(2))
    assert answer["state"]["objects"] == [{"id": 7, "given": [2], "name": None, "colour": None}]
    assert server.get(f"{session}/frames/2/masks").json() == answer["frame"]
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/2/labels.png").content), red(2) * 7)
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/2/objects/7/mask.png").content), red(2) * 255)
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/2/objects/7/mask.png?soft=1").content), red(2) * 255)


def test_a_mask_is_given_as_compressed_runs_of_pycocotools(server: Any, session: str) -> None:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(blue(1).astype(np.uint8)))
    answer = server.put(f"{session}/frames/1/objects/2/mask", json={"size": rle["size"], "counts": rle["counts"].decode()})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["frame"]["objects"]
    np.testing.assert_array_equal(coco.decode({**found["rle"], "counts": found["rle"]["counts"].encode()}), blue(1))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"size": [60, 80], "counts": "P1"}, "64x96"),
        ({"size": [64, 96], "counts": "P1"}, "runs"),
        ({"size": [64, 96], "counts": "\x7f" * 100}, "runs"),
        ({"size": [64, 96]}, "counts"),
    ],
)
def test_wrong_runs_are_refused(body: Any, word: str, server: Any, session: str) -> None:
    answer = server.put(f"{session}/frames/1/objects/2/mask", json=body)
    assert answer.status_code == 422
    assert word in answer.json()["detail"]
    assert server.get(session).json()["undo"] == 0


def test_a_picture_that_is_no_mask_of_one_object_is_refused(server: Any, session: str) -> None:
    for content in (png(mask(0)), png(np.zeros((10, 10), np.uint8)), b"\x89PNG nonsense", b""):
        answer = server.put(f"{session}/frames/0/objects/1/mask", content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"].startswith(("expected", "mask"))


def test_clicks_and_boxes_give_the_mask_of_the_preview(server: Any, session: str) -> None:
    place = f"{session}/frames/2/objects/1"
    shown = server.post(f"{place}/preview", json={"points": [[20, 20]]}).json()
    assert shown["score"] == 0.75
    assert server.get(session).json()["undo"] == 0
    given = server.post(f"{place}/prompts", json={"points": [[20, 20]]}).json()
    (found,) = given["frame"]["objects"]
    assert found["rle"] == shown["rle"]
    assert (found["points"], found["labels"], found["box"]) == ([[20.0, 20.0]], [1], None)
    expected = Discs(np.zeros((*SIZE, 3))).predict([(20, 20)], [1])[0]
    np.testing.assert_array_equal(plane(found["rle"]), expected)
    shown = server.post(f"{place}/preview", json={"points": [[24, 20]], "labels": [0]}).json()
    given = server.post(f"{place}/prompts", json={"points": [[24, 20]], "labels": [0]}).json()
    assert given["frame"]["objects"][0]["rle"] == shown["rle"]
    assert given["frame"]["objects"][0]["labels"] == [1, 0]
    box = server.post(f"{session}/frames/2/objects/2/prompts", json={"box": [50, 40, 60, 50]}).json()
    assert plane(box["frame"]["objects"][1]["rle"]).sum() == 100
    alone = server.post(f"{place}/prompts", json={"points": [[70, 50]], "replace": True}).json()
    assert alone["frame"]["objects"][0]["points"] == [[70.0, 50.0]]
    assert not plane(alone["frame"]["objects"][0]["rle"])[20, 20]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"points": [[1, 1]], "box": [0, 0, 5, 5]},
        {"points": [[1, 1]], "labels": [1, 0]},
        {"points": [[1, 1]], "labels": [2]},
        {"points": [[1000, 1]]},
        {"box": [5, 5, 5, 9]},
        {"points": [[1, 1]], "pionts": []},
    ],
)
def test_wrong_prompts_are_refused_with_one_line(body: Any, server: Any, session: str) -> None:
    for what in ("prompts", "preview"):
        answer = server.post(f"{session}/frames/0/objects/1/{what}", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("expected")
        assert "\n" not in answer.json()["detail"]


# Objects


def test_objects_are_named_renamed_merged_swapped_and_removed(server: Any, session: str) -> None:
    new = server.post(f"{session}/objects", json={"name": "cup", "colour": "#ff8800"}).json()
    assert new == {"id": 1, "name": "cup", "colour": "#ff8800", "given": []}
    assert server.post(f"{session}/objects", json={}).json()["id"] == 2
    give(server, session, 0, 1, red(0))
    give(server, session, 0, 2, blue(0))
    state = server.patch(f"{session}/objects/1", json={"id": 5}).json()
    assert [(o["id"], o["name"], o["colour"]) for o in state["objects"]] == [(2, None, None), (5, "cup", "#ff8800")]
    state = server.post(f"{session}/undo").json()
    assert [(o["id"], o["name"]) for o in state["objects"]] == [(1, "cup"), (2, None)]
    state = server.patch(f"{session}/objects/2", json={"name": "hand"}).json()
    assert [o["name"] for o in state["objects"]] == ["cup", "hand"]
    server.post(f"{session}/objects/1/swap", json={"other": 2, "frame": 0})
    np.testing.assert_array_equal(
        picture(server.get(f"{session}/frames/0/labels.png").content), np.where(red(0), 2, np.where(blue(0), 1, 0))
    )
    server.post(f"{session}/undo")
    assert [o["id"] for o in server.post(f"{session}/objects/1/merge", json={"other": 2}).json()["objects"]] == [1]
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/0/labels.png").content), (mask(0) > 0) * 1)
    state = server.post(f"{session}/undo").json()
    assert (state["undo"], state["redo"]) == (2, 1)
    assert [o["id"] for o in server.delete(f"{session}/objects/2").json()["objects"]] == [1]
    assert server.delete(f"{session}/objects/2").status_code == 422


def test_everything_can_be_undone_and_redone(server: Any, session: str) -> None:
    give(server, session, 0, 1, red(0))
    give(server, session, 3, 1, red(3))
    after = server.delete(f"{session}/frames/3/objects/1/mask").json()["state"]
    assert after["objects"][0]["given"] == [0]
    counts = []
    while (answer := server.post(f"{session}/undo")).status_code == 200:
        counts.append((answer.json()["undo"], answer.json()["redo"]))
    assert counts == [(2, 1), (1, 2), (0, 3)]
    assert answer.status_code == 409
    assert server.post(f"{session}/redo").json()["objects"][0]["given"] == [0]
    assert server.post(f"{session}/redo").json()["objects"][0]["given"] == [0, 3]
    assert server.post(f"{session}/redo").json()["objects"][0]["given"] == [0]
    assert server.post(f"{session}/redo").status_code == 409


def test_an_edit_of_a_state_that_another_client_has_changed_is_refused(server: Any, session: str) -> None:
    seen = server.get(session).json()["revision"]
    give(server, session, 0, 1, red(0))
    headers = {"content-type": "image/png", "if-match": str(seen)}
    place = f"{session}/frames/0/objects/1/mask"
    answer = server.put(place, content=png(blue(0).astype(np.uint8)), headers=headers)
    assert answer.status_code == 412
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/0/labels.png").content), red(0))
    headers["if-match"] = str(server.get(session).json()["revision"])
    assert server.put(place, content=png(blue(0).astype(np.uint8)), headers=headers).status_code == 200


def test_masks_are_imported_as_the_doctor_reads_them(server: Any, session: str, root: Path) -> None:
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[red(0)], colours[blue(0)] = (128, 0, 0), (0, 128, 0)
    Image.fromarray(colours).save(root / "colours.png")
    shape = {"label": "cat", "points": [[10, 10], [30, 10], [30, 30], [10, 30]], "shape_type": "polygon"}
    (root / "cat.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 64, "imageWidth": 96}))
    answer = server.post(f"{session}/imports", json={"masks": [{"path": "colours.png"}]}).json()
    assert [o["id"] for o in answer["state"]["objects"]] == [1, 2]
    assert any("colours.png" in note for note in answer["notes"])
    np.testing.assert_array_equal(picture(server.get(f"{session}/frames/0/labels.png").content), mask(0))
    upload = server.post("/api/v1/uploads?name=cat.json", content=(root / "cat.json").read_bytes()).json()["upload"]
    answer = server.post(f"{session}/imports", json={"masks": [{"upload": upload, "frame": 4}]}).json()
    assert plane(answer["frame"]["objects"][0]["rle"]).sum() == 400
    server.delete(f"/api/v1/uploads/{upload}")
    before = server.get(session).json()["undo"]
    for wrong in ([{"path": "colours.png", "frame": COUNT}], [{"path": "a.mp4"}], [{"path": "cat.json"}] * 2, [{}], []):
        assert server.post(f"{session}/imports", json={"masks": wrong}).status_code == 422
    assert server.post(f"{session}/imports", json={"masks": [{"path": "none.png"}]}).status_code == 404
    assert server.get(session).json()["undo"] == before


# Propagation


def test_a_propagation_sends_the_masks_of_a_session(server: Any, session: str, root: Path, tmp_path: Path) -> None:
    give(server, session, 2, 1, red(2))
    give(server, session, 2, 2, blue(2))
    assert server.get(f"{session}/incomplete").json() == {"ranges": [[0, 2], [3, COUNT]]}
    partial = server.get(f"{session}/frames/5/masks").json()
    assert not partial["complete"]
    assert not plane(partial["objects"][0]["rle"]).any()
    events = propagated(server, session)
    assert frames_of(events) == [*range(2, COUNT), 1, 0]
    assert server.get(f"{session}/incomplete").json() == {"ranges": []}
    with Session(root / "a.mp4", network=network(), folder=tmp_path / "s") as alone:
        alone.add_mask(2, 1, red(2))
        alone.add_mask(2, 2, blue(2))
        expected = {frame: masks for frame, _, masks in alone.propagate()}
        sure = {frame: alone.result(frame).confidence for frame in range(COUNT)}
        best = alone.suggest(3)
    for event in (e for e in events if e["type"] == "frame"):
        assert event["complete"]
        for n, each in enumerate(event["objects"]):
            np.testing.assert_array_equal(plane(each["rle"]), expected[event["frame"]][n])
            assert each["confidence"] == pytest.approx(sure[event["frame"]][each["id"]], abs=1e-4)
            assert each["lost"] == (not expected[event["frame"]][n].any())
    assert server.get(f"{session}/suggestions?k=3").json() == {"frames": best}
    lanes = server.get(f"{session}/lanes").json()
    assert [lane["given"] for lane in lanes["objects"]] == [[2], [2]]
    for lane in lanes["objects"]:
        assert lane["confidence"] == pytest.approx([sure[n][lane["id"]] for n in range(COUNT)], abs=1e-3)
    give(server, session, 4, 3, red(4))
    *known, new = server.get(f"{session}/lanes").json()["objects"]
    assert known == lanes["objects"]
    assert new["confidence"] == new["agreement"] == [1 if n == 4 else None for n in range(COUNT)]


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({"direction": "forward", "frame": 3}, [3, 4, 5, 6]),
        ({"direction": "backward", "frame": 3}, [3, 2, 1, 0]),
        ({"direction": "both", "frame": 5, "start": 4}, [5, 6, 4]),
        ({"direction": "forward", "start": 4, "stop": 5}, [4]),
    ],
)
def test_the_range_and_the_direction_decide_what_is_sent(options: Any, frames: list[int], server: Any, session: str) -> None:
    give(server, session, 1, 1, red(1))
    assert frames_of(propagated(server, session, **options)) == frames


@pytest.mark.parametrize("options", [{"start": 5, "stop": 5}, {"stop": COUNT + 1}, {"frame": COUNT}, {"direction": "up"}])
def test_wrong_ranges_are_refused(options: Any, server: Any, session: str) -> None:
    give(server, session, 1, 1, red(1))
    assert server.post(f"{session}/propagation", json=options).status_code == 422


def test_a_propagation_without_a_mask_is_refused(server: Any, session: str) -> None:
    assert server.get(f"{session}/propagation").status_code == 404
    assert server.delete(f"{session}/propagation").status_code == 404
    answer = server.post(f"{session}/propagation", json={})
    assert answer.status_code == 422
    assert "given mask" in answer.json()["detail"]


class Brake:
    """Stops each frame of a session until `go` is called, so that a test can act in the middle of a propagation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.waits, self.steps = threading.Semaphore(0), threading.Semaphore(0), 0
        original = Session.steps

        def steps(session: Session, *arguments: Any) -> Iterator[Any]:
            found = original(session, *arguments)
            return self.slowed(found) if threading.current_thread().name == "hodor-serve" else found

        monkeypatch.setattr(Session, "steps", steps)

    def slowed(self, found: Iterator[Any]) -> Iterator[Any]:
        for step in found:
            self.steps += 1
            self.waits.release()
            assert self.free.acquire(timeout=30)
            yield step

    def go(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.waits.acquire(timeout=30)
            self.free.release()


def test_a_propagation_stops_within_a_frame(server: Any, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give(server, session, 0, 1, red(0))
    brake = Brake(monkeypatch)
    assert server.post(f"{session}/propagation", json={}).json()["state"] == "running"
    brake.go(3)
    assert brake.waits.acquire(timeout=30)  # the fourth step is in progress
    assert server.delete(f"{session}/propagation").json()["id"] == 1
    brake.free.release()
    found = ended(server, f"{session}/propagation")
    assert (found["state"], brake.steps) == ("stopped", 4)
    assert server.get(f"{session}/incomplete").json()["ranges"][0][1] == COUNT
    monkeypatch.undo()
    assert frames_of(propagated(server, session))[-1] == COUNT - 1


def test_an_edit_during_a_propagation_is_used_by_it(server: Any, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give(server, session, 0, 1, red(0))
    brake = Brake(monkeypatch)
    after = server.get(session).json()["event"]
    server.post(f"{session}/propagation", json={})
    brake.go(3)
    assert brake.waits.acquire(timeout=30)
    edit = threading.Thread(target=give, args=(server, session, 5, 2, blue(5)))
    edit.start()
    time.sleep(0.1)
    brake.free.release(100)
    edit.join(30)
    assert ended(server, f"{session}/propagation")["state"] == "done"
    assert server.get(f"{session}/incomplete").json() == {"ranges": []}
    events = server.get(f"{session}/events", params={"after": after}).json()["events"]
    last = {e["frame"]: e for e in events if e["type"] == "frame"}
    assert all([o["id"] for o in e["objects"]] == [1, 2] for e in last.values())
    for frame in range(COUNT):
        assert last[frame]["objects"] == server.get(f"{session}/frames/{frame}/masks").json()["objects"]
    kinds = [e["type"] for e in events]
    assert kinds.index("state") > kinds.index("frame")


def test_sessions_are_processed_in_turns(server: Any, session: str) -> None:
    other = create(server)
    for each in (session, other):
        give(server, each, 0, 1, red(0))
    order: list[str] = []

    def noted(key: str, add: Any) -> Any:
        return lambda kind, **values: (order.append(key) if kind == "frame" else None, add(kind, **values))

    for each in (session, other):
        key = each.rsplit("/", 1)[1]
        log = server.host.sessions[key].events
        log.add = noted(key, log.add)
    server.post(f"{session}/propagation", json={})
    server.post(f"{other}/propagation", json={})
    for each in (session, other):
        assert ended(server, f"{each}/propagation")["state"] == "done"
    keys = [each.rsplit("/", 1)[1] for each in (session, other)]
    later = order[order.index(keys[1]) :]
    for n in range(1, len(later)):
        counts = [later[:n].count(key) for key in keys]
        assert max(counts) == COUNT or abs(counts[0] - counts[1]) <= 2, order
    server.delete(other)


def test_the_socket_sends_the_events_of_polling(server: Any, session: str) -> None:
    after = server.get(session).json()["event"]
    give(server, session, 0, 1, red(0))
    events = propagated(server, session)
    with server.websocket_connect(f"{session}/events?after={after}", subprotocols=["hodor.v1"]) as socket:
        assert socket.accepted_subprotocol == "hodor.v1"
        received = [json.loads(socket.receive_text()) for _ in range(len(events) + 1)]
        assert received[1:] == events
        assert received[0]["type"] == "state"
        give(server, session, 3, 1, red(3))
        assert json.loads(socket.receive_text())["state"]["objects"][0]["given"] == [0, 3]
        server.delete(session)
        assert json.loads(socket.receive_text())["type"] == "closed"


def test_a_client_that_missed_events_is_informed(server: Any, session: str) -> None:
    key = session.rsplit("/", 1)[1]
    log = server.host.sessions[key].events
    first = log.last
    for number in range(1000):
        log.add("test", text="x" * 20_000, number=number)
    assert server.get(f"{session}/events?after={first}").json()["missed"]
    assert server.get(f"{session}/events?after={log.last + 5}").json()["missed"]
    part = server.get(f"{session}/events?after={log.last - 2}").json()
    assert [e["number"] for e in part["events"]] == [998, 999]
    with server.websocket_connect(f"{session}/events?after={first}") as socket:
        assert json.loads(socket.receive_text())["type"] == "missed"


def test_polling_waits_for_an_event(server: Any, session: str) -> None:
    after = server.get(session).json()["event"]
    later = threading.Timer(0.2, give, (server, session, 0, 1, red(0)))
    later.start()
    began = time.monotonic()
    part = server.get(f"{session}/events?after={after}&wait=20").json()
    assert [e["type"] for e in part["events"]] == ["state"]
    assert time.monotonic() - began < 15
    later.join()
    assert server.get(f"{session}/events?after={part['last']}&wait=0.05").json()["events"] == []


# Exports


def test_an_export_is_that_of_the_session_as_a_folder_and_as_a_zip(server: Any, session: str, root: Path) -> None:
    give(server, session, 0, 1, red(0))
    wanted = {"folder": "out/a", "outputs": {"coco": True, "cutout": [1]}}
    made = server.post(f"{session}/exports", json=wanted)
    assert made.status_code == 202, made.text
    found = ended(server, f"{session}/exports/{made.json()['id']}")
    assert (found["state"], found["summary"]["frames"]) == ("done", COUNT), found
    assert found["names"] == ["coco.json", "cutout_1/", "masks/"]
    written = sorted(p for p in (root / "out" / "a").rglob("*") if p.is_file())
    assert len(written) == found["files"] == 2 * COUNT + 1
    labels = read_labels(root / "out" / "a" / "masks" / "00000.png")
    np.testing.assert_array_equal(labels, red(0) * 1)
    again = server.post(f"{session}/exports", json=wanted)
    assert (again.status_code, "overwrite" in again.json()["detail"]) == (409, True)
    number = server.post(f"{session}/exports", json={"outputs": {"coco": True, "cutout": [1]}}).json()["id"]
    assert ended(server, f"{session}/exports/{number}")["state"] == "done"
    answer = server.get(f"{session}/exports/{number}/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        for path in written:
            assert archive.read(path.relative_to(root / "out" / "a").as_posix()) == path.read_bytes()
    assert len(server.get(f"{session}/exports").json()) == 2
    events = server.get(f"{session}/events", params={"after": server.get(session).json()["event"] - 1}).json()["events"]
    assert events[-1]["export"]["state"] == "done"


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        ({"films": True}, "films"),
        ({"coco": 1}, "bool"),
        ({"cutout": ["a"]}, "ids"),
        ({"cutout": 1}, "tuple"),
        ({"matte_codec": "x"}, "h264"),
        ({"grow": 1e9}, "int"),
    ],
)
def test_unknown_outputs_are_refused(outputs: Any, word: str, server: Any, session: str) -> None:
    answer = server.post(f"{session}/exports", json={"outputs": outputs})
    assert (answer.status_code, word in answer.json()["detail"]) == (422, True)


def test_an_export_without_masks_fails_with_the_message_of_the_session(server: Any, session: str) -> None:
    server.post(f"{session}/exports", json={})
    found = ended(server, f"{session}/exports/1")
    assert (found["state"], "given mask" in found["message"]) == ("failed", True)
    assert server.get(f"{session}/exports/1/zip").status_code == 409
    assert server.get(f"{session}/exports/9").status_code == 404

"""Limits of the server, sessions on the disk, and the processor."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import mask, video
from serving import client, create, picture, png
from starlette.testclient import TestClient, WebSocketDenialResponse

from hodor.serve.limits import RefusedError
from hodor.serve.processor import Processor


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return video(tmp_path_factory.mktemp("clip") / "a.mp4", 6).read_bytes()


@pytest.fixture
def root(tmp_path: Path, clip: bytes) -> Path:
    (tmp_path / "a.mp4").write_bytes(clip)
    return tmp_path


def refused(answer: Any, status: int, name: str, value: float) -> None:
    assert (answer.status_code, answer.json()["limit"]) == (status, {"name": name, "value": value}), answer.text
    assert re.match(f"expected .*at most {value} ", answer.json()["detail"])


def draw(server: Any, session: str, frame: int, obj_id: int) -> Any:
    content = png((mask(frame) == obj_id).astype(np.uint8))
    return server.put(f"{session}/frames/{frame}/objects/{obj_id}/mask", content=content, headers={"content-type": "image/png"})


def test_sessions_length_and_pixels_are_limited(root: Path) -> None:
    with client(root, sessions=1) as server:
        create(server)
        refused(server.post("/api/v1/sessions", json={"path": "a.mp4"}), 409, "sessions", 1)
    with client(root, work=root / "b", frames=5) as server:
        refused(server.post("/api/v1/sessions", json={"path": "a.mp4"}), 413, "frames", 5)
        assert not list(server.host.folder.sessions.iterdir())
    with client(root, work=root / "c", pixels=64 * 96 - 1) as server:
        refused(server.post("/api/v1/sessions", json={"path": "a.mp4"}), 413, "pixels", 64 * 96 - 1)


def test_uploads_and_bodies_are_limited(root: Path, clip: bytes) -> None:
    size = len(clip)

    def parts(data: bytes = clip) -> Any:
        yield from (data[i : i + 1000] for i in range(0, len(data), 1000))

    with client(root, upload_bytes=size, all_upload_bytes=2 * size, body_bytes=5000) as server:
        for content in (clip + b"x", parts(clip + b"x")):
            refused(server.post("/api/v1/uploads?name=a.mp4", content=content), 413, "upload_bytes", size)
        assert server.host.folder.upload_bytes() == 0
        for _ in range(2):
            assert server.post("/api/v1/uploads?name=a.mp4", content=parts()).status_code == 201
        refused(server.post("/api/v1/uploads?name=a.mp4", content=b"x"), 413, "all_upload_bytes", 2 * size)
        refused(server.post("/api/v1/uploads?name=a.mp4", content=parts(b"x")), 413, "all_upload_bytes", 2 * size)
        session = create(server)
        for content in (lambda: b"x" * 5001, lambda: parts(b"x" * 5001)):
            png_type, json_type = ({"content-type": kind} for kind in ("image/png", "application/json"))
            answer = server.put(f"{session}/frames/0/objects/1/mask", content=content(), headers=png_type)
            refused(answer, 413, "body_bytes", 5000)
            refused(server.post(f"{session}/objects", content=content(), headers=json_type), 413, "body_bytes", 5000)


def test_requests_and_connections_in_flight_are_limited(root: Path) -> None:
    with client(root, requests=2, connections=1) as server:
        session = create(server)
        after = server.get(session).json()["event"]
        waits = [threading.Thread(target=server.get, args=(f"{session}/events?after={after}&wait=10",)) for _ in range(2)]
        for each in waits:
            each.start()
        while server.guard.running < 2:
            time.sleep(0.01)
        refused(server.get("/api/v1/health"), 429, "requests", 2)
        server.host.sessions[session.rsplit("/", 1)[1]].events.add("test")
        for each in waits:
            each.join(20)
        assert server.get("/api/v1/health").status_code == 200
        with server.websocket_connect(f"{session}/events"):
            with pytest.raises(WebSocketDenialResponse) as failed, server.websocket_connect(f"{session}/events"):
                pass
            refused(failed.value, 429, "connections", 1)
        with server.websocket_connect(f"{session}/events"):
            pass


def test_calls_of_one_session_that_wait_are_limited(root: Path) -> None:
    with client(root, waiting=1) as server:
        session = create(server)
        key = session.rsplit("/", 1)[1]
        begun, free = threading.Event(), threading.Event()
        server.host.processor.call(key, lambda: (begun.set(), free.wait(20)))
        assert begun.wait(20)
        server.host.processor.call(key, lambda: None)
        refused(server.get(session), 429, "waiting", 1)
        free.set()


def test_sessions_are_stored_when_others_are_opened_or_after_a_time(root: Path) -> None:
    with client(root, open_sessions=1, idle_seconds=0.3) as server:
        first, second = create(server), create(server)
        draw(server, first, 0, 1)
        draw(server, second, 1, 2)
        end = time.monotonic() + 20
        while sum(each["open"] for each in server.get("/api/v1/sessions").json()) and time.monotonic() < end:
            time.sleep(0.05)
        assert [each["open"] for each in server.get("/api/v1/sessions").json()] == [False, False]
        state = server.get(first).json()
        assert (state["open"], state["undo"], state["objects"][0]["given"]) == (True, 1, [0])
        np.testing.assert_array_equal(picture(server.get(f"{second}/frames/1/labels.png").content), (mask(1) == 2) * 2)
        assert server.post(f"{second}/close").json()["open"] is False
        assert server.post(f"{second}/undo").json()["undo"] == 0


def test_a_server_that_is_started_again_has_all_sessions(root: Path) -> None:
    with client(root, videos=(root / "a.mp4",)) as server:
        (listed,) = server.get("/api/v1/sessions").json()
        session = f"/api/v1/sessions/{listed['id']}"
        draw(server, session, 2, 1)
        server.patch(f"{session}/objects/1", json={"name": "red"})
        server.put(f"{session}/view", json={"in": 1})
        revision = server.get(session).json()["revision"]
        half = server.host.folder.sessions / "0123456789abcdef"  # as a server leaves it that is killed while it creates one
        half.mkdir()
        damaged = server.host.folder.sessions / "fedcba9876543210"
        damaged.mkdir()
        (damaged / "record.json").write_text("{")
    with client(root, videos=(root / "a.mp4",)) as server:
        assert [each["id"] for each in server.get("/api/v1/sessions").json()] == [listed["id"]]
        state = server.get(session).json()
        assert [(o["name"], o["given"]) for o in state["objects"]] == [("red", [2])]
        assert server.get(f"{session}/view").json() == {"in": 1}
        assert state["revision"] > revision
        assert not half.exists()
        assert "fedcba9876543210" in server.host.notes[0]
        assert damaged.exists()


def test_a_video_that_was_replaced_is_refused_and_nothing_is_lost(root: Path, clip: bytes) -> None:
    with client(root) as server:
        session = create(server)
        draw(server, session, 0, 1)
        server.post(f"{session}/close")
        video(root / "a.mp4", 4)
        answer = server.get(session)
        assert (answer.status_code, "expected the source of this session" in answer.json()["detail"]) == (422, True)
        (root / "a.mp4").unlink()
        assert server.get(session).status_code == 409
        (root / "a.mp4").write_bytes(clip)
        assert server.get(session).json()["undo"] == 1


def test_a_full_disk_is_reported_and_keeps_what_was_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(root) as server:
        session = create(server)
        draw(server, session, 0, 1)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("hodor.sessions.store.Store.append", full)
            answer = draw(server, session, 1, 1)
        assert (answer.status_code, answer.json()["detail"]) == (507, "No space left on device")
        assert server.get(session).json()["objects"][0]["given"] == [0]
        assert draw(server, session, 1, 1).json()["state"]["objects"][0]["given"] == [0, 1]


def test_an_unexpected_error_is_one_line_of_json_without_details(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("secret")

    with client(root) as server:
        session = create(server)
        monkeypatch.setattr("hodor.session.Session.suggest", fail)
        other = TestClient(server.app, headers=server.headers, raise_server_exceptions=False)
        answer = other.get(f"{session}/suggestions")
        assert (answer.status_code, answer.json()["detail"]) == (500, "the server failed (KeyError): report this")


# Processor


def test_a_turn_is_one_call_or_one_step_and_calls_come_first() -> None:
    done: list[str] = []
    begun, free = threading.Event(), threading.Event()
    processor = Processor()

    def steps(name: str) -> Any:
        for n in range(3):
            done.append(f"{name}{n}")
            yield

    processor.call("x", lambda: (begun.set(), free.wait(20)))
    assert begun.wait(20)
    processor.begin("a", steps("a"))
    processor.begin("b", steps("b"))
    calls = [processor.call("a", lambda: done.append("call")), processor.call("c", lambda: done.append("other"))]
    free.set()
    for each in calls:
        each.result(20)
    while not (processor.is_idle("a") and processor.is_idle("b")):
        time.sleep(0.01)
    assert done == ["call", "b0", "other", "a0", "b1", "a1", "b2", "a2"]
    processor.close()


def test_a_long_call_does_not_hold_other_sessions_and_never_runs_beside_its_own() -> None:
    processor = Processor()
    begun, free = threading.Event(), threading.Event()
    long = processor.call("a", lambda: (begun.set(), free.wait(20)), is_long=True)
    assert begun.wait(20)
    later = processor.call("a", lambda: free.is_set())
    assert processor.call("b", lambda: 7).result(20) == 7
    assert not later.done()
    free.set()
    assert later.result(20) is True
    assert long.done()
    processor.close()


def test_an_error_of_a_call_reaches_the_caller_and_the_others_continue() -> None:
    processor = Processor(max_waiting=2)

    def fail() -> None:
        raise RefusedError(409, "no")

    with pytest.raises(RefusedError):
        processor.call("a", fail).result(20)
    assert processor.call("a", lambda: 1).result(20) == 1
    processor.close()

"""The server for minutes: random requests by its OpenAPI document, and fifty sessions at the same time."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import mask, video
from serving import HEADERS, Process, checkpoint, client, create, png

EXAMPLES = int(os.environ.get("HODOR_EXAMPLES", "100"))
SECONDS = float(os.environ.get("HODOR_LOAD_SECONDS", "300"))


@pytest.mark.slow
def test_random_requests_by_the_openapi_document(tmp_path: Path) -> None:
    """Needs schemathesis, which the extra `test` does not install. HODOR_EXAMPLES sets the number of requests of each route."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    video(tmp_path / "a.mp4", 3)
    content = png((mask(0) == 1).astype(np.uint8))
    with client(tmp_path, sessions=10_000, frames=10_000) as server:
        schema = schemathesis.openapi.from_dict(server.get("/api/v1/openapi.json").json())
        current = [create(server)]

        def run(case: Any) -> None:
            if server.get(current[0]).status_code == 404:
                current[0] = create(server)
                place = f"{current[0]}/frames/0/objects/1/mask"
                server.put(place, content=content, headers={"content-type": "image/png"})
            if "session" in case.path_parameters and len(str(case.path_parameters["session"])) % 4:
                case.path_parameters["session"] = current[0].rsplit("/", 1)[1]
            if "wait" in case.query:
                case.query["wait"] = 0.01
            answer = server.request(**case.as_transport_kwargs(base_url="http://testserver", headers=HEADERS))
            assert answer.status_code < 500, (case.method, case.path, answer.text[:500])
            if answer.status_code >= 400:
                assert set(answer.json()) == {"detail", "limit"}, answer.text[:500]

        quick = settings(
            max_examples=EXAMPLES, deadline=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck], database=None
        )
        count = 0
        for operation in schema.get_all_operations():
            quick(given(case=operation.ok().as_strategy())(run))()
            count += 1
        assert count > 30


@pytest.mark.slow
def test_fifty_sessions_at_the_same_time(tmp_path: Path) -> None:
    """For five minutes, or HODOR_LOAD_SECONDS: no error, and the memory of the process returns to that of the first round."""
    root = tmp_path / "root"
    root.mkdir()
    video(root / "a.mp4", 6)
    network = ["--checkpoint", checkpoint(tmp_path), "--device", "cpu", "--dtype", "float32", "--size", 64]
    server = Process("--root", root, "--port", 0, "--requests", 200, "--open-sessions", 60, *network)
    content = png((mask(0) == 1).astype(np.uint8))
    errors: list[BaseException] = []
    end = time.monotonic() + SECONDS
    rounds = [0]

    def work() -> None:
        try:
            while time.monotonic() < end:
                session = f"/api/v1/sessions/{server('POST', '/api/v1/sessions', {'path': 'a.mp4'})['id']}"
                server("PUT", f"{session}/frames/0/objects/1/mask", content, "image/png")
                last = server("GET", session)["event"]
                server("POST", f"{session}/propagation", {})
                frames = 0
                while server("GET", f"{session}/propagation")["state"] == "running":
                    part = server("GET", f"{session}/events?after={last}&wait=20")
                    frames, last = frames + sum(e["type"] == "frame" for e in part["events"]), part["last"]
                part = server("GET", f"{session}/events?after={last}")
                assert frames + sum(e["type"] == "frame" for e in part["events"]) == 6
                server("GET", f"{session}/frames/3?format=webp")
                server("DELETE", session)
                rounds[0] += 1
        except BaseException as error:
            errors.append(error)

    def memory() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) >> 10

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    time.sleep(min(30.0, SECONDS / 4))
    early = memory()
    for thread in threads:
        thread.join()
    late = memory()
    print(f"{rounds[0]} sessions in {SECONDS:g} s, {early} MB after the first, {late} MB at the end")
    assert not errors, errors[:3]
    assert server("GET", "/api/v1/sessions") == []
    assert late < early + 100
    server.end(signal.SIGKILL)

"""Attacks on the server: other hosts and sites, no token, paths out of the root, playlists, malformed and oversized values."""

from __future__ import annotations

import ast
import hmac
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import video
from serving import TOKEN, client, create, ended, png
from starlette.testclient import WebSocketDenialResponse

from hodor.serve import guard
from hodor.serve.limits import RefusedError
from hodor.serve.paths import below, parts_of

SOURCES = sorted((Path(__file__).parents[1] / "src" / "hodor" / "serve").rglob("*.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    folder = base / "root"
    folder.mkdir()
    video(folder / "a.mp4", 3)
    video(base / "secret.mp4", 3)
    (folder / "out.mp4").symlink_to(base / "secret.mp4")
    (folder / "up").symlink_to(base)
    (folder / "inside.mp4").symlink_to(folder / "a.mp4")
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "linked").mkdir()
    (folder / "linked" / "x.png").symlink_to(base / "secret.mp4")
    (folder / ".hidden.mp4").write_bytes((folder / "a.mp4").read_bytes())
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Any]:
    with client(root) as made:
        yield made


@pytest.fixture(scope="module")
def session(server: Any) -> str:
    return create(server)


# Token


def test_every_route_needs_the_token(server: Any) -> None:
    checked = 0
    for path, methods in server.get("/api/v1/openapi.json").json()["paths"].items():
        for method in methods:
            place = re.sub(r"\{\w+\}", "1", path)
            for headers in ({"authorization": ""}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": TOKEN}):
                answer = server.request(method, place, headers=headers, content=b"")
                expected = 200 if path in guard.PUBLIC else 401
                assert answer.status_code == expected, (method, path, headers)
                checked += 1
    assert checked > 90


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nothing",
        "/api/v1",
        "/api",
        "/apix",
        "/api/v1/docs/",
        "/%61pi/v1/sessions",
        "/api/v1/sessions?token=" + TOKEN,
        "/api/v1/sessions?ticket=x",
        "/api/v1/docs/../sessions",
    ],
)
def test_no_other_spelling_of_a_path_leads_around_the_token(path: str, server: Any) -> None:
    answer = server.get(path, headers={"authorization": ""})
    assert answer.status_code == 401


def test_paths_outside_the_interface_hold_nothing(server: Any) -> None:
    for path in (
        "//api/v1/sessions",
        "/./api/v1/sessions",
        "/x",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/sources.sha256/../../app.py",
        "/app.py",
    ):
        assert server.get(path, headers={"authorization": ""}).status_code in (401, 404)


@pytest.mark.parametrize("protocols", [[], ["hodor.v1"], ["token.wrong"], ["token."], ["hodor.v1", f"token.{TOKEN}x"]])
def test_the_socket_needs_the_token(protocols: list[str], server: Any, session: str) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        server.websocket_connect(f"{session}/events", subprotocols=protocols, headers={"authorization": ""}),
    ):
        pass
    assert refused.value.status_code == 401
    accepted = ["hodor.v1", f"token.{TOKEN}"]
    with server.websocket_connect(f"{session}/events", subprotocols=accepted, headers={"authorization": ""}) as socket:
        assert socket.accepted_subprotocol == "hodor.v1"


def test_tokens_are_compared_in_constant_time(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or original(a, b))
    assert server.get("/api/v1/health", headers={"authorization": "Bearer guess"}).status_code == 401
    assert compared == [(b"guess", TOKEN.encode())]
    assert server.get("/api/v1/health", headers={"authorization": b"Bearer \xff\xfe"}).status_code == 401


def test_a_ticket_is_valid_once_for_one_path_and_for_get(server: Any, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ticket() -> str:
        return str(server.post("/api/v1/tickets", json={"path": f"{session}/frames/0"}).json()["ticket"])

    nothing = {"authorization": ""}
    one = ticket()
    assert server.get(f"{session}/frames/1?ticket={one}", headers=nothing).status_code == 401
    assert server.delete(f"{session}/frames/0?ticket={one}", headers=nothing).status_code == 401
    assert server.get(f"{session}/frames/0?ticket={one}&ticket={one}", headers=nothing).status_code == 401
    assert server.get(f"{session}/frames/0?format=webp&ticket={one}", headers=nothing).status_code == 200
    assert server.get(f"{session}/frames/0?ticket={one}", headers=nothing).status_code == 401
    monkeypatch.setattr(guard, "TICKET_SECONDS", -1.0)
    assert server.get(f"{session}/frames/0?ticket={ticket()}", headers=nothing).status_code == 401
    assert server.post("/api/v1/tickets", json={"path": "//evil.example/api/v1/"}).status_code == 422


# Host and origin


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "testserver.evil.example", "", "testserver@evil.example", "127.0.0.1", "testserver:x",
     "testserver/../", "[::1", "testserver, evil.example"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str, server: Any) -> None:
    for path in ("/", "/api/v1/health", "/api/v1/docs"):
        assert server.get(path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["testserver", "testserver:1234", "TESTSERVER"])
def test_the_own_host_is_accepted_with_any_port(host: str, server: Any) -> None:
    assert server.get("/api/v1/health", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_addresses_are_accepted_only_by_a_server_that_listens_on_all() -> None:
    from hodor.commands.serve import Serve

    def accepts(serve: Serve, host: str) -> bool:
        return guard.Guard(None, TOKEN, serve._names(), None)._is_host(host)  # type: ignore[arg-type]

    for host in ("127.0.0.1:8765", "localhost", "[::1]:8765"):
        assert accepts(Serve(), host)
    assert not accepts(Serve(), "192.168.1.7:8765")
    assert accepts(Serve(host="0.0.0.0"), "192.168.1.7:8765")
    assert not accepts(Serve(host="0.0.0.0"), "box.example")
    assert accepts(Serve(allow_host=("box.example",)), "box.example")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://testserver.evil.example", "http://testserver:81", "x"]
)
def test_other_origins_are_refused(origin: str, server: Any, session: str) -> None:
    assert server.get("/api/v1/health", headers={"origin": origin}).status_code == 403
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        server.websocket_connect(f"{session}/events", headers={"origin": origin}),
    ):
        pass
    assert refused.value.status_code == 403


def test_requests_of_other_sites_are_refused(server: Any) -> None:
    assert server.get("/api/v1/health", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert server.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the page


def test_answers_allow_no_inline_script_and_no_other_site(server: Any) -> None:
    for path in ("/", "/api/v1/docs", "/api/v1/health", "/api/v1/nothing"):
        headers = server.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert policy["frame-ancestors"] == "'none'"
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


# Paths

WRONG = [
    "../secret.mp4", "up/secret.mp4", "out.mp4", "/etc/passwd", "a/../../secret.mp4", "..", ".", "./a.mp4", ".hidden.mp4",
    ".hodor-serve/sessions", "a.mp4\0.png", "a\n.mp4", "\\\\server\\share\\a.mp4", "..\\secret.mp4", "C:\\a.mp4", "C:a.mp4",
    "c:/a.mp4", "CON", "con.mp4", "a/NUL.txt", "COM1", "lpt9.mp4", "aux .mp4", "a.mp4.", "a.mp4 ", "circle", "linked",
    "pipe.mp4",
    "~/a.mp4", "none.mp4", "http://127.0.0.1/a.mp4", "file:a.mp4", "file:///etc/passwd", "concat:a.mp4|a.mp4", "pipe:0", "0",
    "data:video/mp4;base64,AAAA", "subfile,,start,0,end,9,,:a.mp4", "%2e%2e/secret.mp4", "*.mp4", "a.mp[4]", "x" * 5000,
    "\ud800",
    "a.mp4/b", "a.mp4::$DATA",
]  # fmt: skip


@pytest.mark.parametrize("path", WRONG, ids=range(len(WRONG)))
def test_no_path_leads_out_of_the_root(path: str, server: Any) -> None:
    before = len(server.host.sessions)
    body = json.dumps({"path": path})  # \ud800 as an escape
    for place, more in (("/api/v1/sessions", body), ("/imports", json.dumps({"masks": [{"path": path}]}))):
        place = place if place.startswith("/api") else f"/api/v1/sessions/{next(iter(server.host.sessions), 'x')}{place}"
        answer = server.post(place, content=more, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text
        assert "secret" not in answer.text or "secret" in path
        assert str(server.host.root.parent) not in answer.text
    assert len(server.host.sessions) == before


@pytest.mark.parametrize(
    "path", ["../out", "up/out", "/tmp/out", "", ".", "a.mp4", ".hidden", "CON", "linked", "out\0", "C:\\out"]
)
def test_no_export_leads_out_of_the_root(path: str, server: Any, session: str) -> None:
    before = sorted(server.host.root.parent.glob("**/*"))
    answer = server.post(f"{session}/exports", json={"folder": path, "overwrite": True})
    assert 400 <= answer.status_code < 500, answer.text
    assert sorted(server.host.root.parent.glob("**/*")) == before


def test_listings_hold_nothing_from_outside(server: Any) -> None:
    names = [each["name"] for each in server.get("/api/v1/files").json()["files"]]
    assert names == ["a.mp4", "inside.mp4", "linked"]
    for path in ("..", "up", "/", "a.mp4", "none"):
        assert 400 <= server.get("/api/v1/files", params={"path": path}).status_code < 500


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    assert below(root.resolve(), "inside.mp4") == root.resolve() / "a.mp4"
    assert parts_of("a//b/") == ["a", "b"]
    with pytest.raises(RefusedError):
        below(root.resolve(), "up/x/../..")


@pytest.mark.parametrize(
    "name", ["../a.mp4", "a/b.mp4", "..", "", ".a", "a\0b", "CON", "c:a.mp4", "x" * 201, "a\\b", "\u00e4" * 150]
)
def test_names_of_uploads_cannot_be_paths(name: str, server: Any) -> None:
    answer = server.post("/api/v1/uploads", params={"name": name}, content=b"x")
    assert answer.status_code in (400, 422)
    assert not list(server.host.folder.uploads.iterdir())


@pytest.mark.parametrize("upload", ["..", "../sessions", "x", "0" * 16, "0123456789ABCDEF", "*", ""])
def test_ids_of_uploads_cannot_be_paths(upload: str, server: Any) -> None:
    assert server.post("/api/v1/sessions", json={"upload": upload}).status_code == 404


# FFmpeg


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.txt", "list.mpd", "list.ffconcat"])
@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{file}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{file}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {name}\n",
        "ffconcat version 1.0\nfile '{file}'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{file}</BaseURL></Period></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
    ids=["hls", "hls-file", "concat", "concat-absolute", "dash", "sdp"],
)
def test_playlists_are_refused_before_ffmpeg_opens_what_they_name(content: str, name: str, server: Any, root: Path) -> None:
    text = content.format(file=root.parent / "secret.mp4", name="a.mp4")
    upload = server.post("/api/v1/uploads", params={"name": name}, content=text.encode()).json()["upload"]
    answer = server.post("/api/v1/sessions", json={"upload": upload})
    assert answer.status_code == 422, answer.text
    assert "FFmpeg" in answer.json()["detail"]
    server.delete(f"/api/v1/uploads/{upload}")


def test_a_playlist_of_transport_streams_that_ffmpeg_could_read_is_refused(tmp_path: Path) -> None:
    """The whitelist of protocols alone accepts this one: a list of files beside it."""
    from clips import make

    from hodor.serve.paths import check_playable

    folder = tmp_path
    make(folder / "part.ts", 30, form="mpegts")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npart.ts\n#EXT-X-ENDLIST\n")
    check_playable(folder / "part.ts")
    with pytest.raises(RefusedError, match="expected a video"):
        check_playable(folder / "list.m3u8")
    (folder / "list.mp4").write_bytes((folder / "list.m3u8").read_bytes())
    with pytest.raises(RefusedError, match="expected a video"):
        check_playable(folder / "list.mp4")


# Values


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b"[" * 100_000, b'{"points": [[NaN, 1]]}', b'{"points": [[Infinity, 1]]}',
        b'{"points": [[1e999, 1]]}',
        b'{"points": [["1", {}]]}', b'{"points": [[1]]}', b'{"points": [[1, 2, 3]]}', b'{"box": [0, 0, NaN, 5]}', b"\xff\xfe",
        b'{"points": [[1, 1]], "labels": [1e400]}', b'{"__class__": "x"}',
        b'{"points": ' + b"[[1,1]," * 3 + b"[1,1]" + b"]" * 3 + b"}", b'{"points": ' + json.dumps([[1,
        1]] * 1001).encode() + b"}",
        b'{"points": [[' + b"9" * 5000 + b", 1]]}",
    ],
    ids=range(18),
)  # fmt: skip
def test_malformed_prompts_are_refused(body: bytes, server: Any, session: str) -> None:
    answer = server.post(f"{session}/frames/0/objects/1/prompts", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.json()["detail"]) <= 1000


@pytest.mark.parametrize(
    "path",
    ["frames/1e9/masks", "frames/99999999999999999999/masks", "frames/-1/masks", "frames/0/objects/0/mask.png",
    "frames/" + "9" * 5000,
     "frames/0/objects/65536/mask.png", "frames/0?height=0", "frames/0?height=999999", "frames/0?quality=1000",
     "lanes?start=-1",
     "lanes?start=5&stop=2", "lanes?stop=99999999", "suggestions?k=0", "suggestions?k=99999999", "events?after=x",
     "events?after=-1",
     "events?after=0&wait=inf", "events?after=0&wait=nan", "events?after=0&wait=1e9", "exports/x", "exports/-1",
     "frames/0/objects/1/mask.png", "frames/\u0661/masks/x"],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(path: str, server: Any, session: str) -> None:
    answer = server.get(f"{session}/{path}")
    assert 400 <= answer.status_code < 500, answer.text


def test_a_picture_that_would_fill_the_memory_is_refused(server: Any, session: str) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    for content in (bomb, png(np.zeros((64, 97), np.uint8)), png(np.zeros((64, 96, 3), np.uint8))):
        answer = server.put(f"{session}/frames/0/objects/1/mask", content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 422, answer.text


def test_a_length_that_is_no_number_is_refused(server: Any) -> None:
    for length in ("-1", "x", "9" * 30, "1e3", "\u0661"):
        answer = server.post("/api/v1/uploads?name=a.mp4", content=b"x", headers={"content-length": length.encode()})
        assert answer.status_code in (400, 413), (length, answer.text)


def test_names_are_text_and_never_headers_or_pages(server: Any, session: str) -> None:
    name = '<script>alert(1)</script>\r\nX-Evil: 1"'
    server.put(
        f"{session}/frames/0/objects/1/mask", content=png(np.eye(64, 96, dtype=np.uint8)), headers={"content-type": "image/png"}
    )
    answer = server.patch(f"{session}/objects/1", json={"name": name})
    assert answer.json()["objects"][0]["name"] == name
    assert answer.headers["content-type"] == "application/json"
    assert "x-evil" not in answer.headers
    assert server.patch(f"{session}/objects/1", json={"colour": "red;background:url(x)"}).status_code == 422


def test_no_module_uses_pickle_eval_or_a_shell() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & {"eval", "exec", "compile", "__import__"}, path
        assert not modules & {"pickle", "marshal", "shelve", "subprocess", "joblib"}, path


def test_no_request_leaves_the_machine(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: connected.append(arguments))
    with client(root, work=tmp_path) as server:
        session = create(server)
        content = png(np.eye(64, 96, dtype=np.uint8))
        server.put(f"{session}/frames/0/objects/1/mask", content=content, headers={"content-type": "image/png"})
        server.post(f"{session}/exports", json={"outputs": {"coco": True}})
        assert ended(server, f"{session}/exports/1")["state"] == "done"
        assert server.get("/").status_code == server.get("/api/v1/docs").status_code == 200
    assert not connected

"""Segment a video with `hodor serve` from another program, with the standard library only.

    hodor serve --root .                    # prints http://127.0.0.1:8765/#token=...
    python examples/client.py 'http://127.0.0.1:8765/#token=...' clip.mp4 first.png masks.zip

The video and the mask of its first frame are uploaded; the zip file contains the masks of all frames.
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


class Client:
    """A server.

    Args:
        link: what `hodor serve` prints.
    """

    def __init__(self, link: str) -> None:
        self.address, _, self.token = link.partition("/#token=")

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request; return its JSON, or the answer itself where it is a file.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: path after /api/v1.
            body: bytes, a file, or values for JSON.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        if isinstance(body, Path):
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(body.stat().st_size)}
            body = body.open("rb")
        elif body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/api/v1{path}", body, headers, method=method)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            raise SystemExit(json.load(error)["detail"]) from None
        return json.load(answer) if answer.headers.get_content_type() == "application/json" else answer

    def upload(self, path: Path) -> str:
        """Upload a file; return the id of the upload."""
        return str(self.send("POST", f"/uploads?name={urllib.parse.quote(path.name)}", path)["upload"])


def main(link: str, video: str, mask: str, out: str) -> None:
    """Segment a video from the mask of its first frame, and write a zip file."""
    client = Client(link)
    state = client.send("POST", "/sessions", {"upload": client.upload(Path(video))})
    session, last = f"/sessions/{state['id']}", state["event"]
    try:
        masks = [{"upload": client.upload(Path(mask)), "frame": 0}]
        for note in client.send("POST", f"{session}/imports", {"masks": masks})["notes"]:
            print(note)
        export = client.send("POST", f"{session}/exports", {"outputs": {"table": True}})
        while export["state"] == "running":
            part = client.send("GET", f"{session}/events?after={last}&wait=20")
            for event in part["events"]:
                if event["type"] == "frame":
                    found = ", ".join(f"{o['id']}: {o['confidence']:.2f}" for o in event["objects"])
                    print(f"frame {event['frame']}, confidence {found}")
            last = part["last"]
            export = client.send("GET", f"{session}/exports/{export['id']}")
        if export["state"] == "failed":
            raise SystemExit(export["message"])
        with client.send("GET", f"{session}/exports/{export['id']}/zip") as answer, open(out, "wb") as file:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
        print(f"{state['frames']} frames, {export['files']} files -> {out}")
    finally:
        client.send("DELETE", session)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`hodor serve`: sessions over HTTP."""

import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from hodor.commands.console import info
from hodor.commands.options import Network, parse
from hodor.serve.limits import Limits

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Serve:
    """Draw masks, follow objects and correct them over HTTP.

    Prints one link with a token, which the page and programs send with each request. Everything that was given is on the disk
    when a request is answered; after a restart all sessions are there again. Exit codes: 2 wrong input; 130 stopped by Ctrl-C.
    """

    videos: Positional[tuple[str, ...]] = ()
    """Videos or folders of images to open; they can be anywhere."""
    root: Path = Path(".")
    """The folder below which clients open videos and write exports."""
    port: int = 8765
    """Port; 0 chooses a free one."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 makes the server reachable from other machines, without encryption."""
    token: str | None = None
    """The token, 16 to 128 of A-Z a-z 0-9 _ and -. Default: the environment variable HODOR_TOKEN, else a random one."""
    allow_host: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """A further name under which the server is reached, such as that of a proxy; repeat the option for several."""
    work: Path | None = None
    """Folder of the sessions and uploads. Default: .hodor-serve below the root."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        try:
            from hodor.serve.app import build, listen, serve
        except ModuleNotFoundError as error:
            raise ValueError(f"expected the package {error.name}, got none: run pip install 'hodor-vos[serve]'") from None
        from hodor.serve.guard import TOKEN
        from hodor.serve.host import Host

        token = self.token or os.environ.get("HODOR_TOKEN") or secrets.token_urlsafe(24)
        if not TOKEN.fullmatch(token):
            raise ValueError("expected a token of 16 to 128 characters A-Z a-z 0-9 _ -, got another one: leave it out")
        if not self.root.is_dir():
            raise ValueError(f"expected a folder as root, got {self.root}: give an existing one with --root")
        for video in self.videos:
            if not Path(video).exists():
                raise FileNotFoundError(f"{video} does not exist")
        listening = listen(self.host, self.port)
        with listening:
            host = Host(
                self.root,
                self.work or self.root / ".hodor-serve",
                self.network.load(),
                self.limits,
                size=self.network.size,
                history=self.network.history,
            )
            for note in host.notes:
                info(note)
            app = build(host, token, self._names(), [Path(video) for video in self.videos])
            port = listening.getsockname()[1]
            serve(app, listening, lambda: print(f"{self._address(port)}/#token={token}", flush=True))
        return 0

    def _names(self) -> set[str]:
        names = {*LOOPBACK, self.host, *self.allow_host}
        if self.host in ("0.0.0.0", "::"):
            names.add("*")
        return names

    def _address(self, port: int) -> str:
        name = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        try:
            is_v6 = ipaddress.ip_address(name).version == 6
        except ValueError:
            is_v6 = False
        return f"http://{f'[{name}]' if is_v6 else name}:{port}"


def main(argv: list[str]) -> int:
    """Run `hodor serve` with these arguments. Returns the exit code."""
    return parse(Serve, "serve", argv)

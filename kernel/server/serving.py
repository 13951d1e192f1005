"""Listens on an address, and answers until it is ended."""

import asyncio
import ipaddress
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.errors import UserError, first_line
from kernel.models.weights_folder import open_weights
from kernel.system.devices import check_name
from kernel.system.offline import is_loopback

LOOPBACK = "127.0.0.1"
PASSWORD = "IMAGE_TO_PROMPTS_PASSWORD"  # where it is read when no file is named
SHORTEST = 8  # characters of a password


@dataclass(frozen=True)
class Address:
    """Where a server listens: `host` None is loopback alone. `names` are others under which it is asked, as behind a
    proxy."""

    port: int
    host: str | None = None
    password: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError where others than this machine could ask without a password."""
        if self.host is not None:
            try:
                ipaddress.ip_address(self.host)
            except ValueError as error:
                raise UserError(
                    f"--host {self.host}: expected an IP address of this machine, such as 192.168.1.5, or 0.0.0.0 for "
                    "all of them: nothing was started. Leave it out to be asked from this machine alone"
                ) from error
        if self.password is not None and len(self.password) < SHORTEST:
            raise UserError(
                f"the password has {len(self.password)} characters; expected {SHORTEST} or more: nothing was started. "
                "Take a longer one"
            )
        if not is_loopback(self.host or LOOPBACK) and self.password is None:
            raise UserError(
                f"--host {self.host} lets other machines in, and no password was given: nothing was started. Write "
                f"one into a file and give --password-file FILE, or set {PASSWORD}; without --host only this machine "
                "can ask"
            )

    def listening(self) -> socket.socket:
        host = self.host or LOOPBACK
        try:
            return socket.create_server((host, self.port), family=family_of(host))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{host}:{self.port}: cannot be listened on ({getattr(error, 'strerror', None) or first_line(error)}); "
                "expected a free port of an address of this machine: nothing was started. Give another --port, or 0 "
                "for any that is free"
            ) from error


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def read_password(file: Path | None) -> str | None:
    """The first line of the file, or what PASSWORD holds; None where there is neither."""
    if file is None:
        return os.environ.get(PASSWORD)
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return opened.readline(10_000).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{file}: the password cannot be read ({why}); expected a text file whose first line it is: nothing was "
            "started. Give another --password-file"
        ) from error


class Serving:
    """A server that listens from the beginning; `address` is where.

    `run` answers in this thread until SIGINT or SIGTERM, `begin` in one of its own until `close`.
    """

    def __init__(self, at: Address, weights: Path, device: str, features: Path) -> None:
        """Raises UserError when there is no such device, the weights are incomplete, the address cannot be had, or the
        extra is missing."""
        if device != "auto":
            check_name(device)
        open_weights(weights, hashes=False)  # whole and byte for byte in the worker, before its first model
        require_extra()
        from uvicorn import Config, Server

        from kernel.server.app import Place, application
        from kernel.server.guard import Rules

        machine = socket.gethostname().lower() if at.host else None
        rules = Rules(frozenset(name.lower() for name in at.names), machine, at.host, at.password)
        self.socket = at.listening()
        host, port = self.socket.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.server = Server(
            Config(
                application(Place(weights.resolve(), device, features.resolve()), rules), loop="asyncio", ws="none",
                http="h11", log_level="warning", access_log=False, server_header=False, proxy_headers=False,
                lifespan="on", timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        with self.socket:
            asyncio.run(self.server.serve(sockets=[self.socket]))

    def begin(self) -> "Serving":
        self.thread = threading.Thread(target=self.run, name=self.address, daemon=True)
        self.thread.start()
        return self

    def close(self) -> None:
        """Ends it and its worker."""
        self.server.should_exit = True
        if self.thread is not None:
            self.thread.join()

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.address}>"


def require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import swagger_ui_bundle  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"a server needs packages that are not installed ({first_line(error)}): nothing was started. Run "
            "pip install 'image-to-prompts-kernel[serve]'"
        ) from error

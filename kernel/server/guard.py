"""Who is let in, and what every answer carries: in front of the whole application.

A page of another site can make a browser send requests to this machine, and by a name of its own that it lets point
here (DNS rebinding) even read the answers. So a request must come under a name of this server, and not from a page of
another.
"""

import asyncio
import base64
import hmac
import ipaddress
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from kernel.system.offline import is_loopback

CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
CHANGING = {"POST", "PUT", "PATCH", "DELETE"}


class Refused(HTTPException):
    """An HTTP status and the words of its answer; of a kind that the framework passes on as it is."""


@dataclass(frozen=True)
class Rules:
    """`names` are those under which the server may be asked besides loopback's, and whose pages may ask it, as a
    proxy's may; `machine` is one more, of whose pages only the server's own may. `address` is where it listens when not
    on loopback, where any IP address is a name of it, and the `password` is asked for."""

    names: frozenset[str] = frozenset()
    machine: str | None = None
    address: str | None = None
    password: str | None = None
    most_bytes: int = 2**28  # of one request
    most_waiting: int = 32  # requests that are not answered yet


class Guard:
    """ASGI middleware. Refuses with words as JSON; counts the bytes of what is let in, whatever it says of itself."""

    def __init__(self, application: Any, rules: Rules) -> None:
        self.application, self.rules = application, rules
        self.inside = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.application(scope, receive, send)
        begun = False

        async def sent(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        taken = 0

        async def received() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.rules.most_bytes:
                raise too_large(self.rules.most_bytes)
            return message

        self.inside += 1
        try:
            self.check(scope)
            await self.application(scope, received, sent)
        except Refused as error:
            if begun:
                raise
            await refuse(error, sent)
        except asyncio.CancelledError:  # of what was still at work when the server was ended
            if not begun:
                await refuse(Refused(503, "the server was ended: nothing was done. Start it again"), sent)
        finally:
            self.inside -= 1

    def check(self, scope: Any) -> None:
        """Raises Refused."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self.is_own(host):
            raise Refused(
                403,
                f"the request came under the name {host!r}; expected an address of this server: it was refused, as "
                "another page could have made the browser send it. Open the address that the server printed, or start "
                f"it with --name {name_of(host) or 'NAME'} if this name is its own",
            )
        self.check_origin(scope["method"], headers, host)
        self.check_password(headers)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.rules.most_bytes:
            raise too_large(self.rules.most_bytes)
        if scope["method"] == "POST" and self.inside > self.rules.most_waiting:
            raise Refused(
                503,
                f"{self.inside - 1} requests are not answered yet; expected at most {self.rules.most_waiting}: this "
                "one was not read. Send it again when some of them are",
            )

    def is_own(self, host: str) -> bool:
        name = name_of(host)
        if is_loopback(name) or name in (*self.rules.names, self.rules.machine):
            return True
        return self.rules.address is not None and is_address(name)

    def check_origin(self, method: str, headers: dict[str, str], host: str) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        foreign = method in CHANGING and site not in ("same-origin", "none") and origin is None
        if origin is not None and urlsplit_of(origin) != host:
            foreign = name_of(urlsplit_of(origin)) not in self.rules.names
        if foreign:
            raise Refused(
                403,
                f"the request came from a page of {origin or 'another site'}; expected one of {host}: it was refused. "
                "Use the page that this server gives, or a program that is no page",
            )

    def check_password(self, headers: dict[str, str]) -> None:
        """HTTP's basic authentication, with any user name; compared in the same time whatever is given."""
        if self.rules.password is None:
            return
        kind, _, encoded = headers.get("authorization", "").partition(" ")
        given = b""
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(encoded, validate=True).partition(b":")[2]
            except ValueError:  # no base64, or no ASCII
                pass
        if not hmac.compare_digest(given, self.rules.password.encode()):
            raise Refused(
                401,
                "the password is missing or wrong; expected the one that the server was started with, by HTTP's basic "
                "authentication under any user name: nothing was done. Send it with the request",
            )


def too_large(most: int) -> Refused:
    return Refused(
        413, f"the request is larger than {most // 2**20} MiB: nothing of it was kept. Send fewer pictures at a time"
    )


async def refuse(error: Refused, send: Any) -> None:
    body = json.dumps({"error": error.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status_code == 401:
        headers.append((b"www-authenticate", b'Basic realm="image to prompts", charset="UTF-8"'))
    if error.status_code == 413:  # what is left of it is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def urlsplit_of(origin: str) -> str:
    """Example: urlsplit_of("http://127.0.0.1:8765") == "127.0.0.1:8765"; of "null" nothing."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def name_of(host: str) -> str:
    """Example: name_of("[::1]:8765") == "::1", name_of("Localhost:80") == "localhost" """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""Questions to the hub: every answer's status, size, duration and content are looked at here, and errors put in words.

Address, login and connection are those of its own client, huggingface_hub. Its functions are not used: they read what
comes, as long as it comes, and take it for what they expect.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kernel.errors import UserError, first_line
from kernel.publish.answers import one_line, within
from kernel.publish.hub.pins import Repository
from kernel.system.records import problems, schema

Found = TypeVar("Found")

SECONDS = (60.0, 300.0)  # for the next byte; for an answer, or LEAST_BYTES more of a file
LEAST_BYTES = 2**20
# of an answer that is no file: a listing takes 300 for each file, and what is read of it up to a hundred times as much
MOST_BYTES = 2 * 2**20
MOST_REDIRECTS = 20


class Refused(Exception):
    """An answer that HTTP itself calls none: its status is no success."""

    def __init__(self, response: Any) -> None:
        super().__init__(response.status_code)
        self.response = response


@contextmanager
def asking(repository: Repository, after: str, part: Path | None = None) -> Iterator[None]:
    """Around every talk with the hub: its errors become a UserError.

    after: how things are then and what to do, such as "Nothing was changed: run again"; part: the file that is written.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except Refused as error:
        raise UserError(f"{repository}: {refusal(repository, error.response, after)}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"{repository}: HF_HUB_OFFLINE is set, so the hub is not asked. Unset it and run again"
        ) from error
    except (*transport_errors(), OSError) as error:
        if part is not None and isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"{part}: cannot be written ({error.strerror}). Free space there or give --scratch another disk. "
                f"{after}"
            ) from error
        raise UserError(
            f"{repository}: the connection to the hub failed ({one_line(first_line(error))}). {after}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{repository}: what came is no answer of the hub ({one_line(first_line(error))}). {after}. If this stays, "
            "look at its page in the browser: a network that wants a login first answers in its place"
        ) from error


def transport_errors() -> Any:
    """The exceptions of the client's HTTP library, which is httpx or its successor, by the client's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))


def refusal(repository: Repository, response: Any, after: str) -> str:
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return (
            "the hub wants its terms accepted first. Log in on its page in the browser and accept them, then 'hf auth "
            "login' here and run again"
        )
    if code == "RevisionNotFound":
        return f"the hub knows no such revision. {repository.other_revision}"
    if code == "EntryNotFound":
        gone = one_line(response.url.path)
        return f"the hub has no such file any more ({gone}). {repository.other_revision}"
    # whoever is not logged in gets a 401 for what does not exist, too
    if code == "RepoNotFound" or (status == 401 and "Authorization" not in response.request.headers):
        return (
            "the hub knows no such repository, or keeps it from those not logged in: it answers both alike. Check its "
            f"name in {repository.pins}, or 'hf auth login' and run again"
        )
    if status in (401, 403):
        return (
            f"the hub answered {status}: it does not accept this login. Make a token that may read on your page of the "
            "hub, 'hf auth login' with it and run again"
        )
    return f"the hub answered {status}. {after} a little later"


@contextmanager
def answer(method: str, url: str, **headers: str) -> Iterator[Any]:
    """The hub's response, its body still to be read from `iter_raw`: as it was sent, so no small answer becomes large.

    Redirects are followed, to other hosts without the login. For HEAD the one that leaves the hub is the answer, for
    it tells of what lies there. Raises Refused, ValueError for an answer that is none, the transport's errors.
    """
    from huggingface_hub.utils import build_hf_headers, get_session

    session = get_session()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **headers}
    request = session.build_request(method, url, headers=headers, timeout=SECONDS[0])
    for _ in range(MOST_REDIRECTS):
        with closing(session.send(request, stream=True, follow_redirects=False)) as response:
            onward = response.next_request
            left = onward is not None and method == "HEAD" and onward.url.netloc != request.url.netloc
            if onward is not None and not left:
                request = onward
                continue
            if not (response.is_success or left):
                raise Refused(response)
            yield response
            return
    raise ValueError(f"more than {MOST_REDIRECTS} redirects, one to the next")


def headers_of(url: str) -> Any:
    """The answer to HEAD: its status and headers are all of it."""

    def ask() -> Any:
        with answer("HEAD", url) as response:
            return response.headers, response.is_redirect

    return within(ask, SECONDS[1])


def content_of(url: str) -> bytes:
    """All of an answer of at most MOST_BYTES."""

    def ask() -> bytes:
        content = bytearray()
        with answer("GET", url) as response:
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES // 2**20} MiB")
        return bytes(content)

    return within(ask, SECONDS[1])


def fitting(kind: type[Found], content: bytes) -> Found:
    """A JSON text as a `kind`. Raises ValueError that says what came and what does not fit."""
    from pydantic import ValidationError

    try:
        return schema(kind).validate_json(content, strict=True)  # type: ignore[arg-type]  # types can be hashed
    except ValidationError as error:
        raise ValueError(problems(error)) from error

"""The service's own client, with what it lacks: bounded waits, uploads that are whole or fail, words for each error.

It is imported at use, for that alone makes a folder and reads the credentials.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, TypeVar

from kernel.errors import UserError, kind_and_line
from kernel.publish.answers import one_line, plain, within
from kernel.system.records import problems, read_record, schema

Found = TypeVar("Found")

NEW_TOKEN = (
    "Make a new API token on https://www.kaggle.com/settings and put it into the variable KAGGLE_API_TOKEN, or "
    "kaggle.json into the folder ~/.kaggle"
)
OWNER = (
    "is it yours? The owner in kernel-metadata.json and dataset-metadata.json must be the account of the "
    "credentials ('python -m kernel publish init'), and a GPU or the internet needs a phone-verified account"
)
NOTHING_CHANGED = "nothing was changed there"
SECONDS = (60.0, 300.0)  # to connect, and for an answer; the client itself would wait for ever
MOST_ANSWER = 64 * 2**20  # bytes of an answer that is no file; a page of 200 names takes 20 kB
MOST_REQUESTS = 2000  # of one question: the pages of 400,000 files, and none of the pages that never end
FAILURES_IN_A_ROW = 5
LONGEST_RETRY_AFTER = 120.0  # seconds; a longer one ends the command instead of holding it


asked = [0]  # requests, of the question that is being asked


class ServiceTrouble(UserError):
    """The service or the way to it failed for now; the same question may be answered a little later."""


class Unknown(UserError):
    """The service denies what it does not know, as it does what is somebody else's."""


def credentials_at() -> str | None:
    """The place that `connect` would take them from, in the client's own order; None where there are none.

    Their content is neither kept nor shown. Nothing is asked of the service, so they may have expired.
    """
    home = Path("~/.kaggle").expanduser()
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the variable KAGGLE_API_TOKEN"
    for path in (home / "access_token", home / "access_token.txt"):
        if is_filled(path):
            return str(path)
    # kaggle.json lies in the folder that the client is given, in ~/.kaggle where that exists, else in XDG's
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    folder = os.environ.get("KAGGLE_CONFIG_DIR") or (home if home.exists() else configuration / "kaggle")
    file = Path(folder) / "kaggle.json"
    in_file: dict[str, Any] = {}
    with suppress(UserError):  # what cannot be read counts as empty, for the client passes over it too
        in_file = read_record(file, dict[str, Any], "the client's credentials", "Make a new token")
    places = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    if all(name in in_file or variable in os.environ for name, variable in places.items()):
        # the variables count before the file
        used = [variable for variable in places.values() if variable in os.environ]
        return " and ".join(used if len(used) == 2 else [*used, str(file)])
    signed_in = home / "credentials.json"
    return str(signed_in) if is_filled(signed_in) else None


def is_filled(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0
    return False


def connect() -> Any:
    """The client with the user's credentials. Raises UserError when there are none or they cannot be checked."""
    chatter = io.StringIO()
    try:
        with asking("reading your credentials"), redirect_stdout(chatter):
            bound_requests()
            client = whole_uploads_class()()
            client.authenticate()
    except ImportError as error:
        raise UserError(f"the Kaggle client is not installed ({error}). Run 'make setup'") from error
    except SystemExit as error:
        raise UserError(f"no Kaggle credentials were found, or they have expired. {NEW_TOKEN}") from error
    print(chatter.getvalue(), file=sys.stderr, end="")
    return client


def configured_user() -> str:
    """The account's name in the client's own configuration."""
    user = connect().get_config_value("username")
    if not user:
        raise UserError("the client's configuration names no account. Run 'python -m kernel publish init --user NAME'")
    return user


def whole_uploads_class() -> Any:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kaggle.models.kaggle_models_extended import ResumableUploadResult

    class WholeUploads(KaggleApi):
        """A refused link is forgotten, and a new one asked for once; a file that does not go up is told in words."""

        def _upload_blob(self, path: str, quiet: bool, blob_type: Any, upload_context: Any, *rest: Any) -> Any:
            for _ in range(2):
                token = super()._upload_blob(path, quiet, blob_type, upload_context, *rest)
                if token is not None:
                    return token
                if self.last_result != ResumableUploadResult.FAILED:
                    break
                # the link was refused or has expired: forgotten, or every later try would ask for it again
                upload_context._file_uploads[-1].cleanup()
            raise ServiceTrouble(
                f"{path}: could not be sent whole, so nothing was published. Run the same command again: files "
                "at the top level go on where they were, folders start over"
            )

        def upload_complete(self, *arguments: Any, **settings: Any) -> Any:
            self.last_result = super().upload_complete(*arguments, **settings)
            return self.last_result

        def _is_retriable(self, error: Exception) -> bool:
            if self._is_rate_limited(error):
                delay = self._get_retry_after_delay(error.response)  # type: ignore[attr-defined]
                return delay is None or delay <= LONGEST_RETRY_AFTER
            return super()._is_retriable(error)

    return WholeUploads


@contextmanager
def asking(action: str, *, forbidden: str = OWNER, after: str = NOTHING_CHANGED) -> Iterator[None]:
    """Around every talk with the service: its chatter goes to stderr, its errors become a UserError.

    action: what is being done, such as "pushing OWNER/SLUG"; forbidden: what a 403 usually means here;
    after: in what state an answer that never came leaves things.
    """
    from requests.exceptions import HTTPError, RequestException

    asked[:] = [0]
    try:
        with redirect_stdout(sys.stderr):
            yield
    except HTTPError as error:
        raise refusal(action, error, forbidden, after) from error
    except RequestException as error:
        raise ServiceTrouble(
            f"{action}: no answer from the service ({type(error).__name__}); {after}. "
            "Look at your connection, then run the same command again"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the client takes an answer for what it expects: null alone ends it in five ways
        # for some refusals the client puts a guess of its own in place of the answer
        if isinstance(error.__context__, HTTPError):
            raise refusal(action, error.__context__, forbidden, after) from error
        raise UserError(
            f"{action}: the service's answer is none that the client understands ({one_line(kind_and_line(error))}); "
            f"{after}. If this stays, the service may have changed: look for a newer release of this package"
        ) from error


def fitting(kind: type[Found], answer: Any) -> Found:
    """What an answer says, as a `kind`, a TypedDict of some of its names: the client hands on whatever the service has
    put into a field. Raises ValueError for what does not fit, for `asking` around it."""
    from pydantic import ValidationError

    try:
        said = {name: getattr(answer, name) for name in kind.__annotations__}
        said = {name: plain(value) if isinstance(value, str) else value for name, value in said.items()}
        return schema(kind).validate_python(said, strict=True)  # type: ignore[arg-type]  # types can be hashed
    except ValidationError as error:
        raise ValueError(problems(error)) from error


def bound_requests() -> None:
    """From now on no question of the client waits without bound, or for an answer without bounds.

    Its own modules get a `requests` with other sessions; whoever else of this process uses requests keeps theirs. A
    timeout of requests is that between two bytes, so an answer is read here, against the clock.
    """
    import requests
    import urllib3
    from kaggle.api import kaggle_api_extended
    from kagglesdk import kaggle_http_client
    from requests.exceptions import RequestException

    class EndlessAnswer(RequestException):
        pass

    def whole(response: Any, ends: float) -> bytes:
        content = bytearray()
        try:
            while part := response.raw.read1(2**16, decode_content=True):  # as it comes, not when there is so much
                content += part
                if len(content) > MOST_ANSWER or monotonic() > ends:
                    raise EndlessAnswer
        except urllib3.exceptions.HTTPError as error:
            raise RequestException(error) from error
        finally:
            response.close()
        return bytes(content)

    class BoundedSession(requests.Session):
        def send(self, request: Any, **settings: Any) -> Any:
            asked[0] += 1
            if asked[0] > MOST_REQUESTS:
                raise EndlessAnswer
            really = super().send
            bounds = {"timeout": settings.get("timeout") or SECONDS, "stream": True}

            def ask() -> Any:
                response = really(request, **{**settings, **bounds})
                if not settings.get("stream"):  # its clock starts now: what is sent may be gigabytes, and take hours
                    response._content = whole(response, monotonic() + SECONDS[1])
                return response

            try:
                # its head, then its body
                return ask() if hasattr(request.body, "read") else within(ask, 2 * SECONDS[1])
            except TimeoutError as error:
                raise EndlessAnswer from error

    bounded = SimpleNamespace(**{**vars(requests), "Session": BoundedSession})
    for module in (kaggle_api_extended, kaggle_http_client):
        module.requests = bounded


def refusal(action: str, error: Any, forbidden: str, after: str) -> UserError:
    try:  # it can stand in the answer of a request that HTTP calls fine
        status = int(error.response.json()["code"])
    except (ValueError, KeyError, TypeError):
        status = error.response.status_code
    said = f"{action}: the service answered {status} ({one_line(str(error))})"
    if status == 401:
        return UserError(f"{said}: your token is wrong or has expired. {NEW_TOKEN}")
    if status == 403:
        return Unknown(f"{said}: {forbidden}")
    if status == 404:
        return Unknown(f"{said}: it does not know that name. Compare the names in both metadata files with the site")
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        when = f"wait {wait} seconds" if wait and wait.isdigit() else f"wait until {wait}" if wait else "wait an hour"
        return ServiceTrouble(f"{said}: too many requests for now; {when}, then run the same command again")
    if status >= 500:
        return ServiceTrouble(
            f"{said}: trouble on the service's side; {after}. Run the same command again in some minutes"
        )
    return UserError(f"{said}; {NOTHING_CHANGED}. Mend what it names, then run the same command again")


def wait_until(
    look: Callable[[], Found | None], *, interval: float, limit: float, overdue: str, interrupted: str
) -> Found:
    """Calls `look` every `interval` seconds until it returns something; after `limit` seconds raises `overdue`.

    Some failures in a row are borne, as a wait can last a night. Ctrl-C raises UserError(interrupted).
    """
    deadline = monotonic() + limit
    failures = 0
    try:
        with ctrl_c_between_looks() as pause:
            while True:
                try:
                    found = look()
                    failures = 0
                    if found is not None:
                        return found
                except ServiceTrouble as trouble:
                    failures += 1
                    if failures == FAILURES_IN_A_ROW:
                        raise
                    print(f"{trouble}; looking again", file=sys.stderr)
                if monotonic() >= deadline:
                    raise UserError(overdue)
                pause(interval)
    except KeyboardInterrupt:
        raise UserError(interrupted) from None


@contextmanager
def ctrl_c_between_looks() -> Iterator[Callable[[float], None]]:
    """Gives a pause (seconds) that raises KeyboardInterrupt at a Ctrl-C, be it before or during the pause.

    Python raises KeyboardInterrupt wherever it happens to be, and the client's clean-up runs in finalizers, which
    swallow it: the wait would then go on as if nobody had asked. So the first Ctrl-C is kept for the pause, and a
    second one ends a look that hangs.
    """
    before = signal.getsignal(signal.SIGINT)
    # ignored in a background shell, or somebody else's to handle; and Ctrl-C interrupts the main thread only
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield sleep
        return
    asked = pausing = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        again, asked = asked, True
        if pausing or again:
            raise KeyboardInterrupt

    def pause(seconds: float) -> None:
        nonlocal pausing
        pausing = True
        if asked:
            raise KeyboardInterrupt
        sleep(seconds)
        pausing = False

    signal.signal(signal.SIGINT, handle)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:  # the look that it fell into was the last one
        raise KeyboardInterrupt

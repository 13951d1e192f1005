"""The page and the HTTP API: what is asked, what is answered, and the words where it cannot be."""

import asyncio
import errno
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from kernel import __version__
from kernel.errors import UserError, of_this_machine, shown
from kernel.interrogator.request import MODES, TOP
from kernel.models.weights_folder import BANK_FOLDER, MANIFEST, read_manifest
from kernel.server.describing import Describing, Unavailable
from kernel.server.guard import Guard, Rules

PAGE = Path(str(files("kernel.server") / "page"))
MOST_PICTURES = 64  # of one request: a shard of `describe`
MOST_PICTURE_BYTES = 2**26
MOST_TOP, MOST_NEAREST = 1000, 100
MOST_NAME = 255
BODY_TOO_LARGE, GONE = 413, 499


class Refusal(BaseModel):
    """What was found, what was expected, what follows and what to do next."""

    error: str


class Records(BaseModel):
    """One record a picture, in the order sent, as `python -m kernel describe --json` prints them."""

    records: list[dict[str, Any]]


class Text(BaseModel):
    image: str = Field(max_length=MOST_NAME, description="the picture's name")
    text: str = Field(max_length=100_000)


class Texts(BaseModel):
    texts: list[Text] = Field(max_length=100_000)


@dataclass(frozen=True)
class Place:
    """The weights folder, the device, the folder for features that the weights lack."""

    weights: Path
    device: str = "auto"
    features: Path = Path()


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal, "description": said}
    for code, said in {
        400: "not a form", 401: "a password is needed", 403: "of another site", 413: "too much at once",
        422: "what is asked cannot be", 503: "the models, or the machine, cannot answer now",
    }.items()
}  # fmt: skip


def application(place: Place, rules: Rules) -> Guard:
    """The ASGI application. Its one worker begins with the first request and ends with it."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="image-to-prompts-", ignore_cleanup_errors=True) as scratch:
            app.state.scratch = Path(scratch)
            app.state.describing = Describing(place.weights, place.device, place.features, Path(scratch))
            run = asyncio.create_task(app.state.describing.run())
            yield
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    app = FastAPI(
        title="Image to prompts", version=__version__, lifespan=running, docs_url=None, redoc_url=None,
        description="Pictures to prompts as text, in the four modes of clip-interrogator, on this machine.",
        swagger_ui_oauth2_redirect_url=None,
    )  # fmt: skip
    app.openapi_version = "3.0.3"  # what the bundled page for people can draw
    app.state.place = place
    add_answers(app)
    add_page(app)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused_by_framework)
    app.add_exception_handler(UserError, refused)
    app.add_exception_handler(OSError, refused_by_machine)
    return Guard(app, rules)


def add_answers(app: FastAPI) -> None:
    known = choices(app.state.place.weights)
    pictures_schema = {"items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": MOST_PICTURES}
    banks_schema = {"items": {"type": "string", "enum": known["banks"]}}
    captioner_schema = {"examples": ["auto", *known["captioners"]]}

    @app.post("/describe", responses=REFUSALS)
    async def describe(
        request: Request,
        pictures: Annotated[list[UploadFile], File(description="the pictures", json_schema_extra=pictures_schema)],
        mode: Annotated[str, Form(json_schema_extra={"enum": list(MODES)})] = "fast",
        top: Annotated[int, Form(ge=0, le=MOST_TOP, description="terms at most; 0 is the mode's own number")] = 0,
        without: Annotated[
            list[str], Form(description="word banks that are left out", json_schema_extra=banks_schema)
        ] = [],  # noqa: B006
        captioner: Annotated[
            str, Form(description="one, or several joined by commas", json_schema_extra=captioner_schema)
        ] = "auto",
        nearest: Annotated[int, Form(ge=0, le=MOST_NEAREST, description="prompts of the prompt bank a picture")] = 0,
    ) -> Records:
        """The prompt of each picture, what it is made of, and how near each part is to the picture.

        A picture that cannot be described has its reason as `error` in its record, and the others their answers.
        """
        if len(pictures) > MOST_PICTURES:
            raise HTTPException(
                BODY_TOO_LARGE,
                f"{len(pictures)} pictures in one request; expected at most {MOST_PICTURES}: none was described. Send "
                "them in several requests",
            )
        asked = {"mode": mode, "top": top or None, "without": without, "captioner": captioner, "neighbours": nearest}
        with tempfile.TemporaryDirectory(dir=still_there(app.state.scratch), ignore_cleanup_errors=True) as scratch:
            names = [shown(picture.filename or "") for picture in pictures]
            reasons = {number: too_big(picture) for number, picture in enumerate(pictures)}
            images = await asyncio.to_thread(
                saved, Path(scratch), {number: pictures[number] for number, reason in reasons.items() if not reason}
            )
            named = {path: names[number] for number, path in images.items()}
            made = iter(await unless_gone(request, app.state.describing.describe(named, asked, Path(scratch))))
        return Records(
            records=[
                {"image": names[number], "mode": mode, "error": reason} if reason else next(made)
                for number, reason in reasons.items()
            ]
        )

    @app.get("/status", responses={code: REFUSALS[code] for code in (401, 403)})
    async def status() -> dict[str, Any]:
        """What the models are at: words, how many of how many pictures are made, and how many requests wait."""
        return asdict(app.state.describing.now())

    @app.get("/options", responses={code: REFUSALS[code] for code in (401, 403)})
    async def options() -> dict[str, Any]:
        """What there is to choose from, and how much may be sent."""
        return choices(app.state.place.weights)

    @app.post("/texts.zip", response_class=Response, responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}, **REFUSALS
    })  # fmt: skip
    async def zipped(given: Texts) -> Response:
        """One file IMAGE.txt a picture, as trainers of image models read them."""
        body = await asyncio.to_thread(zip_of, given.texts)
        named = {"content-disposition": 'attachment; filename="prompts.zip"'}
        return Response(body, media_type="application/zip", headers=named)


def add_page(app: FastAPI) -> None:
    from swagger_ui_bundle import swagger_ui_path

    swagger = Path(str(swagger_ui_path))
    own = {"": "index.html", "page.css": "page.css", "page.js": "page.js", "docs": "docs.html", "docs.js": "docs.js"}
    given = {name: PAGE / file for name, file in own.items()}
    given |= {name: swagger / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")}
    for name, path in given.items():
        app.add_api_route(f"/{name}", answer_with(path), methods=["GET"], include_in_schema=False)


def answer_with(path: Path) -> Any:
    async def answer() -> FileResponse:
        return FileResponse(path)

    return answer


async def unless_gone(request: Request, answer: Any) -> Any:
    """The answer; who left before it is not waited for, and what was made for him so far is dropped."""
    answering = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(request.receive())  # all of the request was read: this is the end of the connection
    try:
        await asyncio.wait({answering, left}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise HTTPException(GONE, "who asked has left")  # which nobody reads
        return answering.result()
    finally:
        answering.cancel()
        left.cancel()
        await asyncio.gather(answering, left, return_exceptions=True)


def still_there(folder: Path) -> Path:
    """The folder, made anew where the system has cleared its temporary files of what is old; nobody else's, who could
    put what lies in it elsewhere."""
    folder.mkdir(0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
    return folder


def saved(folder: Path, pictures: dict[int, UploadFile]) -> dict[int, str]:
    """The pictures as files that are named by their numbers: no name from outside is ever a path."""
    paths = {number: str(folder / str(number)) for number in pictures}
    for number, path in paths.items():
        with open(path, "wb") as file:
            shutil.copyfileobj(pictures[number].file, file)
        pictures[number].file.close()  # what waits for its turn lies on the disk once
    return paths


def too_big(picture: UploadFile) -> str:
    if (picture.size or 0) <= MOST_PICTURE_BYTES:
        return ""
    return f"{(picture.size or 0) / 2**20:.1f} MiB; expected at most {MOST_PICTURE_BYTES // 2**20} MiB a picture"


def choices(weights: Path) -> dict[str, Any]:
    manifest = read_manifest(weights / MANIFEST)
    banks = sorted(path.stem for path in (weights / "word_banks").glob("*.txt"))
    return {
        "modes": {mode: TOP[mode] for mode in MODES},
        "banks": banks,
        "captioners": manifest.captioners,
        "nearest": MOST_NEAREST if (weights / BANK_FOLDER).is_dir() else 0,
        "most_top": MOST_TOP,
        "most_pictures": MOST_PICTURES,
        "most_picture_bytes": MOST_PICTURE_BYTES,
    }


def zip_of(texts: list[Text]) -> bytes:
    """A zip of IMAGE.txt files; pictures of one stem are told apart by their suffix, and then by a number."""
    taken: set[str] = set()  # in lower case: some systems tell no A.txt from a.txt
    numbers: Counter[str] = Counter()
    body = BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for own in texts:
            image = PurePosixPath(shown(own.image).replace("\\", "/"))
            name = stem = image.stem or "picture"
            if name.casefold() in taken:
                name = image.name or "picture"
            while name.casefold() in taken:
                numbers[stem.casefold()] += 1
                name = f"{stem}-{numbers[stem.casefold()] + 1}"
            taken.add(name.casefold())
            archive.writestr(f"{name}.txt", own.text + "\n")
    return body.getvalue()


async def refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 503 if isinstance(error, Unavailable) else 422)


async def refused_by_machine(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    return JSONResponse({"error": f"on the server's machine, {of_this_machine(error)}"}, 503)


async def refused_by_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OSError):  # the disk was full while a form was read, which is told as a bad form
        return await refused_by_machine(request, error.__cause__)
    words = str(error.detail)
    if error.status_code in (404, 405):
        words = f"{request.method} {shown(request.url.path)}: {words}. What there is stands on the page /docs"
    return JSONResponse({"error": words}, error.status_code, error.headers)


async def invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in own['loc'][1:]) or 'body'}: {own['msg']}" for own in error.errors()[:5]
    )
    return JSONResponse({"error": f"{shown(found)}: nothing was done. What is expected stands on the page /docs"}, 422)

"""Whatever the hub answers, and however: one line that says it, in bounded time and memory, and nothing else."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import UserError
from kernel.publish.hub import client, download
from kernel.publish.hub.download import LEAST_BYTES, fetch, local_path, part_path, pin_repositories
from kernel.publish.hub.pins import MODELS, PINS, PinnedFile, read_pins
from kernel.publish.hub.prompt_sources import PROMPTS
from tests.publish.hub.hub_server import Hub, HubHandler, git_blob, listing, talk_to
from tests.system.test_records import JSON, places, put

BLIP2, DIFFUSIONDB = "Salesforce/blip2-flan-t5-xl", "poloclub/diffusiondb"
WEIGHTS = "model.safetensors"
FILES = {"config.json": b"{}", WEIGHTS: bytes(range(256)) * 4096 * 4}
SIZE = len(FILES[WEIGHTS])
REVISION = "0eb0d3b46c14c1f8c7680bca2693baafdb90bb28"


@pytest.fixture(scope="module")
def hub():
    with Hub({BLIP2: FILES, DIFFUSIONDB: {}}, {BLIP2: REVISION, DIFFUSIONDB: "0" * 40}) as hub:
        with pytest.MonkeyPatch.context() as patch:
            talk_to(hub, patch)
            yield hub


@pytest.fixture(autouse=True)
def as_it_should_be(hub):
    hub.odd.clear()
    hub.cuts.clear()
    hub.requests.clear()
    hub.sent = 0


@pytest.fixture
def pins(tmp_path) -> Path:
    """The committed pins without files, but for BLIP-2, whose weights are pinned as they are here."""
    content = json.loads(PINS.read_text())
    for section in (content["repositories"], content["prompts"]):
        for repository in section.values():
            repository["files"] = {}
    content["repositories"]["blip2"] |= {
        "revision": REVISION,
        "files": {WEIGHTS: PinnedFile(SIZE, listing(BLIP2, REVISION, FILES)["siblings"][1]["lfs"]["sha256"]).record()},
    }
    path = tmp_path / "pins.json"
    path.write_text(json.dumps(content))
    return path


QUESTIONS = {
    "listing": lambda pins: pin_repositories(pins, MODELS, ["blip2"]),
    "metadata": lambda pins: pin_repositories(pins, PROMPTS, ["diffusiondb"]),
    "download": lambda pins: fetch(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch"),
}


def said(question: str, pins: Path) -> str:
    """The words of a question that must end with a UserError, and change or leave nothing."""
    before = pins.read_bytes()
    with pytest.raises(UserError) as refused:
        QUESTIONS[question](pins)
    assert pins.read_bytes() == before
    assert not local_path(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch").exists()
    assert str(refused.value).isprintable()
    return str(refused.value)


# answers


def answered(content: bytes, status: int = 200, **headers: str) -> Callable[[HubHandler], None]:
    def answer(handler: HubHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def going_on(content: bytes, pause: float = 0.0, status: int = 200, headers: bytes = b"\r\n") -> Callable:
    """An answer without end; with b"" for `headers`, one whose headers have none."""

    def answer(handler: HubHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 %d OK\r\nX-Odd: 1" % status + (b"\r\n" + headers if headers else b""))
        while not handler.hub.closing.wait(pause):
            handler.wfile.write(content)
            handler.hub.sent += len(content)

    return answer


def gone(handler: HubHandler) -> None:
    """A redirect to what is not there, whose name is a code that a terminal obeys."""
    there = handler.path.endswith("%1B%5B2J")
    answered(b"", 404 if there else 302, Location="%1B%5B2J", X_Error_Code="EntryNotFound")(handler)


GZIP = {"Content_Encoding": "gzip"}
DEEP = b"[" * 100_000
CODES = "\x1b[2J\x1b]0;pwned\x07\u202egnp"
NO_SIZE, NO_BLOB, OTHER_SIZE = "bytes is '': input should be", "is no blob", "came with "
NO_JSON = "Invalid JSON: expected value at line 1 column 1, in what begins"
# answer, and what is said of it where a listing, a file's metadata, a file was asked for
ODD = {
    "HTML": (answered(b"<html>Log in"), f"{NO_JSON} with b'<html>Log in'", NO_BLOB, "came with 12 bytes, pinned is"),
    "empty": (answered(b""), "in what begins with b''", NO_BLOB, "came with 0 bytes, pinned is"),
    "binary": (answered(b"\xff\xfe\x00\x80"), NO_JSON, NO_BLOB, OTHER_SIZE),
    "null": (answered(b"null"), "it is None: input should be", NO_BLOB, OTHER_SIZE),
    "array": (answered(b"[]"), "it is []: input should be", NO_BLOB, OTHER_SIZE),
    "object": (answered(b"{}"), "sha is missing; siblings is missing", NO_BLOB, OTHER_SIZE),
    "text": (answered(b'"text"'), "it is 'text': input should be", NO_BLOB, OTHER_SIZE),
    "number": (answered(b"12"), "it is 12: input should be", NO_BLOB, OTHER_SIZE),
    "deep": (answered(DEEP), "recursion limit exceeded", NO_BLOB, OTHER_SIZE),
    "nothing": (lambda handler: None, "the connection to the hub failed", *["the connection to the hub failed"] * 2),
    "no HTTP": (lambda handler: handler.wfile.write(b"220 mail\r\n\r\n"), *["the connection to the hub failed"] * 3),
    "500": (answered(b"[]", 500), *["the hub answered 500. "] * 3),
    "500 without end": (going_on(b"x" * 2**20, status=500), *["the hub answered 500. "] * 3),
    "204": (answered(b"", 204), NO_JSON[:13], NO_BLOB, OTHER_SIZE),
    "404": (gone, *["the hub has no such file any more (/"] * 3),
    "a circle": (answered(b"", 302, Location="?"), *["more than 20 redirects, one to the next"] * 3),
    "redirect of nothing": (answered(b"", 302, Location="http://a:b/"), *["the hub answered 302. "] * 3),
    "redirect without end": (going_on(b"x" * 2**20, status=302, headers=b"Location: ?\r\n\r\n"), *["20 redirects"] * 3),
    "to a file": (answered(b"", 302, Location="file:///etc/passwd"), "failed", NO_SIZE, "failed"),
    "gzip of more": (answered(gzip.compress(bytes(2**26)), **GZIP), "begins with b'\\x1f\\x8b", NO_BLOB, OTHER_SIZE),
    "endless": (going_on(b" " * 2**20), "more than 2 MiB", NO_SIZE, f"bytes or more, pinned is {SIZE}"),
    "longer": (answered(FILES[WEIGHTS] + b"x"), "more than 2 MiB", NO_BLOB, f"came with {SIZE + 1} bytes or more"),
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_one_line(hub, pins, question, odd):
    hub.odd[question], *expected = ODD[odd]
    words = said(question, pins)
    assert expected[list(QUESTIONS).index(question)] in words
    assert question == "download" or "kept" not in words
    assert hub.sent < 16 * 2**20 * len(hub.requests)  # of each a few MiB are read, the rest is on its way


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("headers", [b"\r\n", b""])
def test_an_answer_that_drips_is_given_up(hub, pins, question, headers, monkeypatch):
    monkeypatch.setattr(client, "SECONDS", (60.0, 0.2))
    hub.odd[question] = going_on(b" ", 0.01, headers=headers)
    words = NO_SIZE if question == "metadata" and headers else "that does not end was given up after 0.2 seconds"
    assert words in said(question, pins)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_silent_hub_is_given_up(hub, pins, question, monkeypatch):
    monkeypatch.setattr(client, "SECONDS", (0.05, 60.0))
    hub.odd[question] = lambda handler: handler.hub.closing.wait(5) and None
    assert "the connection to the hub failed" in said(question, pins)


@pytest.mark.parametrize("question", QUESTIONS)
def test_control_codes_of_the_hub_reach_no_terminal(hub, pins, question, capfd):
    codes = CODES.encode().decode("latin-1")
    headers = {"X_Error_Message": codes, "X_HF_Warning": f"topic; {codes}", "ETag": codes, "X_Repo_Commit": codes}
    for status, content in ((400, json.dumps({"error": CODES})), (200, CODES), (200, json.dumps({CODES: CODES}))):
        hub.odd[question] = answered(content.encode(), status, **headers)
        said(question, pins)  # which looks at the words
    assert all(line.isprintable() for line in capfd.readouterr().err.splitlines())


# listings


def test_a_listing_of_a_million_wrong_files_takes_no_more_memory_than_one(hub, pins):
    hub.odd["listing"] = answered(b'{"sha": "", "siblings": [%s1]}' % (b"1," * 1_000_000))
    tracemalloc.start()
    words = said("listing", pins)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "siblings.0 is 1: input should be" in words and peak < 100 * 2**20  # 64 MiB are set aside for any record


def test_thousands_of_shards_are_one_short_line(hub, pins):
    names = [f"model-{number:05}-of-10000.safetensors" for number in range(2, 9000)]
    siblings = [{"rfilename": name} for name in (*names, "config.json")]
    hub.odd["listing"] = answered(json.dumps({"sha": REVISION, "siblings": siblings}).encode())
    words = said("listing", pins)
    assert "its shards are incomplete: model-00002-of-10000" in words and len(words) < 1000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("siblings", 1, "lfs", "sha256"), "../../evil"),
        (("siblings", 1, "lfs", "sha256"), None),
        (("siblings", 1, "lfs", "size"), -5),
        (("siblings", 1, "lfs", "size"), 1e30),
        (("siblings", 1, "lfs", "size"), 2**40 + 1),
        (("siblings", 1, "lfs", "size"), True),
        (("siblings", 1, "lfs", "size"), "abc"),
        (("siblings", 0, "size"), None),
        (("siblings", 0, "blobId"), 12),
        (("siblings", 0, "rfilename"), 12),
        (("siblings", 1), 12),
        (("siblings",), {}),
        (("sha",), "../../../../x"),
        (("sha",), None),
        (("sha",), "1" * 40),
    ],
)
@pytest.mark.parametrize("revision", [REVISION, None])
def test_what_does_not_fit_into_the_pins_is_not_written(hub, pins, place, value, revision):
    repin(pins, {"revision": revision, "files": {}})
    hub.odd["listing"] = answered(json.dumps(put(listing(BLIP2, REVISION, FILES), place, value)).encode())
    if (value, revision) == ("1" * 40, None):  # any commit is the newest where none is named
        assert QUESTIONS["listing"](pins)[0].revision == value
    else:
        assert "what came is no answer of the hub" in said("listing", pins)


def repin(pins: Path, changes: dict) -> None:
    content = json.loads(pins.read_text())
    content["repositories"]["blip2"] |= changes
    pins.write_text(json.dumps(content))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_listing_is_pinned_as_it_is_read_or_told_in_one_line(hub, tmp_path_factory, data):
    pins = tmp_path_factory.mktemp("any") / "pins.json"
    pins.write_bytes(PINS.read_bytes())
    repin(pins, {"revision": data.draw(st.sampled_from([REVISION, None])), "files": {}})
    content = listing(BLIP2, REVISION, FILES)
    content = put(content, data.draw(st.sampled_from(places(content))), data.draw(JSON))
    hub.odd["listing"] = answered(json.dumps(content).encode())
    before = pins.read_bytes()
    try:
        (pinned,) = QUESTIONS["listing"](pins)
    except UserError as error:
        assert str(error).isprintable() and pins.read_bytes() == before
    else:
        assert read_pins(pins)["blip2"] == pinned


# metadata


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("X_Linked_Size", "abc", "bytes is 'abc': input should be a valid integer"),
        ("X_Linked_Size", "-5", "bytes is '-5': input should be a valid integer"),
        ("X_Linked_Size", "1" * 5000, "Exceeds the limit"),
        ("X_Linked_Size", "9" * 30, "999 bytes are no size of a file"),
        ("X_Linked_ETag", "../../evil", "'../../evil' is no blob"),
        ("X_Linked_ETag", "z" * 64, "zzz' is no sha256"),
        ("X_Repo_Commit", "../../../../x", "revision '../../../../x' is no commit"),
    ],
)
def test_metadata_that_does_not_fit_into_the_pins_is_not_written(hub, pins, name, value, words):
    content = json.loads(pins.read_text())
    content["prompts"]["diffusiondb"]["revision"] = None
    pins.write_text(json.dumps(content))
    fitting = {"X_Linked_Size": "12", "X_Linked_ETag": '"' + "0" * 64 + '"', "X_Repo_Commit": "1" * 40}
    hub.odd["metadata"] = answered(b"", **{**fitting, name: value})
    assert words in said("metadata", pins)
    hub.odd["metadata"] = answered(b"", **fitting)
    (pinned,) = QUESTIONS["metadata"](pins)
    assert pinned.revision == "1" * 40 and pinned.files == {"metadata.parquet": PinnedFile(12, "0" * 64)}


# downloads


def test_a_file_without_end_is_stopped_at_its_size_and_deleted(hub, pins):
    hub.odd["download"] = going_on(bytes(2**16))
    words = said("download", pins)
    written = int(words.split("came with ")[1].split()[0])
    assert SIZE < written <= SIZE + 2**16 and "It was deleted unread" in words
    assert [path for path in (pins.parent / "scratch").rglob("*") if path.is_file()] == []


def test_a_line_that_breaks_often_brings_the_file(hub, pins, monkeypatch):
    monkeypatch.setattr(download, "LEAST_BYTES", SIZE // 8)
    hub.cuts[WEIGHTS] = [SIZE * step // 8 for step in range(1, 8)]
    assert QUESTIONS["download"](pins).read_bytes() == FILES[WEIGHTS]
    starts = [int(request.range[6:-1]) for request in hub.downloads("/storage/" + WEIGHTS) if request.range]
    assert starts == sorted(starts)


def test_a_line_that_brings_next_to_nothing_is_given_up_and_what_came_is_kept(hub, pins):
    hub.cuts[WEIGHTS] = list(range(1, 1000))
    assert "What was downloaded is kept: run again to go on" in said("download", pins)
    part = part_path(local_path(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch"))
    assert 0 < part.stat().st_size < LEAST_BYTES and len(hub.cuts[WEIGHTS]) > 900


def test_an_attempt_that_was_given_up_writes_nothing_more(hub, pins, monkeypatch):
    monkeypatch.setattr(client, "SECONDS", (60.0, 0.2))
    hub.odd["download"] = going_on(bytes(2**14), 0.01)
    said("download", pins)
    monkeypatch.setattr(client, "SECONDS", (60.0, 60.0))
    hub.odd.clear()
    part = part_path(local_path(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch"))
    part.write_bytes(FILES[WEIGHTS][: part.stat().st_size])
    assert QUESTIONS["download"](pins).read_bytes() == FILES[WEIGHTS]


@pytest.mark.parametrize(
    "answer",
    [
        answered(b"<html>Log in"),
        answered(b"x" * 9, 206, Content_Range=f"bytes 0-8/{SIZE}"),
        answered(b"x" * SIZE, 206),
    ],
)
def test_what_is_not_the_rest_of_a_file_leaves_the_part_as_it_was(hub, pins, answer):
    part = part_path(local_path(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch"))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"hours")
    hub.odd["download"] = answer
    assert "asked for what follows byte 5, it sent something else" in said("download", pins)
    assert part.read_bytes() == b"hours"


def test_a_hub_that_sends_the_whole_where_the_rest_was_asked_for_is_taken_at_its_word(hub, pins):
    part = part_path(local_path(read_pins(pins)["blip2"], WEIGHTS, pins.parent / "scratch"))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"hours")
    hub.odd["download"] = answered(FILES[WEIGHTS])
    assert QUESTIONS["download"](pins).read_bytes() == FILES[WEIGHTS]


def test_an_empty_file_is_fetched(hub, pins):
    repin(pins, {"files": {WEIGHTS: PinnedFile(0, blob=git_blob(b"")).record()}})
    assert QUESTIONS["download"](pins).read_bytes() == b""

"""Pins and downloads, by the real client against a hub on the loopback interface."""

import hashlib
import json
import os
import pickle
import signal
from pathlib import Path

import pytest

from kernel.publish.hub.download import local_path, part_path
from kernel.publish.hub.pins import PINS, PinnedFile, read_pins
from tests.publish.hub.hub_server import DECOYS, PIN, TOKEN, Hub, git_blob, refused_client, run_client, start_client
from tests.publish.hub.test_client import going_on

WEIGHTS = {"clip": "open_clip_model.safetensors", "blip2": "model.safetensors", "blip": "model.safetensors",
           "sentences": "model.safetensors"}  # fmt: skip
CUT = 12 * 10**6
LARGE_FILE = os.urandom(25 * 10**6)
CLIP, BLIP2 = "laion/CLIP-ViT-g-14-laion2B-s34B-b88K", "Salesforce/blip2-flan-t5-xl"

FETCH = """
from kernel.publish.hub.download import fetch
from kernel.publish.hub.pins import read_pins
pins, scratch, model, name = sys.argv[1:]
print(fetch(read_pins(Path(pins))[model], name, Path(scratch)))
"""
# the pauses between two attempts do not matter here
WITHOUT_PAUSES = "import time\ntime.sleep = lambda seconds: None\n"


def hub_of_bytes() -> Hub:
    """Repositories of the real names whose files are only bytes: nothing here reads what is in them."""
    repositories = read_pins(PINS)
    files = {}
    for model, repository in repositories.items():
        small = {"config.json": b"{}", "open_clip_config.json": b'{"a": 1}', "1_Pooling/config.json": b"[]"}
        decoys = dict.fromkeys(DECOYS, b"nobody needs this")
        files[repository.name] = {**small, "modules.json": b"[]", **decoys, WEIGHTS[model]: model.encode() * 99}
    files[CLIP][WEIGHTS["clip"]] = LARGE_FILE
    return Hub(files, {repository.name: repository.revision for repository in repositories.values()})


@pytest.fixture
def hub():
    with hub_of_bytes() as hub:
        yield hub


@pytest.fixture
def pins(tmp_path) -> Path:
    """The committed pins without any file, as this hub's MiniLM is not the real one."""
    content = json.loads(PINS.read_text())
    for repository in content["repositories"].values():
        repository["files"] = {}
    path = tmp_path / "pins.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> bytes:
    """The pins as the client fills them from such a hub."""
    path = tmp_path_factory.mktemp("answers") / "pins.json"
    content = json.loads(PINS.read_text())
    content["repositories"]["sentences"]["files"] = {}
    path.write_text(json.dumps(content))
    with hub_of_bytes() as hub:
        run_client(hub, PIN, path)
    return path.read_bytes()


@pytest.fixture
def filled(pins, answers) -> Path:
    pins.write_bytes(answers)
    return pins


def clip_fetch(pins: Path) -> tuple[Path, ...]:
    return pins, pins.parent / "scratch", "clip", WEIGHTS["clip"]


# --pin


def test_pinning_writes_size_and_hash_of_the_needed_files_alone(hub, filled):
    found = read_pins(filled)["clip"].files
    config = b'{"a": 1}'
    assert found == {
        "open_clip_config.json": PinnedFile(len(config), blob=git_blob(config)),
        WEIGHTS["clip"]: PinnedFile(len(LARGE_FILE), hashlib.sha256(LARGE_FILE).hexdigest()),
    }


def test_pinning_downloads_nothing(hub, pins):
    run_client(hub, PIN, pins)
    assert hub.downloads() == [] and len(hub.requests) == 4


def test_pinning_again_changes_nothing(hub, filled):
    before = filled.read_bytes()
    run_client(hub, PIN, filled)
    assert filled.read_bytes() == before


def test_pinning_keeps_what_else_the_file_says(filled):
    assert json.loads(filled.read_text())["note"] == json.loads(PINS.read_text())["note"]


def test_a_pinned_sha256_that_the_hub_does_not_confirm_stops_the_pinning(hub, filled):
    before = filled.read_bytes()
    hub.files[CLIP][WEIGHTS["clip"]] = b"another"
    said = refused_client(hub, PIN, filled)
    assert f"of {WEIGHTS['clip']} the hub says 7 bytes, sha256" in said and "a revision cannot change" in said
    assert filled.read_bytes() == before


def test_a_pinned_file_that_the_hub_no_longer_lists_stops_the_pinning(hub, filled):
    hub.files[BLIP2]["model-00001-of-00001.safetensors"] = hub.files[BLIP2].pop("model.safetensors")
    assert "of model.safetensors the hub says no such file among the needed ones" in refused_client(hub, PIN, filled)


def test_a_repository_without_weights_stops_the_pinning_with_how_to_take_another(hub, pins):
    del hub.files[BLIP2]["model.safetensors"]
    said = refused_client(hub, PIN, pins)
    assert "it has no model.safetensors and no shards of it: nothing can be pinned" in said
    assert f'set "revision" of blip2 in {pins} to a commit of its history' in said


# words


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "knows no such repository, or keeps it from those not logged in"),
        (401, "", "the hub answered 401: it does not accept this login. Make a token that may read"),
        (403, "GatedRepo", "wants its terms accepted first. Log in on its page in the browser and accept them"),
        (404, "RevisionNotFound", 'knows no such revision. To take another: set "revision" of blip2 in'),
        (500, "", "pins.json stays as it was: run again a little later"),
    ],
)
def test_a_hub_that_refuses_is_put_in_words(hub, pins, status, code, words):
    hub.refusals[BLIP2] = (status, code)
    said = refused_client(hub, PIN, pins)
    assert said.startswith(f"{BLIP2} at 0eb0d3b4: ") and words in said


def test_no_word_gives_the_token_away(hub, pins):
    hub.refusals[BLIP2] = (401, "GatedRepo")
    process = start_client(hub, PIN, pins)
    assert TOKEN not in "".join(process.communicate())


def test_a_file_that_is_gone_is_put_in_words(hub, filled):
    del hub.files[CLIP][WEIGHTS["clip"]]
    said = refused_client(hub, FETCH, *clip_fetch(filled))
    assert "the hub has no such file any more" in said and WEIGHTS["clip"] in said


def test_an_offline_setting_is_put_in_words(hub, pins):
    said = refused_client(hub, f"import os\nos.environ['HF_HUB_OFFLINE'] = '1'\n{PIN}", pins)
    assert "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it and run again" in said


def test_a_hub_that_cannot_be_reached_ends_after_a_bounded_number_of_attempts(hub, filled):
    hub.__exit__()
    said = refused_client(hub, WITHOUT_PAUSES + FETCH, *clip_fetch(filled))
    assert "the connection to the hub failed" in said and "run again to go on" in said


def test_a_process_ends_while_an_answer_still_drips(hub, pins):
    hub.odd["listing"] = going_on(b" ", 0.01)
    impatient = "from kernel.publish.hub import client\nclient.SECONDS = (60.0, 0.2)\n"
    assert "was given up after 0.2 seconds" in refused_client(hub, impatient + PIN, pins)


# downloads


def test_a_file_is_fetched_whole_and_under_its_revision(hub, filled):
    path = Path(run_client(hub, FETCH, *clip_fetch(filled)).strip())
    assert path.parent.name == hub.revisions[CLIP] and path.read_bytes() == LARGE_FILE


def test_a_file_that_is_there_is_not_asked_for_again(hub, filled):
    run_client(hub, FETCH, *clip_fetch(filled))
    hub.requests.clear()
    run_client(hub, FETCH, *clip_fetch(filled))
    assert hub.requests == []


def test_the_token_stays_with_the_hub_and_does_not_follow_to_its_storage(hub, filled):
    run_client(hub, FETCH, *clip_fetch(filled))
    tokens = {request.path.split("/")[1]: request.token for request in hub.requests}
    assert tokens == {"laion": f"Bearer {TOKEN}", "storage": None}


def test_a_connection_that_is_cut_goes_on_where_it_was(hub, filled):
    hub.cuts[WEIGHTS["clip"]] = [CUT]
    path = Path(run_client(hub, FETCH, *clip_fetch(filled)).strip())
    stored = [request.range for request in hub.requests if request.path.startswith("/storage/")]
    assert stored == [None, f"bytes={CUT}-"] and path.read_bytes() == LARGE_FILE


def test_a_connection_that_is_reset_is_tried_again(hub, filled):
    hub.cuts[WEIGHTS["clip"]], hub.resets = [CUT, CUT], True
    path = Path(run_client(hub, WITHOUT_PAUSES + FETCH, *clip_fetch(filled)).strip())
    assert len(hub.downloads()) == 6 and path.read_bytes() == LARGE_FILE


def test_a_killed_download_goes_on_where_it_was(hub, filled):
    processes = []
    hub.cuts[WEIGHTS["clip"]] = [CUT]
    part = part_path(local_path(read_pins(filled)["clip"], WEIGHTS["clip"], filled.parent / "scratch"))

    def kill() -> None:
        # what was sent must be written before the process goes, or there is nothing to go on from
        while part.stat().st_size < CUT - 2**16 and processes[0].poll() is None:
            pass
        os.kill(processes[0].pid, signal.SIGKILL)

    hub.at_cut = kill
    processes.append(start_client(hub, FETCH, *clip_fetch(filled)))
    processes[0].communicate()
    assert processes[0].returncode == -signal.SIGKILL
    kept = part.stat().st_size
    path = Path(run_client(hub, FETCH, *clip_fetch(filled)).strip())
    assert hub.requests[-1].range == f"bytes={kept}-" and path.read_bytes() == LARGE_FILE


def test_a_part_file_that_is_too_long_is_not_taken_for_the_file(hub, filled):
    path = local_path(read_pins(filled)["clip"], WEIGHTS["clip"], filled.parent / "scratch")
    path.parent.mkdir(parents=True)
    part_path(path).write_bytes(LARGE_FILE + b"x")
    assert f"came with {len(LARGE_FILE) + 1} bytes" in refused_client(hub, FETCH, *clip_fetch(filled))
    assert list(path.parent.iterdir()) == []


def test_a_file_of_another_sha256_is_refused_and_deleted(hub, filled):
    hub.files[CLIP][WEIGHTS["clip"]] = LARGE_FILE[:-1] + bytes([LARGE_FILE[-1] ^ 1])
    said = refused_client(hub, FETCH, *clip_fetch(filled))
    assert f"{WEIGHTS['clip']} came with sha256" in said and "It was deleted unread; run again" in said
    assert [path for path in (filled.parent / "scratch").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [LARGE_FILE[:-1], LARGE_FILE + b"x", b""])
def test_a_file_of_another_length_is_refused_and_deleted(hub, filled, content):
    hub.files[CLIP][WEIGHTS["clip"]] = content
    said = refused_client(hub, FETCH, *clip_fetch(filled))
    assert f"{WEIGHTS['clip']} came with " in said and "It was deleted unread" in said
    assert [path for path in (filled.parent / "scratch").rglob("*") if path.is_file()] == []


def test_a_small_file_of_another_content_is_refused(hub, filled):
    hub.files[CLIP]["open_clip_config.json"] = b'{"a": 2}'
    said = refused_client(hub, FETCH, *clip_fetch(filled)[:3], "open_clip_config.json")
    assert "open_clip_config.json came with blob" in said


def test_a_full_scratch_disk_ends_with_words_and_goes_on_later(hub, filled):
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({CUT}, {CUT}))\n"
    said = refused_client(hub, limit + FETCH, *clip_fetch(filled))
    assert "open_clip_model.safetensors.part: cannot be written (File too large)" in said
    assert "Free space there or give --scratch another disk. What was downloaded is kept" in said
    path = Path(run_client(hub, FETCH, *clip_fetch(filled)).strip())
    assert hub.requests[-1].range is not None and path.read_bytes() == LARGE_FILE


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_of_another_sha256_is_never_opened(hub, pins, tmp_path):
    name = "open_clip_pytorch_model.bin"
    payload = pickle.dumps(Payload(tmp_path / "ran"))
    hub.files[CLIP] = {"open_clip_config.json": b"{}", name: bytes(len(payload))}
    run_client(hub, PIN, pins)
    hub.files[CLIP][name] = payload
    said = refused_client(hub, MAKE, pins, tmp_path / "scratch", tmp_path / "out")
    assert f"{name} came with sha256" in said and not (tmp_path / "ran").exists()


MAKE = """
from kernel.publish.hub.pins import read_pins
from kernel.publish.hub.items import items_of
from kernel.publish.hub.weights import make
pins, scratch, out = map(Path, sys.argv[1:])
repositories = {"clip": read_pins(pins)["clip"]}
for item in items_of(repositories, []):
    make(item, out, scratch, {})
"""

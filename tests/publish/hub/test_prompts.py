"""`publish prompts`: the real client against a hub on the loopback interface, tables with DiffusionDB's columns."""

import io
import json
import os
import random
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kernel.banks.prompt_files import read_prompts_from
from kernel.errors import UserError
from kernel.publish.hub.download import local_path, part_path
from kernel.publish.hub.pins import PINS, PinnedFile, read_pins
from kernel.publish.hub.prompt_filters import PromptSettings
from kernel.publish.hub.prompt_sources import PROMPTS, SOURCES, chosen_sources, listing
from kernel.publish.hub.prompts import drawn, publish_prompts, record_path
from tests.publish.hub.hub_server import Hub, refused_client, run_client, start_client

DIFFUSIONDB, MIDJOURNEY, LEXICA, SD = (
    "poloclub/diffusiondb",
    "succinctly/midjourney-prompts",
    "Gustavosta/Stable-Diffusion-Prompts",
    "jamarju/sd-4.4M",
)
THINGS = ("fish", "cat", "hill", "tree", "moon", "robot", "castle", "teapot", "owl", "boat")
COLOURS = ("red", "blue", "green", "golden", "pale", "huge", "tiny", "old", "wooden", "broken")
GOOD = [f"a {colour} {thing} in the fog" for colour in COLOURS for thing in THINGS]
# (prompt, its NSFW score): the good ones three times each, as a prompt has several pictures, and one of every kind
ROWS = [(prompt, 0.01) for prompt in GOOD for _ in range(3)] + [
    ("a cat", 0.01),
    ("word " * 61, 0.01),
    ("un gato en la playa", 0.01),
    ("", 0.01),
    ("1, 2, 3", 0.01),
    ("a  red\nfish in the fog ", 0.01),
    ("a naked fish in the fog", 0.9),
    ("a fish without a score", None),
]
DROPPED = {
    "empty": 1,
    "no letter": 1,
    "undecodable": 0,
    "too long": 0,
    "too few words": 1,
    "too many words": 1,
    "other language": 1,
    "NSFW score too high": 1,
    "no NSFW score": 1,
    "duplicate or not drawn": 201,
}
CUT = 12 * 10**6
PIN = """
from kernel.publish.hub.download import pin_repositories
from kernel.publish.hub.prompt_sources import PROMPTS
pin_repositories(Path(sys.argv[1]), PROMPTS, sys.argv[2:] or None)
"""
PUBLISH = """
from kernel.publish.hub.prompt_filters import PromptSettings
from kernel.publish.hub.prompts import publish_prompts
place, settings = Path(sys.argv[1]), PromptSettings(**eval(sys.argv[2]))
publish_prompts(settings, place / "prompts.parquet", place / "scratch", place / "pins.json")
"""
COMMAND = """
from kernel.__main__ import main
sys.exit(main(["publish", "prompts", *sys.argv[1:]]))
"""


def diffusiondb(rows, row_group: int = 64, padding: int = 0, **changes) -> bytes:
    """A table with the columns of DiffusionDB's; `padding` makes it that many bytes larger."""
    count = len(rows)
    columns = {
        "image_name": pyarrow.array([f"{number}.png" for number in range(count)]),
        "prompt": pyarrow.array([prompt for prompt, _ in rows], pyarrow.string()),
        "part_id": pyarrow.array([1] * count, pyarrow.uint16()),
        "seed": pyarrow.array([7] * count, pyarrow.uint32()),
        "step": pyarrow.array([50] * count, pyarrow.uint16()),
        "cfg": pyarrow.array([7.0] * count, pyarrow.float32()),
        "sampler": pyarrow.array([8] * count, pyarrow.uint8()),
        "width": pyarrow.array([512] * count, pyarrow.uint16()),
        "height": pyarrow.array([512] * count, pyarrow.uint16()),
        "user_name": pyarrow.array(["0" * 64] * count),
        "timestamp": pyarrow.array([None] * count, pyarrow.timestamp("us", "UTC")),
        "image_nsfw": pyarrow.array([2.0] * count, pyarrow.float32()),  # blurred, which says nothing of the prompt
        "prompt_nsfw": pyarrow.array([score for _, score in rows], pyarrow.float32()),
        **changes,
    }
    return parquet({name: values for name, values in columns.items() if values is not None}, row_group, padding)


def parquet(columns: dict, row_group: int = 64, padding: int = 0) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.table(columns).replace_schema_metadata({"padding": os.urandom(padding).hex()} if padding else None)
    pyarrow.parquet.write_table(table, buffer, row_group_size=row_group)
    return buffer.getvalue()


def texts(column: str, prompts: list[str]) -> bytes:
    return parquet({column: pyarrow.array(prompts, pyarrow.string())})


def hub_of(metadata: bytes) -> Hub:
    """The repositories of the section `prompts` of pins.json at its revisions."""
    midjourney = ["a silver owl on a lake --ar 16:9 --v 3", "https://s.mj.run/x a silver fox under the moon"]
    files = {
        DIFFUSIONDB: {"metadata.parquet": metadata, "metadata-large.parquet": metadata, "README.md": b"#"},
        MIDJOURNEY: {name: texts("text", midjourney) for name in SOURCES["midjourney"].files},
        LEXICA: {name: texts("Prompt", ["a copper fox under the sun"]) for name in SOURCES["lexica"].files},
        SD: {"metadata.parquet": texts("text", [f"a {thing} of silver by the sea" for thing in THINGS])},
    }
    revisions = {repository.name: repository.revision or "5d" * 20 for repository in read_pins(PINS, PROMPTS).values()}
    return Hub(files, revisions, frozenset(files))


@pytest.fixture
def hub():
    with hub_of(diffusiondb(ROWS)) as hub:
        yield hub


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> bytes:
    """pins.json as the real client fills it from such a hub."""
    with hub_of(diffusiondb(ROWS)) as hub:
        return (pinned(hub, tmp_path_factory.mktemp("answers") / "place") / "pins.json").read_bytes()


@pytest.fixture
def place(tmp_path, answers) -> Path:
    """A folder with these pins and nothing else."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "pins.json").write_bytes(answers)
    return folder


def pinned(hub: Hub, folder: Path) -> Path:
    folder.mkdir()
    content = json.loads(PINS.read_text())
    for repository in content["prompts"].values():
        repository["files"] = {}
    (folder / "pins.json").write_text(json.dumps(content))
    run_client(hub, PIN, folder / "pins.json")
    hub.requests.clear()
    return folder


def published(place: Path, **settings) -> dict:
    """The record of a run in this process, whose downloads must lie in scratch, and its prompts under "prompts"."""
    out = place / "prompts.parquet"
    record = publish_prompts(PromptSettings(**settings), out, place / "scratch", place / "pins.json")
    assert record == json.loads(record_path(out).read_text())
    return {**record, "prompts": list(read_prompts_from([out]))}


@pytest.fixture
def ready(place) -> Path:
    """A place whose scratch holds DiffusionDB's table as a run leaves it there."""
    lay(place, diffusiondb(ROWS))
    return place


def lay(place: Path, content: bytes) -> None:
    path = local_path(read_pins(place / "pins.json", PROMPTS)["diffusiondb"], "metadata.parquet", place / "scratch")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


# pins


def test_pinning_writes_size_and_hash_of_the_sources_files_alone(hub, place):
    found = read_pins(place / "pins.json", PROMPTS)
    metadata = hub.files[DIFFUSIONDB]["metadata.parquet"]
    assert set(found["diffusiondb"].files) == {"metadata.parquet"}
    assert found["diffusiondb"].files["metadata.parquet"].bytes == len(metadata)
    assert {name: set(repository.files) for name, repository in found.items()} == {
        name: set(source.files) for name, source in SOURCES.items() if not source.address
    }


def test_pinning_leaves_the_models_and_other_sources_as_they_are(hub, tmp_path):
    path = tmp_path / "pins.json"
    path.write_bytes(PINS.read_bytes())
    run_client(hub, PIN, path, "midjourney")
    before, after = json.loads(PINS.read_text()), json.loads(path.read_text())
    assert len(after["prompts"]["midjourney"]["files"]) == 3
    del before["prompts"]["midjourney"], after["prompts"]["midjourney"]
    assert after == before


def test_pinning_asks_for_the_needed_files_only_and_downloads_none(hub, tmp_path):
    path = tmp_path / "pins.json"
    path.write_bytes(PINS.read_bytes())
    run_client(hub, PIN, path, "diffusiondb")
    asked = {(request.method, request.path.split("/")[-1]) for request in hub.requests}
    assert asked == {("HEAD", "metadata.parquet")}


def test_a_source_without_a_revision_gets_the_newest(hub, place):
    content = json.loads((place / "pins.json").read_text())
    expected = content["prompts"]["midjourney"]
    content["prompts"]["midjourney"] = {**expected, "revision": None, "files": {}}
    (place / "pins.json").write_text(json.dumps(content))
    run_client(hub, PIN, place / "pins.json", "midjourney")
    assert json.loads((place / "pins.json").read_text())["prompts"]["midjourney"] == expected


def test_a_table_that_is_gone_stops_the_pinning_with_how_to_take_another(hub, tmp_path):
    path = tmp_path / "pins.json"
    path.write_bytes(PINS.read_bytes())
    del hub.files[DIFFUSIONDB]["metadata.parquet"]
    said = refused_client(hub, PIN, path, "diffusiondb")
    assert "the hub has no such file" in said and 'set "revision" of diffusiondb in' in said
    assert path.read_bytes() == PINS.read_bytes()


def test_a_pinned_table_that_the_hub_does_not_confirm_stops_the_pinning(hub, place):
    hub.files[DIFFUSIONDB]["metadata.parquet"] = b"another"
    said = refused_client(hub, PIN, place / "pins.json")
    assert "of metadata.parquet the hub says 7 bytes, sha256" in said and "a revision cannot change" in said


def test_unpinned_sources_stop_with_the_command_that_pins_them(tmp_path):
    with pytest.raises(UserError, match="Run 'python -m kernel publish prompts --pin' first"):
        publish_prompts(PromptSettings(), tmp_path / "prompts.parquet", tmp_path / "scratch", PINS)


def test_a_model_at_that_address_is_no_dataset(hub, tmp_path):
    path = tmp_path / "pins.json"
    path.write_bytes(PINS.read_bytes())
    hub.datasets = frozenset({MIDJOURNEY, LEXICA})
    assert f"{DIFFUSIONDB} at fb620fbe: the hub knows no such repository" in refused_client(hub, PIN, path)


# the sample


def test_filters_keep_what_they_should_and_count_the_rest(ready):
    found = published(ready)
    assert sorted(found["prompts"]) == sorted(GOOD)
    assert found["counts"] == {"read": 308, "dropped": DROPPED, "written": 100}
    assert sum(DROPPED.values()) + 100 == 308


def test_the_record_says_where_the_prompts_are_from(ready):
    found = published(ready, count=5, seed=3)
    (source,) = found["sources"]
    metadata = read_pins(ready / "pins.json", PROMPTS)["diffusiondb"].files["metadata.parquet"]
    assert source == {
        "name": "diffusiondb",
        "repository": DIFFUSIONDB,
        "revision": "fb620fbe49fa4420e0734bd9c0df11f51176b61f",
        "licence": "CC0-1.0",
        "files": {"metadata.parquet": metadata.record()},
    }
    assert (found["seed"], found["count"], len(found["prompts"])) == (3, 5, 5)
    assert found["filters"] == {"min_words": 3, "max_words": 60, "language": "en", "max_nsfw": 0.5}


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_rows_and_groups(ready, tmp_path):
    rows = ROWS[:]
    random.Random(4).shuffle(rows)
    first = published(ready, count=20)
    other = tmp_path / "other"
    with hub_of(diffusiondb(rows, row_group=7)) as hub:
        pinned(hub, other)
    lay(other, diffusiondb(rows, row_group=7))
    second = published(other, count=20)
    assert first["sources"] != second["sources"] and first["sha256"] == second["sha256"]
    assert (ready / "prompts.parquet").read_bytes() == (other / "prompts.parquet").read_bytes()


def test_the_size_of_a_batch_changes_nothing(ready, monkeypatch):
    first = published(ready, count=20)
    monkeypatch.setattr("kernel.banks.prompt_files.BATCH_ROWS", 3)
    out = ready / "again.parquet"
    second = publish_prompts(PromptSettings(count=20), out, ready / "scratch", ready / "pins.json")
    assert second["counts"] == first["counts"] and second["sha256"] == first["sha256"]


def test_another_seed_gives_other_prompts(ready):
    first = published(ready, count=20)["prompts"]
    second = published(ready, count=20, seed=1)["prompts"]
    assert len(set(first)) == len(set(second)) == 20 and set(first) != set(second)


def test_several_sources_make_one_sample_without_midjourneys_own_words(hub, place):
    settings = {"sources": ("midjourney", "diffusiondb")}
    run_client(hub, PUBLISH, place, settings)
    found = published(place, **settings)
    own = set(found["prompts"]) - set(GOOD)
    assert own == {"a silver owl on a lake", "a silver fox under the moon"}
    assert [source["licence"] for source in found["sources"]] == ["Apache-2.0", "CC0-1.0"]


def test_a_bank_reads_the_file_without_being_told_the_column(ready):
    published(ready, count=3)
    with pyarrow.parquet.ParquetFile(ready / "prompts.parquet") as file:
        assert file.schema_arrow.names == ["prompt"] and file.metadata.num_rows == 3


def test_a_second_run_reads_nothing_and_changes_nothing(ready, monkeypatch):
    first = published(ready)
    before = (ready / "prompts.parquet").stat().st_mtime_ns
    monkeypatch.setattr("kernel.publish.hub.prompts.parquet_rows", None)
    assert published(ready) == first
    assert (ready / "prompts.parquet").stat().st_mtime_ns == before


def test_other_filters_make_another_sample_of_the_same_download(ready):
    published(ready)
    assert "a naked fish in the fog" in published(ready, max_nsfw=1.0)["prompts"]


def test_a_damaged_sample_is_made_again(ready):
    first = published(ready)
    (ready / "prompts.parquet").write_bytes(b"PAR1")
    assert published(ready)["prompts"] == first["prompts"]


# downloads


def test_a_download_that_is_cut_goes_on_in_the_next_run(tmp_path):
    with hub_of(diffusiondb(ROWS, padding=8 * 10**6)) as hub:
        place = pinned(hub, tmp_path / "place")
        repository = read_pins(place / "pins.json", PROMPTS)["diffusiondb"]
        hub.cuts["metadata.parquet"] = [CUT]
        hub.at_cut = lambda: hub.broken.update({"metadata.parquet": 500})
        said = refused_client(hub, PUBLISH, place, {})
        assert "the hub answered 500. What was downloaded is kept: run again to go on" in said
        hub.broken.clear()
        kept = part_path(local_path(repository, "metadata.parquet", place / "scratch")).stat().st_size
        hub.requests.clear()
        run_client(hub, PUBLISH, place, {})
        assert len(published(place)["prompts"]) == 100
        assert kept == CUT and hub.requests[-1].range == f"bytes={kept}-"


def test_a_table_of_another_content_is_refused_and_deleted(hub, place):
    content = hub.files[DIFFUSIONDB]["metadata.parquet"]
    hub.files[DIFFUSIONDB]["metadata.parquet"] = content[:-1] + bytes([content[-1] ^ 1])
    said = refused_client(hub, PUBLISH, place, {})
    assert "metadata.parquet came with sha256" in said and "It was deleted unread" in said
    assert [path for path in (place / "scratch").rglob("*") if path.is_file()] == []
    assert not (place / "prompts.parquet").exists()


def test_a_disk_too_small_for_the_download_stops_before_the_first_byte(hub, place):
    full = "import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(10, 10, 0)\n"
    said = refused_client(hub, full + PUBLISH, place, {})
    assert "scratch: 0.00 MB are free, 0.00 GB are to be downloaded: the disk would be full" in said
    assert hub.requests == []


# refusals


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Puts a table where the download would lie, so that no hub is needed; returns what `publish_prompts` takes."""

    def put(content: bytes, **settings) -> tuple[PromptSettings, Path, Path, Path]:
        path = tmp_path / "metadata.parquet"
        path.write_bytes(content)
        pins = json.loads(PINS.read_text())
        pins["prompts"]["diffusiondb"]["files"] = {"metadata.parquet": PinnedFile(len(content), "0" * 64).record()}
        (tmp_path / "pins.json").write_text(json.dumps(pins))
        monkeypatch.setattr("kernel.publish.hub.prompts.fetch", lambda *_: path)
        return PromptSettings(**settings), tmp_path / "prompts.parquet", tmp_path, tmp_path / "pins.json"

    return put


def test_a_table_without_its_column_of_prompts_is_named_with_what_it_has(table):
    with pytest.raises(UserError, match="has no column 'prompt' of text; its columns are image_name, part_id, seed"):
        publish_prompts(*table(diffusiondb(ROWS, prompt=None)))


@pytest.mark.parametrize("scores", [None, pyarrow.array(["low"] * len(ROWS))])
def test_a_table_without_its_column_of_scores_is_named(table, scores):
    with pytest.raises(UserError, match="has no column 'prompt_nsfw' of numbers; its columns are image_name, prompt"):
        publish_prompts(*table(diffusiondb(ROWS, prompt_nsfw=scores)))


def test_a_file_that_is_no_table_is_named(table):
    with pytest.raises(UserError, match=r"metadata.parquet: .*[Pp]arquet"):
        publish_prompts(*table(b"<html>not found</html>"))


def test_when_nothing_passes_the_reasons_are_given_and_nothing_is_written(table, tmp_path):
    arguments = table(diffusiondb(ROWS), min_words=40, max_words=41)
    with pytest.raises(UserError, match="none of 308 prompts passes the filters .*305 too few words, 1 too many words"):
        publish_prompts(*arguments)
    assert not (tmp_path / "prompts.parquet").exists() and not record_path(tmp_path / "prompts.parquet").exists()


def test_an_empty_table_is_said_to_be_empty(table):
    with pytest.raises(UserError, match="none of 0 prompts passes the filters .the table is empty."):
        publish_prompts(*table(diffusiondb([])))


@pytest.mark.parametrize("step", ["pyarrow.parquet.ParquetWriter.write_table", "kernel.publish.hub.prompts.write_json"])
def test_a_result_that_cannot_be_written_is_one_line_and_leaves_nothing(table, tmp_path, monkeypatch, step):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "prompts.parquet"))

    arguments = table(diffusiondb(ROWS))
    monkeypatch.setattr(step, full)
    with pytest.raises(UserError, match=r"prompts.parquet: cannot be written \(No space left on device\). Free space"):
        publish_prompts(*arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"metadata.parquet", "pins.json"}


def test_a_file_that_this_command_did_not_make_is_not_replaced(table, tmp_path):
    arguments = table(diffusiondb(ROWS))
    (tmp_path / "prompts.parquet").write_bytes(b"years of work")
    with pytest.raises(UserError, match="exists, and no prompts.parquet.json says that this made it"):
        publish_prompts(*arguments)
    assert (tmp_path / "prompts.parquet").read_bytes() == b"years of work"


def test_another_suffix_is_refused(table, tmp_path):
    settings, _, scratch, pins = table(diffusiondb(ROWS))
    with pytest.raises(UserError, match="expected a name that ends in .parquet"):
        publish_prompts(settings, tmp_path / "prompts.csv", scratch, pins)


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown source 'difusiondb' \(did you mean 'diffusiondb'\?\). Valid: "):
        chosen_sources(["difusiondb"])


def test_a_source_without_a_licence_is_taken_only_when_that_is_accepted():
    with pytest.raises(UserError, match="source lexica: its page states no licence.*add --accept-licence lexica"):
        chosen_sources(["diffusiondb", "lexica"], accepted=["diffusiondb"])
    assert [source.name for source in chosen_sources(["lexica"], accepted=["lexica"])] == ["lexica"]


def test_the_list_shows_licence_size_and_repository(place):
    shown = listing(place / "pins.json")[::2]
    assert shown[0].startswith("diffusiondb: licence CC0-1.0, 0.00 GB, poloclub/diffusiondb at fb620fbe")
    assert "licence none stated" in shown[3] and len(shown) == len(SOURCES)
    assert "size not pinned yet" in listing(PINS)[0]


# captions, and mixes


def captions_zip(**members: list[dict]) -> bytes:
    """As COCO and VizWiz publish them: annotations/NAME.json with much beside the captions."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, annotations in members.items():
            told = {"info": {"year": 2014}, "licenses": [], "images": [{"id": 1}], "annotations": annotations}
            archive.writestr(f"annotations/{name}.json", json.dumps(told))
    return content.getvalue()


def lay_captions(scratch: Path) -> None:
    coco = [
        {"image_id": 1, "id": number, "caption": f"A {thing} near a window. "} for number, thing in enumerate(THINGS)
    ]
    vizwiz = [
        {"caption": "A can of soup on a table.", "image_id": 0, "is_precanned": False, "is_rejected": False, "id": 0},
        {"caption": "Quality issues are too severe to see.", "image_id": 0, "is_precanned": True, "is_rejected": False},
        {"caption": "A can which nobody can see.", "image_id": 0, "is_precanned": False, "is_rejected": True, "id": 2},
        {
            "caption": "A silver fox under the moon.",
            "image_id": 0,
            "is_precanned": False,
            "is_rejected": False,
            "id": 3,
        },
    ]
    for name, content in (
        ("coco/annotations_trainval2017.zip", captions_zip(captions_train2017=coco[:7], captions_val2017=coco[5:])),
        ("vizwiz/annotations.zip", captions_zip(train=vizwiz[:2], val=vizwiz[2:])),
    ):
        path = scratch / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)


def test_captions_of_both_publishers_make_a_sample_that_names_them(place):
    lay_captions(place / "scratch")
    found = published(place, sources=("coco", "vizwiz"))
    seen = {f"A {thing} near a window." for thing in THINGS}
    assert set(found["prompts"]) == seen | {"A can of soup on a table.", "A silver fox under the moon."}
    assert found["counts"]["dropped"]["empty"] == 2
    assert [(own["licence"], own["credit"][:6]) for own in found["sources"]] == [
        ("CC-BY-4.0", "COCO C"), ("CC-BY-4.0", "Gurari")
    ]  # fmt: skip
    file = found["sources"][1]["files"]["annotations.zip"]
    assert file["bytes"] == (place / "scratch" / "vizwiz" / "annotations.zip").stat().st_size


def test_captions_that_nobody_has_got_yet_are_told_with_their_address(place):
    with pytest.raises(
        UserError, match=r"scratch/coco/annotations_trainval2017.zip: not found; .*Get http://images.coco"
    ):
        published(place, sources=("coco",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "no zip"),
        (captions_zip(other=[]), "has no annotations/train.json; expected annotations/train.json, annotations/val"),
        (captions_zip(train=[{"captions": "a"}], val=[]), "annotations.0.caption is missing"),
        (captions_zip(train=[{"caption": 7}], val=[]), "annotations.0.caption is 7"),
    ],
)
def test_a_zip_that_is_another_is_named_in_one_line(place, content, words):
    lay_captions(place / "scratch")
    (place / "scratch" / "vizwiz" / "annotations.zip").write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        published(place, sources=("vizwiz",))
    assert "vizwiz/annotations.zip: " in str(refused.value) and "\n" not in str(refused.value)


def test_the_prompts_of_sd_4_4m_stand_in_whichever_column_holds_text(hub, place):
    run_client(hub, PUBLISH, place, {"sources": ("sd-4.4M",)})
    found = published(place, sources=("sd-4.4M",))
    assert set(found["prompts"]) == {f"a {thing} of silver by the sea" for thing in THINGS}
    assert found["sources"][0]["licence"] == "openrail"


def test_a_mix_keeps_its_shares_though_one_source_has_few(ready):
    lay_captions(ready / "scratch")
    found = published(ready, sources=("diffusiondb", "coco"), mix={"diffusiondb": 0.8, "coco": 0.2}, count=1000)
    captions = [prompt for prompt in found["prompts"] if prompt.endswith("near a window.")]
    assert (len(captions), len(found["prompts"])) == (10, 50)
    assert found["mix"] == {"diffusiondb": 0.8, "coco": 0.2}
    fewer = published(ready, sources=("diffusiondb", "coco"), mix={"diffusiondb": 0.8, "coco": 0.2}, count=20)
    assert sum(prompt.endswith("near a window.") for prompt in fewer["prompts"]) == 4
    assert set(fewer["prompts"]) <= set(found["prompts"])


def test_a_text_of_two_sources_counts_for_the_first_of_a_mix():
    settings = PromptSettings(sources=("a", "b"), mix={"a": 0.5, "b": 0.5})
    assert sorted(drawn({"a": {"x", "y"}, "b": {"x", "z"}}, settings))[1:] == ["z"]
    with pytest.raises(UserError, match="--mix: of prompts that pass a has 2, b has 0: too few"):
        drawn({"a": {"x", "y"}, "b": {"x"}}, settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mix": {"coco": 0.5, "vizwiz": 0.4}, "sources": ("coco", "vizwiz")}, "the shares sum to 0.9; expected 1"),
        ({"mix": {"coco": 1.0, "vizwiz": 0.0}, "sources": ("coco", "vizwiz")}, "a share above 0 of every source"),
        ({"mix": {"coco": 1.0}}, "no --source beside it"),
    ],
)
def test_shares_that_are_none_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        PromptSettings(**settings)


def test_the_command_takes_a_mix_and_says_whom_to_name(hub, place):
    lay_captions(place / "scratch")
    where = ["--out", place / "p.parquet", "--scratch", place / "scratch", "--pins", place / "pins.json"]
    said = run_client(hub, COMMAND, *where, "--mix", "sd-4.4M=0.5,coco=0.4,vizwiz=0.1").splitlines()
    assert said[1].startswith("coco: by COCO Consortium") and said[1].endswith("licence CC-BY-4.0")
    assert said[3].startswith(f"{place / 'p.parquet'}: 20 of 26 prompts")


# the command


def test_the_command_prints_counts_cost_and_the_next_command(hub, place):
    where = ["--out", place / "p.parquet", "--scratch", place / "scratch", "--pins", place / "pins.json"]
    said = run_client(hub, COMMAND, *where, "--count", "50", "--source", "lexica", "--accept-licence", "lexica",
                      "--source", "diffusiondb", "--max-words", "20").splitlines()  # fmt: skip
    assert said[0] == (f"lexica: {LEXICA} at d816d4a05cb89bde39dd99284c459801e1e7e69a, licence none stated")
    assert said[2].startswith(f"{place / 'p.parquet'}: 50 of 310 prompts")
    assert "           1 left out: too many words" in said
    assert any("50 prompts through CLIP's text tower at 47.00 GFLOPs each" in line for line in said)
    assert said[-1].startswith(f"next: python -m kernel bank {place / 'p.parquet'} --weights build/kaggle-weights")


def test_the_command_pins_only_the_sources_it_is_given(hub, tmp_path):
    pins = tmp_path / "pins.json"
    pins.write_bytes(PINS.read_bytes())
    said = run_client(hub, COMMAND, "--pin", "--pins", pins, "--source", "lexica")
    assert said.startswith(f"lexica: {LEXICA} at d816d4a0, 2 files\n")
    filled = {name for name, repository in read_pins(pins, PROMPTS).items() if repository.files}
    assert filled == {"lexica"}


def test_the_commands_refusal_is_one_line_and_exit_code_1(hub, place):
    code = COMMAND.replace("sys.exit(main", "sys.exit(4 if main").replace("]))", "]) == 1 else 5)")
    process = start_client(hub, code, "--source", "lexica", "--pins", place / "pins.json")
    _, errors = process.communicate()
    assert process.returncode == 4 and errors.startswith("error: source lexica") and errors.count("\n") == 1

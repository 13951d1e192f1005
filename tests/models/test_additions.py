"""What is added to a finished weights folder, and what a kill leaves of it beside the folder.

tests/publish/hub/test_killed_additions.py kills at every step.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.models.additions import add_copies, files_to_add, finish_additions
from kernel.models.weights_folder import MANIFEST, FileEntry, addition_path, open_weights, read_manifest
from kernel.system.files import write_json
from tests.models.test_weights_folder import folder  # noqa: F401

PARTS = ["prompt_bank", "word_banks/features", "encoders/vit", "encoders/vit-b.16"]


def decide(weights: Path, part: str) -> Path:
    """What a command leaves that is killed in the instant when it is decided that new.json is added."""
    new = files_to_add(weights, part) / "new.json"
    new.write_text("{}")
    manifest = read_manifest(weights / MANIFEST)
    files = [*manifest.files, FileEntry.of(new, f"{part}/new.json")]
    write_json(addition_path(weights, part) / MANIFEST, asdict(replace(manifest, files=files)))
    return new


def beside(weights: Path) -> list[str]:
    return [path.name for path in weights.parent.iterdir() if path != weights]


@pytest.mark.parametrize("part", PARTS)
def test_what_was_decided_before_a_kill_is_finished(folder, part):  # noqa: F811
    decide(folder, part)
    finish_additions(folder)
    open_weights(folder)
    assert (folder / part / "new.json").read_text() == "{}" and beside(folder) == []


@pytest.mark.parametrize("part", PARTS)
def test_a_run_on_a_folder_that_is_being_added_to_is_told_what_completes_it(folder, part):  # noqa: F811
    new = decide(folder, part)
    open_weights(folder)
    (folder / part).mkdir(parents=True)
    new.rename(folder / part / "new.json")
    with pytest.raises(UserError, match="a command was ended while it put files there.*publish weights': it ends in a"):
        open_weights(folder)


def test_what_was_decided_for_a_folder_that_was_replaced_since_is_dropped(folder):  # noqa: F811
    decide(folder, "encoders/vit")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["models"]["clip"]["sha256"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    finish_additions(folder)
    assert open_weights(folder).sha256("clip") == "0" * 64 and beside(folder) == []


def test_what_a_part_held_before_goes(folder, tmp_path):  # noqa: F811
    (tmp_path / "new.json").write_text("{}")
    for name in ("first.json", "second.json"):
        add_copies(folder, "prompt_bank", {name: tmp_path / "new.json"})
    open_weights(folder)
    assert [path.name for path in (folder / "prompt_bank").iterdir()] == ["second.json"]


def test_what_was_begun_for_another_part_stays(folder, tmp_path):  # noqa: F811
    (files_to_add(folder, "word_banks/features") / "hours.safetensors").write_bytes(b"of work")
    (tmp_path / "encoder.json").write_text("{}")
    add_copies(folder, "encoders/vit", {"encoder.json": tmp_path / "encoder.json"})
    assert set(open_weights(folder).encoders) == {"vit"}
    assert (files_to_add(folder, "word_banks/features") / "hours.safetensors").read_bytes() == b"of work"


@pytest.mark.parametrize("name", ["weights.old", "weights2", "weights.encoders", "weight"])
def test_what_was_decided_for_a_folder_of_a_similar_name_is_left_to_that_one(folder, name):  # noqa: F811
    other = folder.rename(folder.with_name(name))
    new = decide(other, "prompt_bank")
    folder.mkdir()
    finish_additions(folder)
    assert new.is_file()
    finish_additions(other)
    assert (other / "prompt_bank" / "new.json").is_file()


@pytest.mark.parametrize("name", ["weights[1]", "w*", "w?"])
def test_signs_of_patterns_in_a_folder_s_name_mean_themselves(folder, name):  # noqa: F811
    folder = folder.rename(folder.with_name(name))
    decide(folder, "encoders/vit")
    finish_additions(folder)
    assert (folder / "encoders" / "vit" / "new.json").is_file() and beside(folder) == []


def test_a_folder_reached_by_a_link_is_added_to_where_it_lies(folder, tmp_path):  # noqa: F811
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(folder)
    decide(folder, "encoders/vit")
    finish_additions(link)
    assert (folder / "encoders" / "vit" / "new.json").is_file() and beside(link) == []

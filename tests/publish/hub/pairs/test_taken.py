"""Which pictures of a source's files come into a set, and what is counted of the others."""

from collections import Counter

import pytest

from kernel.errors import UserError
from kernel.publish.hub.pairs.sources import mixed
from kernel.training import heads
from kernel.training.pairs import open_pairs
from kernel.training.train import train
from tests.publish.hub.pairs.source_files import (
    DIFFUSIONDB_REVISION,
    OWN,
    OWN_REVISION,
    PROMPTS,
    diffusiondb_zip,
    encoded,
    picture,
    scores,
    sd_pairs,
    sd_tar,
)


def test_diffusiondbs_zips_become_a_set_without_what_its_scores_call_unsafe(hub, diffusiondb, published, tmp_path):
    odd = {12: (2.0, 0.01), 13: (0.1, 0.9), 14: (None, 0.01)}
    diffusiondb["metadata.parquet"] = scores(
        [(f"{number}.png", *odd.get(number, (0.1, 0.01))) for number in range(12, 36) if number != 15]
    )
    record = published("diffusiondb", limit=20)
    pairs = open_pairs(tmp_path / "set")
    assert sorted(pairs.prompts) == sorted(PROMPTS[16:36]) and pairs.clusters is None
    assert record["left_out"] == {"NSFW score too high": 2, "no NSFW score": 2}
    assert (record["licence"], record["revision"]) == ("CC0-1.0", DIFFUSIONDB_REVISION)
    asked = {request.path.split("/")[-1] for request in hub.requests if request.method == "HEAD"}
    assert asked == {"metadata.parquet", "part-000001.zip", "part-000002.zip"}  # not the other 1,998


def test_the_split_of_a_set_without_clusters_is_the_one_that_training_would_make(
    hub, diffusiondb, published, tmp_path, weights_folder, monkeypatch
):
    monkeypatch.setattr(heads, "STEPS", 20)
    published("diffusiondb", limit=24)
    own = (tmp_path / "set" / "split.json").read_bytes()
    (tmp_path / "set" / "split.json").unlink()
    train(tmp_path / "set", weights_folder, tmp_path / "encoder", device="cpu")
    assert (tmp_path / "encoder" / "split.json").read_bytes() == own


def test_of_near_prompts_the_first_is_kept_over_all_files_and_of_a_prompt_two_pictures(hub, published, tmp_path):
    prompts = ["a red fish in deep fog", "a fish, red, in deep fog", "an old castle", "a red fish in deep fog"]
    for name in ("a.tar", "b.tar"):
        pairs = [(encoded(picture(number)), prompt, number) for number, prompt in enumerate(prompts)]
        filler = [(encoded(picture(number)), PROMPTS[number], number) for number in (30, 40, 50)]
        hub.files[OWN][name] = sd_tar(tmp_path / "tars", name, pairs + filler)
    hub.broken["b.tar"] = 404  # what was kept of the first is known to a second command too
    with pytest.raises(UserError):
        published(OWN, near=0.9)
    hub.broken.clear()
    record = published(OWN, near=0.9)
    kept = Counter(open_pairs(tmp_path / "set").prompts)
    assert kept == Counter({prompts[0]: 2, prompts[2]: 2} | {PROMPTS[number]: 2 for number in (30, 40, 50)})
    assert record["left_out"] == {
        "near duplicate of another prompt": 2, "prompt with 2 pictures already": 2
    }  # fmt: skip
    assert (record["pictures"], record["prompts"], record["read"]) == (10, 5, 14)


def test_a_repository_of_ones_own_goes_by_its_newest_revision_and_the_licence_of_its_page(hub, published, sd_files):
    hub.files[OWN] = {name.split("/")[-1]: content for name, content in sd_files.items()}
    record = published(OWN)
    assert (record["revision"], record["licence"], record["pictures"]) == (OWN_REVISION, "not stated", 36)
    hub.tags[OWN] = ["license:cc-by-4.0"]
    assert published(OWN, out="other")["licence"] == "cc-by-4.0"


def test_bad_pictures_mute_ones_and_a_tar_that_is_none_are_counted_and_stop_nothing(hub, published, sd_files, tmp_path):
    pairs = sd_pairs(range(36, 48))
    pairs[3] = (pairs[3][0][:40], *pairs[3][1:])
    pairs[5] = (b"", *pairs[5][1:])
    pairs[7] = (pairs[7][0], " ", 1)
    hub.files[OWN] = {"a.tar": b"no tar" * 300, "b.tar": sd_tar(tmp_path, "b.tar", pairs), "c.txt": b"words"}
    hub.files[OWN]["d.tar"] = sd_files["co/sd-4.4M-co-000.tar"]
    record = published(OWN)
    assert record["left_out"] == {"file that is not whole": 1, "empty": 1, "picture that cannot be decoded": 2}
    assert record["pictures"] + sum(record["left_out"].values()) == record["read"] == 25


def test_a_zip_with_pictures_that_are_damaged_or_without_prompt_gives_the_others(hub, diffusiondb, published):
    pairs = [(f"{number}.png", encoded(picture(number), "PNG"), PROMPTS[number]) for number in range(12, 24)]
    pairs[2] = (pairs[2][0], b"no picture", PROMPTS[14])
    pairs[4] = (*pairs[4][:2], None)
    content = bytearray(diffusiondb_zip(1, pairs))
    place = content.index(b"19.png") + 20
    content[place : place + 40] = bytes(40)
    diffusiondb["images/part-000001.zip"] = bytes(content)
    diffusiondb["images/part-000003.zip"] = b"PK" * 50
    diffusiondb["images/part-000004.zip"] = diffusiondb["images/part-000002.zip"]
    record = published("diffusiondb", limit=33)
    assert record["left_out"] == {
        "picture without a prompt": 1, "picture that cannot be decoded": 2, "file that is not whole": 1
    }  # fmt: skip


def test_a_table_of_scores_without_its_columns_stops_before_any_picture(hub, diffusiondb, published, tmp_path):
    diffusiondb["metadata.parquet"] = diffusiondb["metadata.parquet"].replace(b"image_nsfw", b"image_safe")
    with pytest.raises(UserError, match="metadata.parquet: its columns image_name, image_nsfw, prompt_nsfw cannot be"):
        published("diffusiondb")
    assert not list((tmp_path / ".set.tmp").rglob("*.tar"))


def test_a_limit_takes_of_every_folder_and_no_more_files_than_it_needs(hub, published, tmp_path):
    record = published(limit=20)
    names = {own.path.name for own in open_pairs(tmp_path / "set").pictures}
    assert record["pictures"] == 20 and names == {"co--sd-4.4M-co-000.tar", "mp--sd-4.4M-mp-000.tar"}
    assert not hub.downloads("co-001.tar")
    assert mixed(["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"]) == ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3"]
    assert mixed(["x-co-000.tar", "x-co-001.tar", "x-mp-000.tar"])[:2] == ["x-co-000.tar", "x-mp-000.tar"]


def test_a_limit_is_filled_with_pictures_that_can_be_used(hub, published, tmp_path):
    pairs = sd_pairs(range(10))
    pairs[2] = (b"bad", *pairs[2][1:])
    hub.files[OWN] = {"a.tar": sd_tar(tmp_path, "a.tar", pairs)}
    record = published(OWN, limit=6)
    assert (record["pictures"], record["read"]) == (6, 10)
    assert record["left_out"] == {"picture that cannot be decoded": 1, "more than the limit": 3}

"""`describe --language ko` on the miniature models, whose CLIP reads English alone."""

import json
import re

import pytest

import kernel
from kernel.__main__ import main
from kernel.banks.korean.partners import BANKS, read_partners
from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.captioner import Captioner
from kernel.models.captioners.loading import languages_record
from kernel.models.clip import ClipEncoder
from kernel.models.multilingual.loading import KINDS, load_clip
from kernel.models.weights_folder import MANIFEST, open_weights, write_manifest
from tests.conftest import ROOT
from tests.models.captioners.tiny import tiny_captioner
from tests.models.multilingual.tiny import put
from tests.pipeline.test_describe import here  # noqa: F401


@pytest.mark.parametrize("mode", ["classic", "fast", "best", "negative"])
def test_terms_are_korean_and_their_similarities_those_of_the_partners(here, image_folder, weights, cpu, drawn, mode):  # noqa: F811
    records = kernel.describe(image_folder, mode, top=3, language="ko")
    partners = {**read_partners("flavors").english, **read_partners("mediums").english}
    partners |= read_partners("movements").english
    clip = ClipEncoder.load(weights, cpu)
    features = clip.encode_images([picture for picture, _ in drawn[:6]])
    for record, row in zip(records, features, strict=True):
        terms = record["prompt"].split(", ")
        assert set(terms) <= {part["term"] for part in record["parts"]} and terms
        assert all(partners[part["term"]] == part["english"] for part in record["parts"])
        english = ", ".join(str(partners[term]) for term in terms)
        assert record["similarity"] == pytest.approx(float(clip.encode_texts([english], 1)[0] @ row), abs=1e-5)
        assert (record["language"], record["ranked_by"]) == ("ko", "English partners") and "caption" not in record
        assert mode != "best" or list(record["candidates"]) == ["classic", "fast", "chain"]


def test_a_korean_caption_stands_before_the_terms_and_is_not_read_by_the_english_clip(
    here,  # noqa: F811
    image_folder,
    own_copy,
    monkeypatch,
):
    folder = own_copy("clip").folder
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["models"]["blip"]["languages"] = ["Korean"]
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    alone = kernel.describe(image_folder, "best", top=2, language="ko")
    # the miniature captioner says English; what matters is where it stands and who reads it
    monkeypatch.setattr(Captioner, "captions", lambda self, images, *others: [["붉은 성"] for _ in images])
    monkeypatch.setattr("kernel.pipeline.stages.captions.check_sight", lambda *arguments: None)
    behind = kernel.describe(image_folder, "best", top=2, language="ko", weights=folder)
    for one, other in zip(alone, behind, strict=True):
        assert other["caption"] == "붉은 성" and other["prompt"] == f"붉은 성, {one['prompt']}"
        assert other["similarity"] == one["similarity"]


@pytest.mark.parametrize("class_name", list(KINDS))
def test_a_korean_clip_reads_the_korean_phrases_itself(here, image_folder, own_copy, cpu, drawn, class_name):  # noqa: F811
    own = own_copy("clip")
    models = {**own.models, "clip_ko": put(class_name, own.folder / "clip_ko")}
    (own.folder / MANIFEST).unlink()
    write_manifest(own.folder, models, own.captioners)
    (record, *_) = kernel.describe(image_folder, "best", top=2, language="ko", weights=own.folder)
    clip = load_clip(open_weights(own.folder), cpu, "clip_ko")
    (row,) = clip.encode_images([drawn[0][0]])
    assert record["ranked_by"] == "clip_ko" and all("english" not in part for part in record["parts"])
    assert record["similarity"] == pytest.approx(float(clip.encode_texts([record["prompt"]], 1)[0] @ row), abs=1e-5)
    banks = [phrase for name in BANKS for phrase in read_partners(name).english]
    assert record["similarity"] >= (clip.encode_texts(banks, 64) @ row).max() - 1e-5
    # the folder's English CLIP still answers in English
    (english, *_) = kernel.describe(image_folder / "a.png", weights=own.folder)
    assert "language" not in english and english["caption"]


def test_the_command_prints_korean_and_says_what_is_lacking(here, image_folder, capsys):  # noqa: F811
    assert main(["describe", "images/a.png", "--language", "ko", "--top", "2"]) == 0
    captured = capsys.readouterr()
    assert any("가" <= letter <= "힣" for letter in captured.out)
    assert "holds no Korean CLIP (clip_ko)" in captured.err and "no captioner that speaks Korean" in captured.err


def test_a_ban_that_leaves_nothing_of_a_bank_leaves_the_others(here, image_folder, capsys):  # noqa: F811
    (here / "own.txt").write_text("쌍무지개\ta double rainbow\n")
    (here / "ban.txt").write_text("쌍무지개\n")
    given = ["describe", "images/a.png", "--language", "ko", "--top", "2", "--words", "own.txt", "--ban", "ban.txt"]
    assert main(given) == 0
    assert any("가" <= letter <= "힣" for letter in capsys.readouterr().out)


def test_a_captioner_that_speaks_no_korean_is_refused_before_the_first_image(here, image_folder, capsys):  # noqa: F811
    assert main(["describe", "images", "--language", "ko", "--captioner", "blip"]) == 1
    assert "captioner 'blip' speaks no Korean" in capsys.readouterr().err


def test_a_captioner_that_is_asked_in_words_is_asked_in_korean(here, image_folder, own_copy, monkeypatch):  # noqa: F811
    own = own_copy("clip")
    captioner = tiny_captioner(own.folder, "qwen3-vl").models["qwen3-vl"] | languages_record("qwen3-vl")
    (own.folder / MANIFEST).unlink()
    write_manifest(own.folder, {**own.models, "qwen3-vl": captioner}, [*own.captioners, "qwen3-vl"])
    asked, given = AskedKind.asked, []

    def told(self, processor, images, language):
        made = asked(self, processor, images, language)
        given.append(processor.decode(made["input_ids"][0]))
        return made

    monkeypatch.setattr(AskedKind, "asked", told)
    (record,) = kernel.describe(image_folder / "a.png", top=2, language="ko", weights=own.folder)
    assert record["caption"] and record["prompt"].startswith(record["caption"])
    assert "이 이미지를 한국어 한 문장으로" in given[-1] and "this image in one" not in given[-1]


@pytest.mark.parametrize("class_name", list(KINDS))
def test_the_way_of_the_page_puts_a_korean_clip_into_the_weights_folder(here, image_folder, own_copy, class_name):  # noqa: F811
    page = (ROOT / "docs" / "describe.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "clip_ko" in block)
    weights, made = own_copy("clip").folder, here / "made"
    put(class_name, made)
    code = code.replace("WEIGHTS", str(weights)).replace("Bingsu/clip-vit-large-patch14-ko", str(made))
    if class_name == "CustomTextCLIP":
        code = re.sub(r"for part in.*?\n(?=record)", "import shutil; shutil.copytree(name, folder)\n", code, flags=re.S)
        code = code.replace("local_tokenizer(folder)", "local_tokenizer(folder / 'text')")
        code = code.replace('"CLIPModel"', '"CustomTextCLIP"')
    exec(code.replace("CLIPModel", class_name) if class_name == "SiglipModel" else code, {})
    (record, *_) = kernel.describe(image_folder / "a.png", top=2, language="ko", weights=weights)
    assert record["ranked_by"] == "clip_ko" and open_weights(weights).models["clip_ko"]["class"] == class_name

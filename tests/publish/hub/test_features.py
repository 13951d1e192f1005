import json
import shutil

from kernel.banks.into_weights import encode_word_banks
from kernel.banks.word_banks import features_key, read_phrases
from kernel.models.weights_folder import open_weights


def test_every_bank_of_the_recipes_is_encoded_and_the_folder_stays_whole(tmp_path, weights_folder):
    folder = shutil.copytree(weights_folder, tmp_path / "weights")
    encode_word_banks(folder)
    weights = open_weights(folder)
    banks = [read_phrases(folder / "word_banks" / f"{name}.txt") for name in ("mediums", "movements", "flavors")]
    expected = {f"{features_key(weights.sha256('clip'), bank.phrases)}.safetensors" for bank in banks}
    assert {path.name for path in (folder / "word_banks" / "features").iterdir()} == expected
    assert weights.models == open_weights(weights_folder).models


def test_encoding_again_changes_nothing(tmp_path, weights_folder):
    folder = shutil.copytree(weights_folder, tmp_path / "weights")
    encode_word_banks(folder)
    before = json.loads((folder / "manifest.json").read_text())
    encode_word_banks(folder)
    assert json.loads((folder / "manifest.json").read_text()) == before

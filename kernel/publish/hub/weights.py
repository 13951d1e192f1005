"""`publish weights`: the real models from the hub, in half precision, as a weights folder with its manifest.

Beside the result OUT lies .OUT.tmp while the work is under way: the folder as far as it is made, and record.json
with what each file was made of, so that a killed run goes on. Downloads lie in the scratch folder, one at a time.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.estimates.constant import keep_constant_row
from kernel.models.additions import finish_additions
from kernel.models.captioners.captioner import CONFIG, without_dtype
from kernel.models.captioners.loading import SHIPPED, SHIPPED_KINDS, inspect_captioner, languages_record
from kernel.models.clip import CONFIGURATIONS as OF_CLIP
from kernel.models.clip import clip_tokenizer, clip_tokenizer_record
from kernel.models.configurations import check_configurations
from kernel.models.image_text_matching import (
    CLASS_NAME,
    FULL_PRECISION,
    MATCHING,
    MatchingConfiguration,
    complete_matching,
    inspect_matching,
    matching_tokenizer_record,
    read_matching_config,
    read_processor,
)
from kernel.models.sentences import CONFIGURATIONS as OF_SENTENCES
from kernel.models.sentences import SentenceEncoder, sentence_tokenizer, sentence_tokenizer_record
from kernel.models.shared_tower import share_tower, write_without_tower
from kernel.models.weights_folder import (
    MANIFEST,
    Manifest,
    Weights,
    loading,
    open_weights,
    read_manifest,
    write_manifest,
)
from kernel.pipeline.planning.models import keep_costs
from kernel.publish.hub.convert import convert_pickle, convert_safetensors, shard_index
from kernel.publish.hub.download import bytes_to_come, fetch
from kernel.publish.hub.items import (
    WEIGHTS_SUFFIXES,
    Item,
    Made,
    check_written,
    finished_files,
    items_of,
    note_changed,
    whole_files,
)
from kernel.publish.hub.pins import (
    SHARD,
    Repository,
    captioners_asked,
    captioners_of,
    pinned_repositories,
)
from kernel.publish.hub.taken_along import models_put_in, take_along
from kernel.publish.hub.word_lists import write_word_lists
from kernel.system.devices import Device
from kernel.system.files import device_of, file_sha256, require_space, unfinished_path, whole_file, write_json

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "clip": OF_CLIP,
    "sentences": OF_SENTENCES,
    MATCHING: {CONFIG: MatchingConfiguration},
    **{name: kind.configurations for name, kind in SHIPPED_KINDS.items()},
}
# result by download of what is no captioner, for the check of free disk: halved, or with parts that stay float32; of
# matching 0.57, and 0.15 without its tower, which lie there both until the folder is finished
RESULT_SHARE = {"clip": 0.5, "sentences": 1.0, MATCHING: 0.72}


def publish_weights(
    recipe: Recipe, out: Path, scratch: Path, pins: Path, *, asked: Sequence[str] = (), matching: bool = False
) -> Path:
    """Makes `out` the weights folder of a recipe's models, with image-text matching if asked, or finds that it is.

    Of captioners it holds those `asked` for, else those that the recipe names, else what it held before, else the two
    that are taken by default, in the order in which they stand in for one another.

    A killed or failed run goes on where it was. Raises UserError for anything about pins, hub, disk or models.
    """
    before = manifest_before(out)
    remembered = before.captioners if before and recipe.captioner == "auto" else []
    held = [name for name in remembered if name in SHIPPED_KINDS]
    captioners = captioners_asked(asked) or held or captioners_of(recipe)
    repositories = pinned_repositories(pins, ["clip", *captioners, "sentences", *([MATCHING] if matching else [])])
    finish_additions(out)
    if is_current(out, repositories, captioners):
        print(f"{out}: whole and at the pinned revisions, nothing to do", file=sys.stderr)
        return out
    if before and MATCHING in before.models and not matching:  # whoever asked for it once has it
        repositories |= pinned_repositories(pins, [MATCHING])
    try:
        make_folder(out, repositories, captioners, scratch)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror}). Free space there, or give --out or "
            "--scratch another disk, then run again: finished files are kept"
        ) from error
    print(f"{out}: made and verified", file=sys.stderr)
    return out


def make_folder(out: Path, repositories: dict[str, Repository], captioners: list[str], scratch: Path) -> None:
    unfinished = unfinished_path(out)
    folder = unfinished / "weights"
    for needed in (folder, scratch):
        needed.mkdir(parents=True, exist_ok=True)
    items = items_of(repositories, captioners)
    record = finished_files(unfinished, items)
    todo = [item for item in items if item.target not in record]
    check_disks(todo, scratch, folder)
    write_word_lists(folder)
    # configurations and tokenizers first: what is wrong with them shows before gigabytes come
    for item in todo:
        if not item.is_weights:
            make(item, folder, scratch, record)
    for name in captioners:
        if SHIPPED_KINDS[name].complete(folder / "captioners" / name):
            note_changed(items, folder, record)
    if MATCHING in repositories and complete_matching(folder / MATCHING):
        note_changed(items, folder, record)
    models = manifest_models(repositories, folder, captioners)
    for item in todo:
        if item.is_weights:
            make(item, folder, scratch, record)
    weights = Weights(folder, models, captioners)
    if MATCHING in models:
        share_matching_tower(weights, items, record)
    shards = [folder / item.target for item in items if SHARD.fullmatch(item.name)]
    for parent in {path.parent for path in shards}:
        index = shard_index([path for path in shards if path.parent == parent])
        write_json(parent / "model.safetensors.index.json", index)
    keep_constant_row(folder, lambda: SentenceEncoder.load(weights, Device("cpu")))
    keep_costs(weights)
    write_manifest(folder, models, captioners)
    check_written(folder, record)
    if before := manifest_before(out):
        take_along(out, before, folder)
    open_weights(folder)
    if out.exists():
        # out of the way in one rename: killed in the middle of its removal it would be taken for somebody else's folder
        shutil.rmtree(unfinished / "replaced", ignore_errors=True)
        out.replace(unfinished / "replaced")
    folder.replace(out)
    shutil.rmtree(unfinished)


def is_current(out: Path, repositories: dict[str, Repository], captioners: list[str]) -> bool:
    """True when `out` is whole and of the pinned revisions. Raises UserError when it holds something else entirely."""
    if not (out / MANIFEST).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists and is no weights folder, so it is not replaced. Give --out a new folder")
        return False
    try:
        found = read_manifest(out / MANIFEST)
        # a folder that also matches images and texts, or into which models were put, is none that lacks anything
        more = {*models_put_in(found), *({MATCHING} - set(repositories))}
        asked = [model for model in found.models if model not in more]
        sources = {model: (found.models[model]["source"], found.models[model]["revision"]) for model in asked}
        expected = {model: (repository.name, repository.revision) for model, repository in repositories.items()}
        if sources != expected or [name for name in found.captioners if name not in more] != captioners:
            print(f"{out}: holds other models or revisions than the pinned ones: made anew", file=sys.stderr)
            return False
        open_weights(out)
    except UserError as error:
        print(f"{error}. The folder is made anew", file=sys.stderr)
        return False
    return True


def manifest_before(out: Path) -> Manifest | None:
    """Of the folder that is replaced; None where there is none that can be read."""
    try:
        return read_manifest(out / MANIFEST) if (out / MANIFEST).is_file() else None
    except UserError:  # told before
        return None


def result_share(repository: Repository) -> float:
    """What the result takes of a download, which may be in half precision already."""
    if repository.key in RESULT_SHARE:
        return RESULT_SHARE[repository.key]
    download = sum(own.bytes for name, own in repository.files.items() if name.endswith(WEIGHTS_SUFFIXES))
    return min(1.0, SHIPPED[repository.key].gigabytes * 1e9 / max(1, download))


def check_disks(todo: list[Item], scratch: Path, folder: Path) -> None:
    """Refuses to start when the largest download, or the result, cannot fit. Both can be on one disk."""
    download = max((bytes_to_come(item.repository, item.name, scratch) for item in todo), default=0)
    result = sum(int(item.repository.files[item.name].bytes * result_share(item.repository)) for item in todo)
    one = device_of(scratch) == device_of(folder)
    needs = {folder: download + result} if one else {scratch: download, folder: result}
    for where, need in needs.items():
        what = f"{need / 1e9:.2f} GB are needed for what is still to come"
        require_space(where, need, what, "give --scratch or --out another disk")


def make(item: Item, folder: Path, scratch: Path, record: dict[str, Made]) -> None:
    """Gets one file, puts it into the folder converted, notes that and sends the download away."""
    target = folder / item.target
    if item.is_weights:
        print(f"{item.target}: from {item.repository}, {item.name}", file=sys.stderr)
    source = fetch(item.repository, item.name, scratch)
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256 = put(item, source, target)
    record[item.target] = {"origin": item.origin(), "sha256": sha256, "bytes": target.stat().st_size}
    write_json(folder.parent / "record.json", record)
    source.unlink()


def share_matching_tower(weights: Weights, items: list[Item], record: dict[str, Made]) -> None:
    """Takes the vision tower out of image-text matching where a captioner has the same. The whole files lie beside the
    folder until it is finished, for a run that goes on."""
    if not share_tower(weights, MATCHING, weights.captioners):
        return
    whose = weights.models[MATCHING]["tower_of"]
    print(f"{MATCHING}: its vision tower is {whose}'s and lies there alone", file=sys.stderr)
    for item in items:
        if item.is_weights and item.repository.key == MATCHING:
            path, whole = weights.folder / item.target, whole_files(weights.folder.parent) / item.target
            whole.parent.mkdir(parents=True, exist_ok=True)
            path.replace(whole)
            record[item.target] |= {"sha256": write_without_tower(whole, path), "bytes": path.stat().st_size}


def put(item: Item, source: Path, target: Path) -> str:
    """Writes `target`, halved where it holds weights that are run in half precision; returns its sha256."""
    model = item.repository.key
    kind, matching = SHIPPED_KINDS.get(model), model == MATCHING
    if item.name.endswith(".bin"):
        return convert_pickle(source, target)
    if item.is_weights and model != "sentences":
        kept = FULL_PRECISION if matching else kind.full_precision if kind else ()
        return convert_safetensors(source, target, kept)
    if item.name == CONFIG and matching:
        write_json(target, without_dtype(read_matching_config(source, item.repository.other_revision)))
        return file_sha256(target)
    if kind and item.name == kind.config_file:
        write_json(target, kind.stated(kind.read_config(source, item.repository.other_revision)))
        return file_sha256(target)
    with whole_file(target) as unfinished:
        shutil.copyfile(source, unfinished)
    return file_sha256(source)


def manifest_models(repositories: dict[str, Repository], folder: Path, captioners: list[str]) -> dict[str, Any]:
    """The manifest's record of each model, made with its own tokenizer; captioners are checked as a run does."""
    classes = {"clip": "CLIP", "sentences": "SentenceTransformer", MATCHING: CLASS_NAME}
    classes |= {name: kind.class_name for name, kind in SHIPPED_KINDS.items()}
    models: dict[str, Any] = {}
    weights = Weights(folder, models, captioners)
    for model, repository in repositories.items():
        try:
            folder_of_model = weights.model_folder(model)
            largest = SHIPPED_KINDS[model].largest if model in SHIPPED_KINDS else {}
            check_configurations(folder_of_model, CONFIGURATIONS[model], largest)
            with loading(folder_of_model, "open_clip" if model == "clip" else "transformers"):
                tokenizer = tokenizer_record_of(weights, model)
            models[model] = {"class": classes[model], "source": repository.name, "revision": repository.revision}
            models[model] |= {"tokenizer": tokenizer, **languages_record(model)}
            if model in captioners:
                inspect_captioner(weights, model)
            if model == MATCHING:
                inspect_matching(weights)
        except UserError as error:
            raise UserError(
                f"{repository}: its configuration is not what a run needs ({error}); no weights were "
                f"downloaded for it. {repository.other_revision}"
            ) from error
    return models


def tokenizer_record_of(weights: Weights, model: str) -> dict[str, Any]:
    folder = weights.model_folder(model)
    if model == "clip":
        return clip_tokenizer_record(clip_tokenizer(folder))
    if model == "sentences":
        return sentence_tokenizer_record(sentence_tokenizer(folder))
    if model == MATCHING:
        return matching_tokenizer_record(read_processor(folder))
    kind = SHIPPED_KINDS[model]
    return kind.tokenizer_record(kind.read_processor(folder))

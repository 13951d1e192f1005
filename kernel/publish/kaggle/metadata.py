"""dataset-metadata.json and kernel-metadata.json: whose they are, and whether the service will take them as meant.

The client ignores a key it does not know and turns the internet on when the key is missing, so every rule is
checked here, before anything is sent.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.notebook.inputs import COMPETITION
from kernel.publish.kaggle.staging import CODE_SLUG, PAIRS_SLUG
from kernel.publish.kaggle.staging import DATASET_METADATA as DATASET_FILE
from kernel.system.files import write_whole
from kernel.system.records import read_record

PLACEHOLDER = "your-kaggle-name"
PREPARE_SLUG, TRAIN_SLUG = "image-to-prompts-prepare", "image-to-prompts-train"
PREPARE_NOTEBOOK, TRAIN_NOTEBOOK = "notebooks/prepare.ipynb", "notebooks/train.ipynb"
KERNEL_FILE = "kernel-metadata.json"
INIT = "Run 'python -m kernel publish init --user NAME'"
# and how many parts with '/' between them each of their names has
SOURCES = {"dataset_sources": 2, "competition_sources": 1, "kernel_sources": 2, "model_sources": 5}
DATASET_KEYS = {"id", "title", "subtitle", "description", "licenses", "keywords", "resources"}
KERNEL_KEYS = {"id", "title", "code_file", "language", "kernel_type", "keywords", "machine_shape", *SOURCES,
               "is_private", "enable_gpu", "enable_tpu", "enable_internet",
               "docker_image", "docker_image_pinning_type"}  # fmt: skip
REQUIRED = {
    "language": "python",
    "kernel_type": "notebook",
    "is_private": True,
    "enable_gpu": True,
    "enable_tpu": False,
    "enable_internet": False,
    "machine_shape": "NvidiaTeslaT4",
}
ID = re.compile(r"[A-Za-z0-9_-]+/[a-z0-9-]+")


@dataclass(frozen=True)
class Metadata:
    """What both files say, checked. Names are `owner/slug`, as the service spells them.

    weights_from_prepare: the weights come from the prepare notebook's output instead of the weights dataset.
    trained: the train notebook's output is an input, so that its encoder is asked.
    """

    kernel: dict[str, Any]
    owner: str
    kernel_id: str
    weights_id: str
    code_id: str
    prepare_id: str
    train_id: str
    pairs_id: str
    weights_from_prepare: bool
    trained: bool


def read_metadata(project: Path) -> Metadata:
    """Reads both files and checks every rule of the service. Raises UserError for the first one that is broken."""
    dataset, kernel = (read_object(project / name) for name in (DATASET_FILE, KERNEL_FILE))
    check_names(DATASET_FILE, dataset, DATASET_KEYS, 6)
    check_names(KERNEL_FILE, kernel, KERNEL_KEYS, 5)
    if "subtitle" in dataset:
        check_length(DATASET_FILE, "subtitle", dataset["subtitle"], 20, 80)
    match dataset.get("licenses"):
        case [{"name": str(name)}] if name:
            pass
        case licenses:
            raise UserError(
                f"{DATASET_FILE}: licenses is {licenses!r}; the service takes exactly one, such as "
                '[{"name": "other"}]'
            )
    check_kernel(project, kernel)
    owner = kernel["id"].partition("/")[0]
    code, prepare, train, pairs = (f"{owner}/{slug}" for slug in (CODE_SLUG, PREPARE_SLUG, TRAIN_SLUG, PAIRS_SLUG))
    from_prepare, trained = (notebook in kernel["kernel_sources"] for notebook in (prepare, train))
    ours = [("competition_sources", COMPETITION), ("dataset_sources", code)]
    for key, name in ours if from_prepare else [*ours, ("dataset_sources", dataset["id"])]:
        if name not in kernel[key]:
            raise UserError(
                f"{KERNEL_FILE}: {key} lacks {name!r}, so the notebook would not find what it needs there. {INIT}"
            )
    return Metadata(kernel, owner, kernel["id"], dataset["id"], code, prepare, train, pairs, from_prepare, trained)


def read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: not found; run this in the project's top folder")
    return read_record(path, dict[str, Any], "a JSON object", "Mend that line, or take the file from the repository")


def check_names(name: str, content: dict[str, Any], keys: set[str], shortest: int) -> None:
    """Refuses unknown keys, and an id or a title that the service would not take."""
    unknown = sorted(set(content) - keys)
    if unknown:
        raise UserError(
            f"{name}: unknown key {unknown[0]!r}, which the client would ignore without a word. "
            f"Valid keys: {', '.join(sorted(keys))}"
        )
    identifier = content.get("id")
    if not isinstance(identifier, str) or not ID.fullmatch(identifier):
        raise UserError(
            f"{name}: id is {identifier!r}; expected owner/slug with a slug of small letters, digits and '-'. {INIT}"
        )
    if identifier.startswith(f"{PLACEHOLDER}/"):
        raise UserError(f"{name}: id {identifier!r} still has the placeholder for your account. {INIT}")
    check_length(name, "the id's slug", identifier.partition("/")[2], shortest, 50)
    check_length(name, "title", content.get("title"), shortest, 50)


def check_length(name: str, what: str, text: Any, low: int, high: int) -> None:
    if not isinstance(text, str) or not low <= len(text) <= high:
        found = f"has {len(text)} characters" if isinstance(text, str) else f"is {text!r}"
        raise UserError(f"{name}: {what} {found}; the service takes {low} to {high}. Change it")


def check_kernel(project: Path, kernel: dict[str, Any]) -> None:
    from slugify import slugify

    slug, title = kernel["id"].partition("/")[2], kernel["title"]
    if slugify(title) != slug:
        raise UserError(
            f"{KERNEL_FILE}: title {title!r} makes the slug {slugify(title)!r}, but the id has {slug!r}, so the "
            "service may save it under another name. Make them equal"
        )
    for key, expected in REQUIRED.items():
        # 0 == False and 1 == True, but the client reads numbers otherwise than true and false
        if type(kernel.get(key)) is not type(expected) or kernel[key] != expected:
            found = json.dumps(kernel[key]) if key in kernel else "missing"
            raise UserError(f"{KERNEL_FILE}: {key} is {found}; expected {json.dumps(expected)}. Change it")
    pinning = kernel.get("docker_image_pinning_type")
    if pinning not in (None, "original", "latest"):
        raise UserError(
            f"{KERNEL_FILE}: docker_image_pinning_type is {pinning!r}; the service takes 'original' and 'latest'. "
            "Change it, or take it out"
        )
    code_file = kernel.get("code_file")
    if not isinstance(code_file, str) or not (project / code_file).is_file():
        raise UserError(
            f"{KERNEL_FILE}: code_file {code_file!r} is not there; expected a notebook. Run 'make notebooks'"
        )
    try:
        json.loads((project / code_file).read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{code_file}: has no metadata.kernelspec.name, so the service cannot run it. Run 'make notebooks'"
        ) from error
    for key, parts in SOURCES.items():
        if not isinstance(kernel.get(key), list):
            raise UserError(f"{KERNEL_FILE}: {key} is {kernel.get(key)!r}; expected a list. Change it")
        for source in kernel[key]:
            if not isinstance(source, str) or source.count("/") != parts - 1 or not all(source.split("/")):
                raise UserError(f"{KERNEL_FILE}: {key} names {source!r}; expected {parts} parts with '/' between them")
            if parts == 2 and source.startswith(("datasets/", "c/", "competitions/", "code/")):
                raise UserError(f"{KERNEL_FILE}: {key} names {source!r}; expected owner/slug without a prefix")


def initialise(project: Path, user: str | None, weights_from: str = "dataset", trained: bool = False) -> str:
    """Writes the account into both files and says so in one line; without `user` asks the client's configuration.

    weights_from: "dataset", or "prepare" for weights made by the prepare notebook on the service itself. trained: with
    the encoder of the train notebook.
    """
    if user is None:
        from kernel.publish.kaggle.client import configured_user

        user = configured_user()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", user) or user == PLACEHOLDER:
        raise UserError(f"--user {user!r}: expected your account's name as it stands in your profile's address")
    dataset, kernel = read_object(project / DATASET_FILE), read_object(project / KERNEL_FILE)
    old = str(kernel.get("id")).partition("/")[0]
    for name, content in ((DATASET_FILE, dataset), (KERNEL_FILE, kernel)):
        slug = str(content.get("id")).partition("/")[2]
        if not slug:
            found = f"{name}: id is {content.get('id')!r}; expected owner/slug"
            raise UserError(f"{found}. Take the file from the repository")
        content["id"] = f"{user}/{slug}"
    prepare, train, code = (f"{user}/{slug}" for slug in (PREPARE_SLUG, TRAIN_SLUG, CODE_SLUG))
    # sources of other people stay, ours are written anew
    for key in ("dataset_sources", "kernel_sources"):
        moved = [re.sub(rf"^{re.escape(old)}/", f"{user}/", source) for source in kernel.get(key, [])]
        kernel[key] = [source for source in moved if source not in (dataset["id"], code, prepare, train)]
    if weights_from == "prepare":
        kernel["dataset_sources"][:0] = [code]
        kernel["kernel_sources"][:0] = [prepare]
    else:
        kernel["dataset_sources"][:0] = [dataset["id"], code]
    kernel["kernel_sources"] += [train] if trained else []
    write_object(project / DATASET_FILE, dataset)
    write_object(project / KERNEL_FILE, kernel)
    encoder = ", with the train notebook's encoder" if trained else ""
    return f"{DATASET_FILE} and {KERNEL_FILE}: account {user}, weights from the {weights_from}{encoder}"


def write_object(path: Path, content: dict[str, Any]) -> None:
    """One key a line, as people edit it."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def stage_prepare(project: Path, metadata: Metadata, out: Path) -> dict[str, Any]:
    """As stage_kernel, for the prepare notebook: the internet on, the code dataset as its only input."""
    changes = {"enable_internet": True, "dataset_sources": [metadata.code_id]}
    return stage_other(project / PREPARE_NOTEBOOK, metadata, metadata.prepare_id, changes, out)


def stage_train(project: Path, metadata: Metadata, out: Path, goes_on: bool = False) -> dict[str, Any]:
    """As stage_kernel, for the train notebook: the main one's inputs but the competition, the pairs, and with `goes_on`
    its own last output."""
    main = metadata.kernel
    notebooks = [source for source in main["kernel_sources"] if source != metadata.train_id]
    datasets = [source for source in main["dataset_sources"] if source != metadata.pairs_id]
    changes = {
        "dataset_sources": [*datasets, metadata.pairs_id],
        "kernel_sources": [*notebooks, *([metadata.train_id] if goes_on else [])],
        "model_sources": main["model_sources"],
    }
    return stage_other(project / TRAIN_NOTEBOOK, metadata, metadata.train_id, changes, out)


def stage_other(notebook: Path, metadata: Metadata, name: str, changes: dict[str, Any], out: Path) -> dict[str, Any]:
    """One of the notebooks beside the main one, of the same machine, without any source but those in `changes`."""
    if not notebook.is_file():
        raise UserError(f"{notebook}: not found; expected the built notebook. Run 'make notebooks'")
    slug = name.partition("/")[2]
    kernel = {
        **{key: value for key, value in metadata.kernel.items() if key in REQUIRED},
        "id": name,
        "title": slug.replace("-", " ").capitalize(),  # which makes the slug again
        **dict.fromkeys(SOURCES, []),
        **changes,
    }
    return stage_kernel(kernel, notebook, out)


def stage_kernel(kernel: dict[str, Any], notebook: Path, out: Path) -> dict[str, Any]:
    """Fills `out` with one notebook and its metadata, ready for a push, and returns the metadata."""
    kernel = kernel | {"code_file": notebook.name}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(notebook, out)
    write_object(out / KERNEL_FILE, kernel)
    return kernel

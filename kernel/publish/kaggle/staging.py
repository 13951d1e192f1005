"""What goes up, staged in a folder of its own and looked through before anything is sent.

Three datasets: gigabytes of weights that seldom change, the code, which changes with every line, and pairs to train on.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kernel import __version__
from kernel.errors import UserError
from kernel.models.weights_folder import BANK_FOLDER, MANIFEST, open_weights, read_manifest
from kernel.notebook.inputs import MARKER, PAIRS_SUFFIX, flat_name
from kernel.system.files import file_sha256, write_json

DATASET_METADATA = "dataset-metadata.json"
CODE_SLUG, PAIRS_SLUG = "image-to-prompts-code", "image-to-prompts-pairs"
TOP_LEVEL_LIMIT = 50  # Kaggle's, for the top-level files of one dataset
# Not needed there: the miniature world, the page that no browser reaches, what Python leaves beside its sources.
LEFT_OUT = {"miniature", "server", "__pycache__"}
# What Kaggle changes on upload, as people report it: these characters are stripped, archives are unpacked.
STRIPPED = re.compile(r"[+~]|[^\x20-\x7e]")
UNPACKED = (".gz", ".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz")
SECRET_NAMES = {"kaggle.json", "access_token", ".env", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "credentials.json"}
SECRET_SUFFIXES = {".pem", ".key", ".p12", ".pfx"}
SECRETS = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a Kaggle token": re.compile(rb"KGAT_[0-9a-zA-Z]{20,}"),
    "a Kaggle key": re.compile(rb'"key"\s*:\s*"[0-9a-f]{32}"'),
    "a Hugging Face token": re.compile(rb"\bhf_[0-9A-Za-z]{30,}"),
    "a GitHub token": re.compile(rb"\b(gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{50,})"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
}
# binary, and named by sha256 in what is sent: a manifest, a requirements file, or the sum of all
NOT_SEARCHED = {".safetensors", ".parquet", ".whl", PAIRS_SUFFIX}


@dataclass(frozen=True)
class Staged:
    """A folder ready for upload: sha256 names what is in it, entries are its top-level names with their bytes."""

    folder: Path
    sha256: str
    entries: list[tuple[str, int]]


def stage_dataset(project: Path, weights: Path, wheels: Path, out: Path) -> Staged:
    """Fills `out` with weights (checked whole), wheels and metadata; large files are links, not copies."""
    open_weights(weights)
    manifest = read_manifest(weights / MANIFEST)
    if not (weights / BANK_FOLDER).is_dir():
        print(
            f"{weights}: holds no {BANK_FOLDER}, which recipe text asks. Make one with 'python -m kernel bank', put it "
            "there with 'publish weights --bank BANK', or write session.run(\"baseline\") into "
            "notebooks/image_to_prompts.py",
            file=sys.stderr,
        )
    shutil.rmtree(out, ignore_errors=True)
    for entry in manifest.files:
        put(weights / entry.path, out / flat_name(entry.path))
    put(weights / MANIFEST, out / MANIFEST)
    shipped = sorted(wheels.glob("*.whl"))
    if not shipped:
        raise UserError(f"{wheels}: holds no wheels; without open_clip the notebook cannot start. Run 'make wheels'")
    for path in [*shipped, wheels / "requirements.txt"]:
        put(path, out / "wheels" / path.name)
    shutil.copy(project / DATASET_METADATA, out / DATASET_METADATA)
    content = [f"{path.name} {file_sha256(path)}" for path in [*shipped, weights / MANIFEST]]
    return staged(out, hashlib.sha256("\n".join(content).encode()).hexdigest())


def stage_code(project: Path, out: Path, owner: str) -> Staged:
    """Fills `out` with the package, the lists that the prepare notebook needs, the marker and metadata."""
    shutil.rmtree(out, ignore_errors=True)
    sources = [
        path
        for path in sorted((project / "kernel").rglob("*"))
        if path.is_file() and not LEFT_OUT & set(path.relative_to(project).parts)
    ]
    sources += sorted((project / "wheels").glob("*.txt"))
    content = []
    for path in sources:
        name = path.relative_to(project).as_posix()
        put(path, out / name)
        content.append(f"{name} {file_sha256(path)}")
    sha256 = hashlib.sha256("\n".join(content).encode()).hexdigest()
    marker = {"format": 1, "kind": "code", "version": __version__, "sha256": sha256, "commit": commit_of(project)}
    write_json(out / MARKER, marker)
    metadata = {
        "id": f"{owner}/{CODE_SLUG}",
        "title": "image-to-prompts code",
        "subtitle": "The package of the image-to-prompts notebook",
        "licenses": [{"name": "apache-2.0"}],
    }
    write_json(out / DATASET_METADATA, metadata)
    return staged(out, sha256)


def stage_pairs(pairs: Path, out: Path, owner: str) -> Staged:
    """Fills `out` with a pair set of tars, each a link under a suffix that Kaggle leaves alone, and metadata."""
    tars = sorted(pairs.glob("*.tar"))
    if not tars:
        raise UserError(
            f"{pairs}: holds no tar; expected a pair set as 'python -m kernel publish pairs' writes it. Give its folder"
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for tar in tars:
        put(tar, out / f"{tar.stem}{PAIRS_SUFFIX}")
    for path in pairs.glob("*.json"):  # what is told of the set
        put(path, out / path.name)
    content = [f"{path.name} {file_sha256(path)}" for path in sorted(out.iterdir())]
    metadata = {
        "id": f"{owner}/{PAIRS_SLUG}",
        "title": "image-to-prompts pairs",
        "subtitle": "Pictures and their prompts, to train an image encoder on",
        "licenses": [{"name": "other"}],
    }
    write_json(out / DATASET_METADATA, metadata)
    return staged(out, hashlib.sha256("\n".join(content).encode()).hexdigest())


def commit_of(project: Path) -> str | None:
    """The commit checked out, with "+" behind it when files differ from it; None outside a repository."""
    git = ["git", "-C", str(project)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix in NOT_SEARCHED:
        target.symlink_to(source.resolve())
    else:
        shutil.copy2(source, target)  # its time too: an interrupted upload goes on only with the same file


def staged(folder: Path, sha256: str) -> Staged:
    """Looks the folder through. Raises UserError for what Kaggle would refuse or mangle, and for secrets."""
    entries = []
    for top in sorted(folder.iterdir()):
        files = [path for path in sorted(top.rglob("*")) if path.is_file()] if top.is_dir() else [top]
        entries.append((top.name, sum(path.stat().st_size for path in files)))
        for path in files:
            check_file(folder, path)
    if len(entries) > TOP_LEVEL_LIMIT:
        raise UserError(
            f"{folder}: {len(entries)} top-level files and folders; Kaggle takes {TOP_LEVEL_LIMIT}. Use larger shards"
        )
    return Staged(folder, sha256, entries)


def check_file(folder: Path, path: Path) -> None:
    name = path.relative_to(folder).as_posix()
    found = STRIPPED.search(name)
    if found:
        raise UserError(
            f"{folder}: the name {name!r} holds {found.group()!r}, which Kaggle strips, so the file would arrive under "
            "another name. Rename it with plain letters, digits, '.', '-' and '_'"
        )
    if name.lower().endswith(UNPACKED):
        raise UserError(
            f"{folder}: {name!r} is an archive, which Kaggle unpacks even inside zips, so the file would not arrive. "
            "Put its contents there instead"
        )
    what = "a file of that name" if path.name in SECRET_NAMES or path.suffix in SECRET_SUFFIXES else None
    if what is None and path.suffix not in NOT_SEARCHED:
        data = path.read_bytes()
        what = next((kind for kind, pattern in SECRETS.items() if pattern.search(data)), None)
    if what:
        raise UserError(
            f"{folder}: {name!r} looks like a secret ({what}). Nothing was sent. Move it out of the project; if it "
            "was ever sent, make a new one and delete the old"
        )

"""`python -m kernel doctor`: what a run needs, found or not, one line each, with what to do where it is not.

Every check imports what it needs when it is made, so that it answers on a machine where nothing is installed too.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kernel.commands.options import add_command, json_option, weights_option
from kernel.errors import UserError, kind_and_line, shown
from kernel.system.terminal.output import json_text

OK, MISSING, WRONG = "ok", "missing", "wrong"
COMPETITION_IMAGES = 16_000  # about as many as Kaggle scores in secret
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GB = 10**9


@dataclass(frozen=True)
class Finding:
    """What was looked at, its state, the words; `needed` where no run can start before it is ok."""

    name: str
    state: str
    said: str
    needed: bool = True


def add_doctor(commands: argparse._SubParsersAction) -> None:
    doctor = add_command(commands, doctor_command, "what a run needs, found or not: versions, device, weights, disk")
    weights_option(doctor)
    doctor.add_argument("--deep", action="store_true", help="reads every weights file whole and compares its sha256")
    json_option(doctor)


def doctor_command(options: argparse.Namespace) -> int:
    """Exit code 0 when a run could start, 1 otherwise."""
    findings = examine(options.weights, options.deep)
    ready = can_start(findings)
    if options.json:
        print(json_text({"ready": ready, "findings": [asdict(own) for own in findings]}))
    else:
        for own in findings:
            print(f"{own.state:<8} {own.name}: {own.said}")
        print("a run can start" if ready else "no run can start before what is missing or wrong above is mended")
    return 0 if ready else 1


def can_start(findings: list[Finding]) -> bool:
    return all(own.state == OK for own in findings if own.needed)


def examine(weights: Path, deep: bool = False) -> list[Finding]:
    """Every finding, in the order of the lines. Never raises for what is found: that is a finding too."""
    checks: list[tuple[str, bool, Callable[[], Iterator[Finding]]]] = [
        ("versions", True, find_versions),
        ("device", True, find_all_devices),
        ("weights", True, lambda: find_weights(weights, deep)),
        ("disk", True, lambda: find_disk(Path.cwd())),
        ("Kaggle credentials", False, find_credentials),
        ("Chromium", False, find_browser),
    ]
    return [own for name, needed, check in checks for own in checked(name, needed, check)]


def checked(name: str, needed: bool, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds, and where it ends early, why."""
    found: list[Finding] = []
    try:
        for own in check():
            found.append(own)
    except Exception as error:  # a library that is there in halves raises whatever it likes when it is imported
        unknown = f"cannot be looked at ({kind_and_line(error)}). Run 'make setup'"
        said = str(error) if isinstance(error, UserError) else unknown
        found.append(Finding(name, WRONG, said, needed))
    return found


def find_versions() -> Iterator[Finding]:
    from kernel.system.versions import DECLARED, installed, within_range

    found = {name: installed(name) for name in DECLARED}
    for name, version in sorted(found.items(), key=lambda own: own[1] is not None):  # first what is not there
        fits = version and within_range(version, DECLARED[name])
        if version is None:
            yield Finding(name, MISSING, f"not installed, expected {DECLARED[name]}. Run 'make setup'")
        elif fits is None:
            yield Finding(name, WRONG, f"its version {version!r} cannot be compared with {DECLARED[name]}", False)
        else:
            cure = "" if fits else ". Run 'make setup'"
            yield Finding(name, OK if fits else WRONG, f"{version}, expected {DECLARED[name]}{cure}")


def find_all_devices() -> Iterator[Finding]:
    """The devices that `--device auto` would use, each after a first operation on it."""
    from kernel.system.devices import find_devices, operate

    for device in find_devices():
        if not device.is_gpu:
            operate(device.name)  # find_devices has tried GPUs, in a process of their own
        kind = "half precision" if device.is_gpu else "float32, as there is no GPU that torch can use"
        memory = f"{(device.memory or 0) / GB:.1f} GB"
        yield Finding("device", OK, f"{device.name} ({device.title}), {memory}, {kind}; a first operation went well")


def find_weights(folder: Path, deep: bool) -> Iterator[Finding]:
    """The folder, each of its models and encoders, and what would run with them."""
    from kernel.models.weights_folder import ADVICE, MANIFEST, open_weights

    try:
        weights = open_weights(folder, hashes=deep)
    except UserError as error:
        yield Finding("weights", WRONG if (folder / MANIFEST).is_file() else MISSING, str(error))
        return
    how = "every sha256 is the manifest's" if deep else "sizes are the manifest's; --deep compares every sha256 too"
    yield Finding("weights", OK, f"{folder}, {size_of(folder)}; {how}")
    for name, model in weights.models.items():
        yield Finding(f"weights, {name}", OK, f"{model['source']}, {size_of(weights.model_folder(name))}")
    for name in weights.encoders:
        yield from checked(f"weights, encoders/{name}", True, partial(find_encoder, weights, name))
    lacking = [name for name in ("clip", "sentences") if name not in weights.models]
    lacking += [] if weights.captioners else ["a captioner"]
    for name in lacking:
        yield Finding(f"weights, {name}", MISSING, f"{folder / MANIFEST} lists none. {ADVICE}")
    if not lacking:
        yield from checked("recipe", True, lambda: find_recipe(weights))


def size_of(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / GB:.3f} GB"


EYES = {"clip": "CLIP's features", "blip2": "BLIP-2's eyes", "open_clip": "CLIP's tower, trained"}


def find_encoder(weights: Any, name: str) -> Iterator[Finding]:
    """An encoder that was trained for these models, and how good it was."""
    from kernel.models.encoders.record import check_models, read_encoder_record

    folder = weights.encoder_folder(name)
    record = read_encoder_record(folder)
    check_models(folder, record, weights.models)
    towers = " and ".join(shown(tower.architecture or EYES[tower.kind]) for tower in record.towers)
    said = f"{towers}, mean cosine {record.held_out.mean:.4f} on pictures held out, {size_of(folder)}"
    yield Finding(f"weights, encoders/{name}", OK, said)


def find_recipe(weights: Any) -> Iterator[Finding]:
    """The strongest recipe whose parts the weights folder has."""
    from kernel.banks.prompt_bank import RECORD, opened_bank
    from kernel.banks.word_banks import word_lists
    from kernel.config import RECIPES
    from kernel.models.captioners.loading import captioners_named

    folder = weights.folder / "prompt_bank"
    recipe = RECIPES["text" if (folder / RECORD).is_file() else "baseline"]
    bank = opened_bank(recipe, None, weights)
    captioner = captioners_named(recipe, weights)[0]
    words = ", ".join(own.name for own in word_lists(recipe, weights))
    if bank:
        why = f"{folder} holds a prompt bank of {len(bank.features):,} prompts"
    else:
        why = f"there is no prompt bank in {folder}; 'python -m kernel bank' makes one, which recipe text needs"
    yield Finding("recipe", OK, f"{recipe.name}, with captions by {captioner} and the word lists {words}, as {why}")


def find_disk(folder: Path) -> Iterator[Finding]:
    """Whether a run whose --out is here could be written."""
    from kernel.pipeline.preflight import check_disk, check_writable

    check_writable(folder)
    check_disk(folder, COMPETITION_IMAGES, phrases=0)
    free = shutil.disk_usage(folder).free / GB
    yield Finding("disk", OK, f"{folder}, {free:.1f} GB free, enough for a run over {COMPETITION_IMAGES:,} images")


def find_credentials() -> Iterator[Finding]:
    from kernel.publish.kaggle.client import NEW_TOKEN, credentials_at

    place = credentials_at()
    if place:
        said = f"in {place}; whether they are valid only the service can tell"
    else:
        said = f"none found; only 'publish push', 'submit' and 'dataset' ask for them. {NEW_TOKEN}"
    yield Finding("Kaggle credentials", OK if place else MISSING, said, needed=False)


def find_browser() -> Iterator[Finding]:
    place = browser()
    said = place or "not found; only tests of the report's page need it, others go without. Run 'make browser'"
    yield Finding("Chromium", OK if place else MISSING, said, needed=False)


def browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)

"""The whole way on this machine, before a GPU hour is spent: stage, upload, mount, execute, check.

The datasets are built from the miniature weights and drawn pairs, unpacked as Kaggle would and mounted read-only in
both layouts; the built notebooks are executed on the versions of Kaggle's image, without network, under Kaggle's
variables. It proves the way, not the service: nothing of Kaggle's own is contacted or timed.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.evaluation.evaluate import read_prompts
from kernel.miniature.world.folders import REHEARSAL_SEED, draw_folder, write_prompts
from kernel.notebook.inputs import COMPETITION
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission
from kernel.publish.kaggle.metadata import TRAIN_SLUG
from kernel.publish.kaggle.notebooks import check_built
from kernel.publish.kaggle.staging import CODE_SLUG, DATASET_METADATA, stage_code, stage_dataset
from kernel.publish.rehearsal.execution import OWNER, Killed, Way, executed, told
from kernel.publish.rehearsal.image_python import image_python, installed_versions
from kernel.publish.rehearsal.mounts import LAYOUTS, Mounts, upload_and_unpack
from kernel.publish.rehearsal.sandbox import Sandbox
from kernel.publish.rehearsal.training import rehearse_training
from kernel.system.files import write_json
from kernel.system.kaggle_image import read_image

VISIBLE_IMAGES = 7
FEW_IMAGES = 64
BLOCK = 250  # pictures drawn from one seed, so that blocks can be drawn side by side
SHOWN_VERSIONS = (
    "torch torchvision transformers sentence-transformers open_clip_torch huggingface_hub safetensors pandas numpy "
    "pillow scikit-learn timm datasets torchdata peft torchao"
).split()


@dataclass(frozen=True)
class Variant:
    """One way in which Kaggle executes the main notebook.

    `images` None stands for the full number of the scoring rerun, in the new layout; the old one differs from it only
    in its paths, and gets few. `trained`: with the output of the train notebook attached, and recipe pairs.
    """

    images: int | None
    run_type: str = "Batch"
    rerun: bool = True
    prompts: str | None = None  # "true", "other" (of other images), or no prompts.csv
    killed: bool = False
    trained: bool = False


VARIANTS = {
    "interactive": Variant(VISIBLE_IMAGES, "Interactive", rerun=False, prompts="true"),
    "visible": Variant(VISIBLE_IMAGES, rerun=False, prompts="true"),
    "trained": Variant(VISIBLE_IMAGES, rerun=False, prompts="true", trained=True),
    "rerun-without-prompts": Variant(FEW_IMAGES),
    "rerun-with-other-prompts": Variant(FEW_IMAGES, prompts="other"),
    "rerun-killed": Variant(FEW_IMAGES, killed=True),
    "rerun": Variant(None, prompts="true"),
}


def rehearse(
    project: Path,
    weights: Path,
    out: Path,
    images: int,
    variants: list[str] | None = None,
    layouts: list[str] | None = None,
    this_python: bool = False,
) -> int:
    """Executes every variant in every layout, prints a line for each, writes OUT/rehearsal.json; 0 when all passed.

    Before a variant that asks a trained encoder the train notebook trains one. A stage that fails stops it with a
    UserError; a variant that fails is told and the others go on.
    """
    names, layouts = chosen("variant", variants, VARIANTS), chosen("layout", layouts, LAYOUTS)
    started = time.time()
    out.mkdir(parents=True, exist_ok=True)
    with step("notebooks equal their sources"):
        check_built(project)
    with step("both datasets staged, uploaded and unpacked as Kaggle does"):
        mounts = published(project, weights, out)
    with step("Python of the rehearsal"):
        python = Path(sys.executable) if this_python else image_python(project, out / "python").absolute()
        found = installed_versions(python)
    versions = {name: found[name] for name in SHOWN_VERSIONS if name in found}
    print(f"  Python {found['python']}, " + ", ".join(f"{name} {own}" for name, own in versions.items()))
    results: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    for layout in layouts:
        for name in names:
            variant, own = VARIANTS[name], mounts
            if variant.trained:
                sessions, output = rehearse_training(project, out, python, layout, mounts)
                training += sessions
                own = {**mounts, ("notebook", TRAIN_SLUG): output}
            count = variant.images or (images if layout == "new" else min(images, FEW_IMAGES))
            pictures = draw_images(out / "pictures" / str(count), count)
            results.append(rehearsed(project, out, python, name, layout, pictures, own))
    network = Sandbox(out / "sandbox", out).network
    every = [*training, *results]
    passed = all(result["problem"] is None for result in every)
    content = {"variants": results, "training": training, "versions": versions, "python": found["python"]}
    content["network"] = network
    write_json(out / "rehearsal.json", content)
    peak = max(result["peak_bytes"] for result in every)
    print(
        f"{'rehearsed' if passed else 'FAILED'}: {len(every)} executions in {time.time() - started:.0f} s, "
        f"largest process {peak / 2**20:.0f} MiB, network: {network}; {out / 'rehearsal.json'}"
    )
    return 0 if passed else 1


def chosen(what: str, asked: list[str] | None, valid: dict) -> list[str]:
    unknown = [name for name in asked or [] if name not in valid]
    if unknown:
        raise UserError(f"unknown {what} {unknown[0]!r}. Valid: {', '.join(valid)}")
    return [name for name in valid if asked is None or name in asked]


@contextmanager
def step(what: str) -> Iterator[None]:
    """Prints one line for what its block does, with the seconds it took."""
    start, verdict = time.perf_counter(), "FAILED"
    try:
        yield
        verdict = "ok"
    finally:
        print(f"{what:<60} {verdict:>6} {time.perf_counter() - start:7.1f} s", flush=True)


def published(project: Path, weights: Path, out: Path) -> Mounts:
    """Both datasets as they arrive: {(kind, slug): unpacked folder}."""
    dataset = stage_dataset(project, weights, project / "wheels", out / "dataset")
    code = stage_code(project, out / "code", OWNER)
    slug = json.loads((project / DATASET_METADATA).read_text(encoding="utf-8"))["id"].partition("/")[2]
    result = {}
    for name, staged in ((slug, dataset), (CODE_SLUG, code)):
        result["dataset", name] = out / "unpacked" / name
        upload_and_unpack(staged.folder, result["dataset", name])
    return result


def draw_images(folder: Path, count: int) -> Path:
    """`folder/images` with `count` miniature pictures, ids as the competition's; prompts beside it, in `folder`.csv."""
    blocks = [(folder / "images", start, min(BLOCK, count - start)) for start in range(0, count, BLOCK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = [prompt for prompts in pool.map(draw_block, blocks) for prompt in prompts.items()]
    write_prompts(folder.with_suffix(".csv"), dict(drawn))
    return folder


def draw_block(block: tuple[Path, int, int]) -> dict[str, str]:
    folder, start, count = block
    names = [f"{index * 7919:09x}" for index in range(start, start + count)]
    return draw_folder(folder, REHEARSAL_SEED + start, count, names.__getitem__)


def put_prompts(folder: Path, which: str | None) -> None:
    """prompts.csv: the "true" ones, those of "other" images, or none."""
    path = folder / "prompts.csv"
    path.unlink(missing_ok=True)
    prompts = read_prompts(folder.with_suffix(".csv"))
    if which == "other":
        prompts = {f"f{image_id[1:]}": prompt for image_id, prompt in list(prompts.items())[:7]}
    if which:
        write_prompts(path, prompts)


def rehearsed(
    project: Path, out: Path, python: Path, name: str, layout: str, pictures: Path, mounts: Mounts
) -> dict[str, Any]:
    """One execution of the main notebook in one layout, checked."""
    variant = VARIANTS[name]
    put_prompts(pictures, variant.prompts)
    notebook = (project / "notebooks" / "image_to_prompts.ipynb").read_text(encoding="utf-8")
    if variant.trained:  # what a user writes there
        notebook = re.sub(r"^( *\"session\.run\()[^)]*\)", r'\1\\"pairs\\")', notebook, flags=re.MULTILINE)
    folders = {**mounts, ("competition", COMPETITION): pictures}
    image = read_image(project / "wheels" / "kaggle-image.txt").digest
    working = out / "working"
    killed = Killed(working, "run/clip/*.safetensors", "-m kernel run ", str((out / "input").resolve()))
    way = Way(variant.run_type, variant.rerun, killed if variant.killed else None)
    found = executed(notebook, out, python, image, layout, folders, way)
    images = [image.id for image in list_images(pictures / "images")]
    problem = found.problem or expected_run(working, variant)
    invalid = None
    try:
        check_submission(working / "submission.csv", images)
    except UserError as error:
        invalid = str(error)
    result = told(f"{name} of {len(images):,} images", name, layout, out, found, problem or invalid)
    return result | {"images": len(images), "submission_ok": invalid is None}


def expected_run(working: Path, variant: Variant) -> str | None:
    """None when the run ended as the variant expects: whole, or killed and therefore without a record of its end."""
    content = read_run(working / "run")
    whole = content is not None and "counts" in content
    if variant.killed:
        return "the run was not killed in its middle" if whole else None
    if content is None or not whole:
        return "the run did not come to its end"
    if variant.trained and content["recipe"]["name"] != "pairs":
        return "recipe pairs was not run"
    shown = (working / "run" / "report.html").is_file()
    if shown == variant.rerun:
        return "a scoring rerun made a report" if shown else "no report was made"
    return None

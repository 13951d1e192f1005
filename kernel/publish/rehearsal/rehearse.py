"""The whole way on this machine, before a GPU hour is spent: stage, upload, mount, execute, check.

Both datasets are built from the miniature weights, unpacked as Kaggle would and mounted read-only in both layouts; the
built notebook is executed on the versions of Kaggle's image, without network, under Kaggle's environment variables.
It proves the way, not the service: nothing of Kaggle's own is contacted or timed.
"""

import json
import os
import shutil
import signal
import subprocess
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
from kernel.notebook.session import RERUN, RUN_TYPE
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission
from kernel.publish.kaggle.notebooks import check_built
from kernel.publish.kaggle.staging import CODE_SLUG, DATASET_METADATA, stage_code, stage_dataset
from kernel.publish.rehearsal.image_python import image_python, installed_versions
from kernel.publish.rehearsal.mounts import LAYOUTS, mount, snapshot, upload_and_unpack
from kernel.publish.rehearsal.sandbox import Sandbox
from kernel.system.files import write_json
from kernel.system.kaggle_image import read_image

OWNER = "rehearsal"
NOTEBOOK = "__notebook__.ipynb"
VISIBLE_IMAGES = 7
FEW_IMAGES = 64
BLOCK = 250  # pictures drawn from one seed, so that blocks can be drawn side by side
INPUT = "IMAGE_TO_PROMPTS_INPUT"
SHOWN_VERSIONS = (
    "torch torchvision transformers sentence-transformers open_clip_torch huggingface_hub safetensors pandas numpy "
    "pillow scikit-learn"
).split()


@dataclass(frozen=True)
class Variant:
    """One way in which Kaggle executes the notebook.

    `images` None stands for the full number of the scoring rerun, in the new layout; the old one differs from it only
    in its paths, and gets few.
    """

    images: int | None
    run_type: str = "Batch"
    rerun: bool = True
    prompts: str | None = None  # "true", "other" (of other images), or no prompts.csv
    killed: bool = False


VARIANTS = {
    "interactive": Variant(VISIBLE_IMAGES, "Interactive", rerun=False, prompts="true"),
    "visible": Variant(VISIBLE_IMAGES, rerun=False, prompts="true"),
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

    A stage that fails stops it with a UserError; a variant that fails is told and the others go on.
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
    results = []
    for layout in layouts:
        for name in names:
            count = VARIANTS[name].images or (images if layout == "new" else min(images, FEW_IMAGES))
            pictures = draw_images(out / "pictures" / str(count), count)
            results.append(executed(project, out, python, name, layout, pictures, mounts))
    network = Sandbox(out / "sandbox", out).network
    passed = all(result["submission_ok"] and result["problem"] is None for result in results)
    content = {"variants": results, "versions": versions, "python": found["python"], "network": network}
    write_json(out / "rehearsal.json", content)
    peak = max(result["peak_bytes"] for result in results)
    print(
        f"{'rehearsed' if passed else 'FAILED'}: {len(results)} executions in {time.time() - started:.0f} s, "
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


def published(project: Path, weights: Path, out: Path) -> dict[tuple[str, str], Path]:
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


def executed(
    project: Path, out: Path, python: Path, name: str, layout: str, pictures: Path, mounts: dict[tuple[str, str], Path]
) -> dict[str, Any]:
    """One execution of the notebook in one layout, checked."""
    variant = VARIANTS[name]
    root, working = out / "input", out / "working"
    for folder in (root, working):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    put_prompts(pictures, variant.prompts)
    folders = {**mounts, ("competition", COMPETITION): pictures}
    mount(layout, root, OWNER, folders)
    shutil.copy(project / "notebooks" / "image_to_prompts.ipynb", working / NOTEBOOK)
    try:
        before = snapshot(root)
        sandbox = Sandbox(out / "sandbox", root)
        start = time.perf_counter()
        image = read_image(project / "wheels" / "kaggle-image.txt")
        said, code, peak = execute(python, working, root, image.digest, sandbox, variant)
        seconds = time.perf_counter() - start
        images = [image.id for image in list_images(folders["competition", COMPETITION] / "images")]
        problem: str | None
        if code:
            last = next(filter(None, map(str.strip, reversed(said.splitlines()))), "it said nothing")
            problem = f"the notebook ended with exit code {code}: {last}"
        elif snapshot(root) != before:
            problem = "something was written into the mounted folders"
        elif sandbox.attempted():
            problem = f"the network was tried: {sandbox.attempted()[0]}"
        else:
            problem = expected_run(working, variant)
        invalid = None
        try:
            check_submission(working / "submission.csv", images)
        except UserError as error:
            invalid = str(error)
    finally:
        for key, folder in folders.items():
            folder.rename(mounts.get(key, pictures))
    problem = problem or invalid
    print(f"  {name} of {len(images):,} images, {layout} layout".ljust(60), end="")
    print(f" {'FAILED' if problem else 'ok':>6} {seconds:7.1f} s  {peak / 2**20:6.0f} MiB", flush=True)
    if problem:
        log = out / f"{name}-{layout}.log"
        log.write_text(said, encoding="utf-8")
        print(f"    {problem}; everything it said: {log}", flush=True)
    return {
        "name": name,
        "layout": layout,
        "images": len(images),
        "submission_ok": invalid is None,
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "problem": problem,
    }


def execute(
    python: Path, working: Path, root: Path, image: str, sandbox: Sandbox, variant: Variant
) -> tuple[str, int, int]:
    """Executes the notebook in `working`; what it said, its exit code and the bytes of its largest process."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("KAGGLE", "HF_", "PYTHON"))}
    environment = {
        **own,
        **sandbox.environment(),
        **({RERUN: "1"} if variant.rerun else {}),
        RUN_TYPE: variant.run_type,
        "KAGGLE_DOCKER_IMAGE": image,
        INPUT: str(root.resolve()),
        "PYTHONNOUSERSITE": "1",
        "IPYTHONDIR": str(sandbox.hook.resolve() / "ipython"),
        "JUPYTER_CONFIG_DIR": str(sandbox.hook.resolve() / "jupyter"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [str(python), "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", NOTEBOOK]
    command += ["--ExecutePreprocessor.timeout=-1"]
    log = working.parent / "execution.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            sandbox.command(command), cwd=working, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        if variant.killed:
            kill_the_run(process.pid, working)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return log.read_text(errors="replace"), process.returncode, usage.ru_maxrss * unit


def kill_the_run(notebook: int, working: Path) -> None:
    """Waits until the run's first shard stands, then kills its process, as the kernel does when memory runs out."""
    while not any((working / "run" / "clip").glob("*.safetensors")):
        if os.waitid(os.P_PID, notebook, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.02)
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, _, command = line.strip().partition(" ")
        ours = "-m kernel run " in command and str(working.parent.resolve() / "input") in command
        if ours and "unshare" not in command:
            os.kill(int(pid), signal.SIGKILL)


def expected_run(working: Path, variant: Variant) -> str | None:
    """None when the run ended as the variant expects: whole, or killed and therefore without a record of its end."""
    content = read_run(working / "run")
    whole = content is not None and "counts" in content
    if variant.killed:
        return "the run was not killed in its middle" if whole else None
    if not whole:
        return "the run did not come to its end"
    shown = (working / "run" / "report.html").is_file()
    if shown == variant.rerun:
        return "a scoring rerun made a report" if shown else "no report was made"
    return None

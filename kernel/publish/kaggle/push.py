"""The notebook's way up: everything it will look for is there, then one push, then its run followed to the end.

`build/kaggle/push.json` remembers the last push, so that a wait that was interrupted goes on without another.
"""

import hashlib
import json
import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.models.encoders.record import read_encoder_record
from kernel.models.weights_folder import ENCODER
from kernel.notebook.inputs import MARKER, TRAINED
from kernel.publish.answers import one_line, plain
from kernel.publish.kaggle.before_push import (
    check_inputs_ready,
    check_nothing_runs,
    goes_on_from,
    kernel_status,
    latest_version,
    print_gpu_hours,
)
from kernel.publish.kaggle.client import asking, connect, fitting, wait_until
from kernel.publish.kaggle.datasets import publish_dataset
from kernel.publish.kaggle.left_records import left_or_set_aside, left_record
from kernel.publish.kaggle.metadata import (
    KERNEL_FILE,
    SOURCES,
    read_metadata,
    stage_kernel,
    stage_prepare,
    stage_train,
)
from kernel.publish.kaggle.staging import Staged, stage_code
from kernel.system.files import write_json

RECORDS = Path("build/kaggle")
LIMIT = 45_000.0  # seconds in which a run must end: Kaggle's 12 hours, and its queue
LOG_LINES = 30
RUN_RECORD, ENCODER_RECORD = "run/run.json", f"{TRAINED}/{ENCODER}"
AFTER_PUSH = (
    "the notebook may have been saved all the same: the same command looks for it there before it pushes again, as "
    "each push takes GPU hours"
)


class Pushed(TypedDict):
    """push.json, prepare.json and train.json: one version; `status` is None until its run was followed to the end, and
    `version` until the service has said that it was saved, which it then may be or not; `before` is the latest before
    it."""

    kernel: str
    version: int | None
    before: int | None
    url: str
    code_sha256: str
    content_sha256: str
    commit: str | None
    recipe: str | None
    status: str | None


class Saved(TypedDict):
    """The service's answer; version_number is 0 where it names none."""

    version_number: int
    url: str
    error: str | None
    invalid_dataset_sources: list[str]
    invalid_competition_sources: list[str]
    invalid_kernel_sources: list[str]
    invalid_model_sources: list[str]


def push(
    project: Path, *, wait: bool = False, pin: bool = False, prepare: bool = False, train: bool = False
) -> dict[str, Any]:
    """Pushes the notebook (with `prepare` the one that makes the weights there, with `train` the one that trains an
    encoder, which goes on where its last version ended) and returns its record.

    The code dataset gets a new version first when it holds other code. wait: follows the run to its end. pin: on
    the image of the last run that worked. Raises UserError with the next step.
    """
    from kernel.publish.kaggle.notebooks import check_built, check_inputs_named, recipe_named_in

    metadata = read_metadata(project)
    check_built(project)
    records = project / RECORDS
    code = stage_code(project, project / "build/code", metadata.owner)
    name = "prepare" if prepare else "train" if train else "push"
    folder = project / "build" / name
    if prepare:
        kernel = stage_prepare(project, metadata, folder)
    elif train:
        kernel = stage_train(project, metadata, folder)
    else:
        kernel = metadata.kernel | (pinned(records) if pin else {})
        kernel = stage_kernel(kernel, project / kernel["code_file"], folder)
    notebook = folder / kernel["code_file"]
    check_inputs_named(notebook, [source for key in SOURCES for source in kernel.get(key, [])])
    path = records / f"{name}.json"
    content_sha256 = sha256_of_push(folder, code)
    client = connect()
    record, _ = left_or_set_aside(path, Pushed, may=lambda: check_nothing_runs(client, kernel["id"]))
    same = record if record and record["content_sha256"] == content_sha256 and record["status"] is None else None
    unheard = same if same and same["version"] is None else None
    if unheard:
        found = saved_since(client, unheard)
        same = unheard | {"version": found} if found else None
    if same and (wait or unheard):
        record = same
        write_json(path, record)
        print(f"{record['kernel']}: version {record['version']} is this very content, so it is followed, not pushed")
        return follow(client, record, path) if wait else record
    commit = json.loads((code.folder / MARKER).read_text(encoding="utf-8"))["commit"]
    publish_dataset(client, code, f"commit {commit}", records)
    if not prepare:
        check_inputs_ready(client, metadata, train)
    if train and goes_on_from(client, metadata.train_id):
        kernel = stage_train(project, metadata, folder, goes_on=True)
    print_gpu_hours(client)
    earlier, record = (
        record,
        {
            "kernel": kernel["id"],
            "version": None,
            "before": latest_version(client, kernel["id"]),
            "url": f"https://www.kaggle.com/code/{kernel['id']}",
            "code_sha256": code.sha256,
            "content_sha256": content_sha256,
            "commit": commit,
            "recipe": recipe_named_in(notebook),
            "status": None,
        },
    )
    write_json(path, record)
    answer = save(client, folder, kernel["id"])
    # from here on it is known what came of it
    write_json(path, earlier) if earlier else path.unlink()
    record |= version_of(kernel["id"], answer)
    write_json(path, record)
    print(f"{record['kernel']}: version {record['version']} pushed: {record['url']}")
    return follow(client, record, path) if wait else record


def pinned(records: Path) -> dict[str, Any]:
    """The metadata's keys for the image of the last run that worked."""
    image = (left_or_set_aside(records / "image.json", dict[str, str | int | None])[0] or {}).get("docker_image")
    if not image:
        raise UserError(
            f"{records / 'image.json'}: no image of a run that worked is recorded, so there is none to pin. "
            "Run 'python -m kernel publish push --wait' once without --pin"
        )
    return {"docker_image": image, "docker_image_pinning_type": "original"}


def sha256_of_push(folder: Path, code: Staged) -> str:
    digest = hashlib.sha256(code.sha256.encode())
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def saved_since(client: Any, record: dict[str, Any]) -> int | None:
    """The version that a push saved which had no answer that could be read; None where it saved none."""
    latest = latest_version(client, record["kernel"])
    if latest is None or record["before"] is None:
        raise UserError(
            f"{record['kernel']}: the last push had no answer that could be read, and the service does not say which "
            f"version is the latest. Look at {record['url']}: if that push stands there, follow it on the site; if "
            f"not, remove the record of it in {RECORDS} and push again"
        )
    return latest if latest > record["before"] else None


def save(client: Any, folder: Path, kernel: str) -> Saved:
    """One push of the staged folder, and what the service says of it."""
    with asking(f"pushing {kernel}", after=AFTER_PUSH):
        answer = fitting(Saved, client.kernels_push(str(folder)))
        if answer["version_number"] <= 0 and not answer["error"]:
            raise ValueError("it names no version")
    return answer


def version_of(kernel: str, answer: Saved) -> dict[str, Any]:
    """The version that was saved. The client prints some of the service's refusals and ends as if all were well."""
    if answer["error"]:
        raise UserError(
            f"{kernel}: the service refused the push: {one_line(answer['error'])}. Nothing runs. Mend what it names, "
            "then push again"
        )
    for kind in ("dataset", "competition", "kernel", "model"):
        invalid = answer[f"invalid_{kind}_sources"]  # type: ignore[literal-required]
        if invalid:
            raise UserError(
                f"{kernel}: version {answer['version_number']} was saved without the {kind} sources "
                f"{', '.join(invalid)}, which the service does not know or does not show to you, so its run will fail. "
                f"Stop it on {answer['url']}, mend {kind}_sources in {KERNEL_FILE}"
                f"{' or join the competition on the site' if kind == 'competition' else ''}, then push again"
            )
    return {"version": answer["version_number"], "url": answer["url"]}


def follow(client: Any, record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Waits until the pushed version has run. Returns its record; raises UserError when it did not COMPLETE."""
    kernel, version = record["kernel"], record["version"]
    option = "" if path.stem == "push" else f" --{path.stem}"
    go_on = f"It goes on there; 'python -m kernel publish push{option} --wait' follows it again without another push"
    tell = cache(partial(print, file=sys.stderr))  # each status once

    def look() -> tuple[str, str | None] | None:
        status, failure = kernel_status(client, kernel)
        tell(f"{kernel}: version {version} is {status}")
        if status not in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"):
            return None
        latest = latest_version(client, kernel)
        if latest is not None and latest > version:
            raise UserError(
                f"{kernel}: version {latest} was pushed since version {version}, and the service tells only of the "
                "latest. Push again, or look at the versions on the site"
            )
        # right after a push the run of the version before is still the latest
        return (status, failure) if latest is None or latest == version else None

    status, failure = wait_until(
        look,
        interval=30.0,
        limit=LIMIT,
        overdue=f"{kernel}: version {version} has not ended after {LIMIT / 3600:.1f} hours. {go_on}",
        interrupted=f"{kernel}: interrupted while version {version} runs. {go_on}",
    )
    record = record | {"status": status}
    if status == "COMPLETE":
        record |= collect(client, record, path.parent)
        if path.stem == "train":
            print_encoder(client, kernel, path.parent)
    write_json(path, record)
    if status != "COMPLETE":
        raise UserError(
            f"{kernel}: version {version} ended in {status}: {failure or 'no reason given'}. Mend it and push again; "
            f"the end of its log:\n{log_tail(client, kernel)}"
        )
    print(f"{kernel}: version {version} is COMPLETE: {record['url']}")
    return record


def collect(client: Any, record: dict[str, Any], records: Path) -> dict[str, Any]:
    """Keeps the image of a run that worked for --pin; returns the recipe that it ran, as far as it left word of it."""
    records.mkdir(parents=True, exist_ok=True)
    (records / RUN_RECORD).unlink(missing_ok=True)
    with asking(f"getting {RUN_RECORD} of {record['kernel']}"):
        client.kernels_output(record["kernel"], str(records), file_pattern="^run/run\\.json$", force=True)
    try:
        run = left_record(records / RUN_RECORD, dict[str, Any]) or {}
    except UserError as error:
        print(error, file=sys.stderr)
        run = {}
    if run.get("docker_image"):
        image = {"docker_image": run["docker_image"], "kernel": record["kernel"], "version": record["version"]}
        write_json(records / "image.json", image)
    else:
        print(f"{record['kernel']}: its output names no image, so --pin has nothing new", file=sys.stderr)
    recipe = run.get("recipe")
    return {"recipe": recipe["name"]} if isinstance(recipe, dict) and "name" in recipe else {}


def print_encoder(client: Any, kernel: str, records: Path) -> None:
    """What the run's encoder answers on held-out pairs, or that there is none yet."""
    (records / ENCODER_RECORD).unlink(missing_ok=True)
    with asking(f"getting {ENCODER_RECORD} of {kernel}"):
        client.kernels_output(kernel, str(records), file_pattern=f"^{re.escape(ENCODER_RECORD)}$", force=True)
    try:
        held_out = read_encoder_record((records / ENCODER_RECORD).parent).held_out
    except UserError as error:
        return print(f"{kernel}: no encoder yet ({error}); the same command goes on from its output", file=sys.stderr)
    print(f"{kernel}: {held_out.mean:.4f} on {held_out.pictures:,} pictures held out of training")


def log_tail(client: Any, kernel: str) -> str:
    """The last lines that the run printed. A log is a JSON list of {"stream_name", "time", "data"}, or plain text."""
    try:
        with asking(f"getting the log of {kernel}"):
            log = client.kernels_logs(kernel)
    except UserError as error:
        return str(error)
    try:
        text = "".join(part["data"] for part in json.loads(log))
    except (ValueError, KeyError, TypeError, RecursionError):
        text = log
    return "\n".join(map(plain, text.splitlines()[-LOG_LINES:]))

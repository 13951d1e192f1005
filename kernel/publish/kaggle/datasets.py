"""Datasets on the service: created or versioned from a staged folder, and waited for.

A notebook that starts before its dataset is ready runs without it, silently, so nothing goes on before `ready`.
"""

import json
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from kernel.errors import UserError
from kernel.notebook.inputs import MARKER
from kernel.publish.kaggle.client import Unknown, asking, wait_until
from kernel.publish.kaggle.left_records import left_or_set_aside
from kernel.publish.kaggle.staging import DATASET_METADATA, PAIRS_SLUG, Staged
from kernel.system.files import write_json

LIMIT = 3600.0  # seconds until it must be ready
NOT_PUBLISHED = (
    "nothing was published; files at the top level that were sent whole or in part are not sent again, folders are"
)


class State(NamedTuple):
    """status is `ready`, `failed` or a step on the way; version is None where the service does not say."""

    status: str
    version: int | None


def publish_dataset(client: Any, staged: Staged, notes: str, records: Path) -> str:
    """Creates the staged dataset or makes a new version of it, private, waits until it is ready, returns its id.

    Sends nothing when the service holds, or still works on, what is staged; `records` is the folder where that is
    remembered.
    """
    dataset = json.loads((staged.folder / DATASET_METADATA).read_text(encoding="utf-8"))["id"]
    records.mkdir(parents=True, exist_ok=True)
    path = records / f"{dataset.partition('/')[2]}.json"
    content = {"dataset": dataset, "sha256": staged.sha256}
    state = dataset_state(client, dataset)
    record = left_or_set_aside(path, dict[str, str | int | None])[0] or {}
    sent_before = all(record.get(key) == value for key, value in content.items())
    # `version` is known once it was ready: another one since then was made elsewhere, of something else
    current = state is not None and sent_before and record.get("version", state.version) == state.version
    if state is not None and state.status != "failed" and (current or held_code(client, dataset) == staged.sha256):
        print(f"{dataset}: this content was sent before, so nothing is sent", file=sys.stderr)
        after = record.get("after") if current and "version" not in record else None
    else:
        after = (state.version or 0) if state else 0
        send(client, staged, dataset, new=state is None, notes=notes)
        write_json(path, {**content, "after": after})
    ready = wait_ready(client, dataset, after=after)
    write_json(path, {**content, "after": after, "version": ready.version})
    return dataset


def dataset_state(client: Any, dataset: str) -> State | None:
    """The dataset's status and version; None when the service knows none of that name, or not to this account."""
    with suppress(Unknown), asking(f"looking at dataset {dataset}"):
        answer = json.loads(client.dataset_status(dataset, format="json"))
        # the client says 0 where the service says nothing
        return State(answer["status"], answer["current_version_number"] or None)
    return None


def held_code(client: Any, dataset: str) -> str | None:
    """The sha256 in the marker that the dataset holds; None when there is no dataset or no marker to be read."""
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = dataset.split("/")
    request.file_name = MARKER
    with suppress(Unknown):
        with asking(f"reading {MARKER} of dataset {dataset}"), client.build_kaggle_client() as service:
            content = service.datasets.dataset_api_client.download_dataset(request).content
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            return json.loads(content)["sha256"]
    return None


def send(client: Any, staged: Staged, dataset: str, *, new: bool, notes: str) -> None:
    """Uploads the staged folder, folders as zips. Raises UserError unless the service took it."""
    total = sum(size for _, size in staged.entries)
    print(f"{dataset}: sending {max(1, total // 1024)} kB as {'a new dataset' if new else 'a new version'}")
    folder = str(staged.folder.resolve())  # the client knows an interrupted upload again by its path
    try:
        with asking(f"sending dataset {dataset}", after=NOT_PUBLISHED):
            if new:
                response = client.dataset_create_new(folder, public=False, dir_mode="zip")
            else:
                response = client.dataset_create_version(folder, notes, dir_mode="zip")
    except KeyboardInterrupt:
        raise UserError(f"{dataset}: interrupted while sending; {NOT_PUBLISHED}. The same command goes on") from None
    if response.error or (response.status or "").lower() != "ok":
        raise UserError(
            f"{dataset}: the service refused it: {response.error or response.status or 'no reason given'}. Nothing was "
            "published. Mend what it names in dataset-metadata.json, then run the same command again"
        )


def wait_ready(client: Any, dataset: str, *, after: int | None = None) -> State:
    """Waits until the dataset is ready in a version later than `after`, or in any version when that is None.

    Right after an upload the service may still name the version before, which is ready.
    """
    tell = cache(partial(print, file=sys.stderr))  # each status once

    def look() -> State | None:
        state = dataset_state(client, dataset)
        if state is None and after is None:
            raise UserError(
                f"{dataset}: the service knows no such dataset, so the notebook would start without it. "
                f"Run 'python -m kernel publish dataset{' --pairs FOLDER' * dataset.endswith(PAIRS_SLUG)}' first"
            )
        if state is None:
            return None
        if state.status == "failed":
            raise UserError(
                f"{dataset}: the service failed to process what was sent, so a notebook would start without it. The "
                f"reason stands on https://www.kaggle.com/datasets/{dataset}; the same command sends it again"
            )
        tell(f"{dataset}: {state.status}")
        newer = after is None or state.version is None or state.version > after
        return state if state.status == "ready" and newer else None

    kept = "What was sent is kept: the same command sends nothing and looks again"
    return wait_until(
        look,
        interval=10.0,
        limit=LIMIT,
        overdue=f"{dataset}: not ready after {LIMIT / 60:.0f} minutes, so a notebook would start without it. {kept}",
        interrupted=f"{dataset}: interrupted while waiting until it is ready. {kept}",
    )

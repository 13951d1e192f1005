"""A pushed version handed in, and its score waited for.

The competition is closed: what is handed in is a late submission, scored in full and without a place.
`build/kaggle/submission.json` holds the reference before the wait begins, so none is handed in twice.
"""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.notebook.inputs import COMPETITION
from kernel.publish.kaggle.client import asking, connect, left_record, one_line, wait_until
from kernel.publish.kaggle.metadata import read_metadata
from kernel.publish.kaggle.push import RECORDS, Pushed, kernel_status, latest_version
from kernel.system.files import write_json

SUBMISSION = "submission.csv"
LIMIT = 43_200.0  # seconds in which a score must come
FORBIDDEN = (
    f"most often the competition was not joined: open https://www.kaggle.com/competitions/{COMPETITION}, join it "
    "(Late Submission) and accept its rules in the browser, and verify your phone on the account page. Then run the "
    "same command again"
)
AFTER_SUBMIT = (
    "it may have been handed in all the same: look at your submissions on the competition's page before you run this "
    "again"
)
USUAL_CAUSES = {
    "exceeded": "the hidden set has about 16,000 images: memory or time ran out. Try smaller batches or a deadline",
    "timeout": "the hidden set has about 16,000 images: time ran out. Try a deadline",
    "not found": f"{SUBMISSION} was not in /kaggle/working at the end: the notebook wrote it elsewhere or not at all",
    "scoring": f"rows, columns, empty values or number format of {SUBMISSION} are wrong: 'python -m kernel check' it",
    "threw": "the notebook ended in an exception that the visible images do not show: most often memory, a download "
    "that the internet-off run refuses, or a missing wheel. Rehearse it with 'python -m kernel publish rehearse'",
}
OTHER_CAUSES = "most often memory or time on the 16,000 hidden images, or a submission.csv with wrong rows"


class Submission(TypedDict):
    """submission.json: what was handed in; `status` is PENDING until it has its score."""

    kernel: str
    version: int
    ref: int
    status: str
    recipe: str | None
    commit: str | None


def submit(project: Path, message: str, version: int | None = None) -> dict[str, Any]:
    """Hands `version` in (default: the one pushed last), waits for its score and returns its line.

    The line goes to project/submissions.jsonl. A submission that still waits for its score is picked up by its
    reference. Raises UserError with the next step.
    """
    kernel = read_metadata(project).kernel_id
    records = project / RECORDS
    pushed = left_record(records / "push.json", Pushed) or {}
    version = version or pushed.get("version")
    if version is None:
        raise UserError(
            "no pushed version is on record here. Run 'python -m kernel publish push --wait', or give --version"
        )
    client = connect()
    path = records / "submission.json"
    record = left_record(path, Submission) or {}
    if (record.get("kernel"), record.get("version"), record.get("status")) == (kernel, version, "PENDING"):
        print(f"{kernel}: version {version} was handed in before as {record['ref']}; its score is waited for")
    else:
        check_version(client, kernel, version)
        ref = create(client, kernel, version, message)
        same = (pushed.get("kernel"), pushed.get("version")) == (kernel, version)
        origin = {key: pushed.get(key) if same else None for key in ("recipe", "commit")}
        record = {"kernel": kernel, "version": version, "ref": ref, "status": "PENDING", **origin}
        records.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        print(f"{kernel}: version {version} handed in as {ref}, a late submission: the competition is closed")
    answer = wait_for_score(client, record)
    write_json(path, record | {"status": answer.status.name})
    if answer.status.name == "ERROR":
        said = one_line(answer.error_description or "no reason given")
        causes = next((words for sign, words in USUAL_CAUSES.items() if sign in said.lower()), OTHER_CAUSES)
        raise UserError(
            f"submission {record['ref']} of {kernel} version {version} ended in ERROR: {said}. The usual cause: "
            f"{causes}. Mend it, push, and submit that version"
        )
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: record[key] for key in ("recipe", "commit", "kernel", "version", "ref")},
        "public": score(answer.public_score),
        "private": score(answer.private_score),
        "late": True,
    }
    with (project / "submissions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{kernel}: version {version} scored {line['public']} public, {line['private']} private (late submission)")
    print_left(client)
    return line


def check_version(client: Any, kernel: str, version: int) -> None:
    """Refuses a version that is not the latest, has not run to its end, or left no submission.csv."""
    latest = latest_version(client, kernel)
    if latest not in (None, version):
        raise UserError(
            f"{kernel}: version {version} is not the latest, which is {latest}; the service tells only of that one "
            f"whether it ran. Give --version {latest}, or push again"
        )
    status, failure = kernel_status(client, kernel)
    if status != "COMPLETE":
        raise UserError(
            f"{kernel}: version {version} is {status}{f' ({failure})' if failure else ''}, not COMPLETE, so nothing "
            "was handed in. 'python -m kernel publish push --wait' follows its run to the end"
        )
    if SUBMISSION not in output_names(client, kernel):
        raise UserError(
            f"{kernel}: the output of version {version} holds no {SUBMISSION}, so nothing was handed in. Look at the "
            "run's log on the site, mend the notebook and push again"
        )


def output_names(client: Any, kernel: str) -> set[str]:
    """The names of all files that the latest run left, from every page."""
    names: set[str] = set()
    token = None
    while True:
        with asking(f"listing the output of {kernel}"):
            page = client.kernels_list_files(kernel, page_token=token, page_size=200)
        names |= {file.name for file in page.files}
        token = page.next_page_token
        if not token:
            return names


def create(client: Any, kernel: str, version: int, message: str) -> int:
    """Hands the version in and returns the reference of the submission."""
    with asking(f"handing in {kernel} version {version}", forbidden=FORBIDDEN, after=AFTER_SUBMIT):
        response = client.competition_submit_code(
            SUBMISSION, message or f"{kernel} version {version}", COMPETITION, kernel, version, quiet=True
        )
    if not response.ref:
        raise UserError(
            f"{kernel}: version {version} was not taken: {one_line(response.message) or 'no reason given'}. Look at "
            "your submissions on the competition's page, then run the same command again"
        )
    return response.ref


def wait_for_score(client: Any, record: dict[str, Any]) -> Any:
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = record["ref"]

    def look() -> Any:
        with asking(f"looking at submission {record['ref']}"), client.build_kaggle_client() as service:
            answer = service.competitions.competition_api_client.get_submission(request)
        return answer if answer.status.name != "PENDING" else None

    go_on = "It goes on there; the same command waits for its score and hands nothing in again"
    return wait_until(
        look,
        interval=30.0,
        limit=LIMIT,
        overdue=f"submission {record['ref']}: no score after {LIMIT / 3600:.1f} hours. {go_on}",
        interrupted=f"submission {record['ref']}: interrupted before its score came. {go_on}",
    )


def score(text: str | None) -> float | None:
    with suppress(ValueError):
        return float(text or "")
    return None


def print_left(client: Any) -> None:
    """What the day still allows; the score stands whether or not that can be had."""
    try:
        with asking("asking what is left for the day"):
            limits = client.competition_get_submission_limits(COMPETITION)
    except UserError as error:
        print(error, file=sys.stderr)
    else:
        print(f"{limits.num_today} handed in today, {limits.num_allowed_now} left")

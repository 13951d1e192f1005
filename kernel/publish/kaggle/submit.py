"""A pushed version handed in, and its score waited for.

The competition is closed: what is handed in is a late submission, scored in full and without a place.
`build/kaggle/submission.json` holds the reference before the wait begins, so none is handed in twice.
"""

import json
import math
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.notebook.inputs import COMPETITION
from kernel.publish.answers import one_line
from kernel.publish.kaggle.before_push import kernel_status, latest_version
from kernel.publish.kaggle.client import asking, connect, fitting, wait_until
from kernel.publish.kaggle.left_records import left_or_set_aside, left_record
from kernel.publish.kaggle.metadata import read_metadata
from kernel.publish.kaggle.push import RECORDS, Pushed
from kernel.system.files import write_json

SUBMISSION = "submission.csv"
LIMIT = 43_200.0  # seconds in which a score must come
FORBIDDEN = (
    f"most often the competition was not joined: open https://www.kaggle.com/competitions/{COMPETITION}, join it "
    "(Late Submission) and accept its rules in the browser, and verify your phone on the account page. Then run the "
    "same command again"
)
AFTER_SUBMIT = (
    "it may have been handed in all the same: the same command looks for it among your submissions before it hands "
    "anything in"
)
CLOCKS_APART = timedelta(minutes=10)  # the service's and this machine's
USUAL_CAUSES = {
    "exceeded": "the hidden set has about 16,000 images: memory or time ran out. Try smaller batches or a deadline",
    "timeout": "the hidden set has about 16,000 images: time ran out. Try a deadline",
    "not found": f"{SUBMISSION} was not in /kaggle/working at the end: the notebook wrote it elsewhere or not at all",
    "scoring": f"rows, columns, empty values or number format of {SUBMISSION} are wrong: 'python -m kernel check' it",
    "threw": "the notebook ended in an exception that the visible images do not show: most often memory, a download "
    "that the internet-off run refuses, or a missing wheel. Rehearse it with 'python -m kernel publish rehearse'",
}
OTHER_CAUSES = "most often memory or time on the 16,000 hidden images, or a submission.csv with wrong rows"


ASKED = "ASKED"
LONG_AGO = "2010-01-01T00:00:00+00:00"  # before the service was


class Submission(TypedDict):
    """submission.json: what was handed in; `status` is ASKED until the service has said so, which it then may have
    understood or not, then PENDING until it has its score; `after` is the reference of the one handed in before."""

    kernel: str
    version: int
    ref: int | None
    status: str
    message: str
    asked: str
    after: int
    recipe: str | None
    commit: str | None


class HandedIn(TypedDict):
    """The service's answer; no `ref` where it did not take it, and its reason in `message`."""

    ref: int
    message: str | None


class Listed(TypedDict):
    """One of the account's submissions."""

    ref: int
    description: str | None
    date: datetime


class Scored(TypedDict):
    """A submission as it stands; the scores are texts."""

    ref: int
    error_description: str | None
    public_score: str | None
    private_score: str | None


def submit(project: Path, message: str, version: int | None = None) -> dict[str, Any]:
    """Hands `version` in (default: the one pushed last), waits for its score and returns its line.

    The line goes to project/submissions.jsonl. A submission that still waits for its score is picked up by its
    reference. Raises UserError with the next step.
    """
    kernel = read_metadata(project).kernel_id
    records = project / RECORDS
    pushed: dict[str, Any] = {}
    lost = False
    try:
        pushed = left_record(records / "push.json", Pushed) or {}
    except UserError as error:  # it stays where it is: the next push must look whether that one still runs
        lost = True
        print(error, file=sys.stderr)
    version = version or pushed.get("version")
    client = connect() if version or lost else None
    version = version or (latest_version(client, kernel) if lost else None)
    if not version:
        raise UserError(
            "no pushed version is on record here. Run 'python -m kernel publish push --wait', or give --version"
        )
    same = (pushed.get("kernel"), pushed.get("version")) == (kernel, version)
    about = {"kernel": kernel, "version": version, "ref": None, "status": ASKED,
             "message": message or f"{kernel} version {version}", "asked": now(), "after": 0,
             **{key: pushed.get(key) if same else None for key in ("recipe", "commit")}}  # fmt: skip
    path = records / "submission.json"
    record, lost = left_or_set_aside(path, Submission)
    # where what was handed in before is not known, anything that the service lists under these words is taken for it
    record = record or {}
    if lost:
        record = about | {"asked": LONG_AGO}
        write_json(path, record)  # before the service is asked, which may not answer this time
    unscored = record if (record.get("kernel"), record.get("version")) == (kernel, version) else {}
    if unscored.get("status") == ASKED and (ref := handed_in(client, record)):
        record |= {"ref": ref, "status": "PENDING"}
        write_json(path, record)
    if unscored.get("status") in ("PENDING", ASKED) and record["ref"]:
        print(f"{kernel}: version {version} was handed in before as {record['ref']}; its score is waited for")
    else:
        check_version(client, kernel, version)
        record = about | {"after": record.get("ref") or 0}
        records.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        record |= {"ref": create(client, kernel, version, record["message"]), "status": "PENDING"}
        write_json(path, record)
        print(f"{kernel}: version {version} handed in as {record['ref']}, a late submission: the competition is closed")
    status, answer = wait_for_score(client, record)
    write_json(path, record | {"status": status})
    if status == "ERROR":
        said = one_line(answer["error_description"] or "no reason given")
        causes = next((words for sign, words in USUAL_CAUSES.items() if sign in said.lower()), OTHER_CAUSES)
        raise UserError(
            f"submission {record['ref']} of {kernel} version {version} ended in ERROR: {said}. The usual cause: "
            f"{causes}. Mend it, push, and submit that version"
        )
    line = {
        "time": now(),
        **{key: record[key] for key in ("recipe", "commit", "kernel", "version", "ref")},
        "public": score(answer["public_score"]),
        "private": score(answer["private_score"]),
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


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def handed_in(client: Any, record: dict[str, Any]) -> int | None:
    """The reference of what a command handed in that had no answer it could read; None where it was not taken."""
    with asking("looking for what was handed in before"):
        found = [fitting(Listed, own) for own in client.competition_submissions(COMPETITION) or []]
    asked = datetime.fromisoformat(record["asked"]) - CLOCKS_APART
    since = [own for own in found if utc(own["date"]) >= asked and own["description"] == record["message"]]
    return max((own["ref"] for own in since if own["ref"] > record["after"]), default=None)


def utc(time: datetime) -> datetime:
    """The service's times have no zone: they are in UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def create(client: Any, kernel: str, version: int, message: str) -> int:
    """Hands the version in and returns the reference of the submission."""
    with asking(f"handing in {kernel} version {version}", forbidden=FORBIDDEN, after=AFTER_SUBMIT):
        answer = fitting(
            HandedIn, client.competition_submit_code(SUBMISSION, message, COMPETITION, kernel, version, quiet=True)
        )
    if answer["ref"] <= 0:
        said = one_line(answer["message"] or "") or "no reason given"
        raise UserError(
            f"{kernel}: version {version} was not taken: {said}. Look at your submissions on the competition's page, "
            "then run the same command again"
        )
    return answer["ref"]


def wait_for_score(client: Any, record: dict[str, Any]) -> tuple[str, Scored]:
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = record["ref"]

    def look() -> tuple[str, Scored] | None:
        with asking(f"looking at submission {record['ref']}"), client.build_kaggle_client() as service:
            answer = service.competitions.competition_api_client.get_submission(request)
            found, status = fitting(Scored, answer), answer.status.name
            if found["ref"] != record["ref"]:
                raise ValueError(f"it is of submission {found['ref']}")
        return (status, found) if status != "PENDING" else None

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
        return found if math.isfinite(found := float(text or "")) else None
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

import pytest
import requests

from kernel.errors import UserError
from kernel.publish.kaggle import client as client_module
from kernel.publish.kaggle.client import asking, configured_user, connect
from kernel.publish.kaggle.datasets import wait_ready
from tests.publish.kaggle.kaggle_client import publish, refusal
from tests.publish.kaggle.kaggle_server import (
    CUT,
    DRIP,
    DRIPPING_HEADER,
    ENDLESS,
    KERNEL,
    SILENCE,
    WEIGHTS,
    Dataset,
    answered,
    refused,
)

# what the service answers

STATUSES = {
    401: "your token is wrong or has expired. Make a new API token on https://www.kaggle.com/settings",
    404: "it does not know that name",
    429: "too many requests for now; wait 7200 seconds, then run the same command again",
    500: "trouble on the service's side; nothing was changed there. Run the same command again in some minutes",
}


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_failing_first_question_is_told_and_not_taken_for_a_free_name(kaggle, folder, status):
    kaggle.script("GetDatasetStatus", refused(status, Retry_After="7200"))
    said = refusal(folder)
    assert f"answered {status} (said the service)" in said
    assert STATUSES[status] in said
    assert kaggle.calls("StartBlobUpload") == []


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_failing_creation_names_the_next_step(kaggle, folder, status):
    steps = {
        **STATUSES,
        403: "is it yours? The owner in kernel-metadata.json and dataset-metadata.json must be the account",
        500: "trouble on the service's side; nothing was published; files at the top level that were sent",
    }
    kaggle.script("CreateDataset", refused(status, Retry_After="7200"))
    assert steps[status] in refusal(folder)


def test_an_error_inside_an_answer_that_http_calls_fine_is_an_error(kaggle, folder):
    kaggle.script("GetDatasetStatus", (200, {"code": 401, "message": "no"}, {}))
    assert "answered 401 (no)" in refusal(folder)


def test_a_short_retry_after_is_waited_for(kaggle, folder):
    kaggle.script("CreateDataset", refused(429, Retry_After="0"), refused(429, Retry_After="0"))
    publish(folder)
    assert kaggle.datasets[WEIGHTS].version == 1


def test_a_429_that_stays_ends_after_some_tries(kaggle, folder):
    kaggle.script("CreateDataset", *[refused(429, Retry_After="0")] * 99)
    refusal(folder)
    assert len(kaggle.calls("CreateDataset")) == 10


def test_a_cut_connection_is_told_with_the_next_step(kaggle, folder):
    kaggle.script("GetDatasetStatus", CUT)
    assert "no answer from the service (ConnectionError); nothing was changed there" in refusal(folder)


def test_a_silent_service_is_not_waited_for_without_bound(kaggle, folder, monkeypatch):
    monkeypatch.setattr(client_module, "SECONDS", (0.1, 0.1))
    kaggle.script("GetDatasetStatus", SILENCE)
    assert "no answer from the service (ReadTimeout)" in refusal(folder)


@pytest.mark.parametrize("answer", [DRIP, DRIPPING_HEADER, ENDLESS])
def test_an_answer_that_never_ends_is_given_up(kaggle, folder, monkeypatch, answer):
    monkeypatch.setattr(client_module, "SECONDS", (5.0, 300.0 if answer == ENDLESS else 1.0))
    kaggle.script("GetDatasetStatus", answer)
    assert "no answer from the service (EndlessAnswer)" in refusal(folder)


def test_an_upload_that_takes_hours_is_no_answer_that_never_ends(kaggle, folder, monkeypatch):
    clock, really = [0.0], requests.Session.send

    def slow(self, request, **settings):
        response = really(self, request, **settings)
        clock[0] += 3600.0 if request.method == "PUT" else 0
        return response

    monkeypatch.setattr(client_module, "monotonic", lambda: clock[0])
    monkeypatch.setattr(requests.Session, "send", slow)
    publish(folder)
    assert kaggle.datasets[WEIGHTS].version == 1 and clock[0] >= 3600


def test_pages_that_never_end_are_given_up(kaggle, monkeypatch):
    monkeypatch.setattr(client_module, "MOST_REQUESTS", 20)
    kaggle.script("ListKernelSessionOutput", *[answered(files=[], log="", nextPageToken="1")] * 99)
    client = connect()
    with pytest.raises(UserError, match="EndlessAnswer"), asking("listing"):
        client.kernels_output(KERNEL, "nowhere", file_pattern="^run$", force=True)
    assert len(kaggle.calls("ListKernelSessionOutput")) == 20


def test_control_codes_of_the_service_reach_no_terminal(kaggle, folder):
    kaggle.script("GetDatasetStatus", refused(400, "\x1b[2J\x1b]0;pwned\x07 \u202egnp.exe"))
    said = refusal(folder)
    assert "pwned" in said and said.isprintable()


def test_other_requests_of_the_process_keep_their_own_waits(kaggle):
    untouched = requests.Session.send, requests.adapters.HTTPAdapter.send
    waits = []

    class Told(requests.adapters.HTTPAdapter):
        def send(self, request, **settings):
            waits.append(settings["timeout"])
            return super().send(request, **settings)

    connect()
    with asking("looking"), requests.Session() as session:
        session.mount("http://", Told())
        session.get(f"{kaggle.url}/output/submission.csv")
        assert (requests.Session.send, requests.adapters.HTTPAdapter.send) == untouched
    assert waits == [None]


def test_an_answer_that_is_no_json_is_told(kaggle, folder):
    kaggle.script("GetDatasetStatus", (200, b"<html>maintenance", {"Content-Type": "text/html"}))
    assert "the service's answer is none that the client understands" in refusal(folder)


def test_no_credentials_are_told_with_where_to_get_them(kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(UserError) as refused_:
        connect()
    for words in ("no Kaggle credentials", "https://www.kaggle.com/settings", "KAGGLE_API_TOKEN", "kaggle.json"):
        assert words in str(refused_.value)


# credentials


def test_a_token_that_the_service_knows_brings_its_account(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    kaggle.script("IntrospectToken", answered(active=True, username="jane-doe"))
    assert configured_user() == "jane-doe"


def test_a_token_that_has_expired_is_told_as_missing_credentials(kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    kaggle.script("IntrospectToken", answered(active=False))
    with pytest.raises(UserError, match="no Kaggle credentials were found, or they have expired. Make a new API token"):
        connect()


def test_a_service_in_trouble_is_not_taken_for_wrong_credentials(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    kaggle.script("IntrospectToken", refused(500))
    with pytest.raises(UserError, match="reading your credentials: the service answered 500"):
        connect()


def test_neither_token_nor_key_is_ever_printed(kaggle, folder, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KEY", "0secret0")
    kaggle.script("CreateDataset", refused(401))
    said = refusal(folder)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0secret0")
    kaggle.script("IntrospectToken", refused(401))
    said += refusal(folder)
    assert said.count("answered 401") == 2
    assert "0secret0" not in said + "".join(capsys.readouterr())


# waits


def test_some_failures_in_a_row_do_not_end_a_wait(kaggle):
    kaggle.datasets[WEIGHTS] = Dataset(1, {})
    kaggle.script("GetDatasetStatus", refused(500), CUT, refused(503), refused(429))
    assert wait_ready(connect(), WEIGHTS).status == "ready"


def test_failures_with_an_answer_between_them_do_not_end_a_wait(kaggle):
    kaggle.datasets[WEIGHTS] = Dataset(1, {})
    still = answered(status="BLOBS_RECEIVED")
    kaggle.script("GetDatasetStatus", *[refused(500)] * 4, still, *[refused(500)] * 4)
    assert wait_ready(connect(), WEIGHTS).status == "ready"


def test_many_failures_in_a_row_end_a_wait(kaggle):
    kaggle.datasets[WEIGHTS] = Dataset(1, {})
    kaggle.script("GetDatasetStatus", *[refused(500)] * 99)
    with pytest.raises(UserError, match="answered 500"):
        wait_ready(connect(), WEIGHTS)
    assert len(kaggle.calls("GetDatasetStatus")) == 5

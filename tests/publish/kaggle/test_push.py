import json
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.notebooks import build_notebooks
from tests.models.encoders.by_hand import save_encoder
from tests.publish.kaggle.kaggle_client import change_kernel, make_project, quick_push, record, refused_push
from tests.publish.kaggle.kaggle_server import CODE, CUT, KERNEL, OWNER, PAIRS, WEIGHTS, Dataset, answered, refused

PREPARE, TRAIN = f"{OWNER}/image-to-prompts-prepare", f"{OWNER}/image-to-prompts-train"


@pytest.fixture
def kaggle(kaggle):
    """The service with the weights dataset in place."""
    kaggle.datasets[WEIGHTS] = Dataset(1, {"manifest.json": b"{}"})
    return kaggle


@pytest.fixture
def project(tmp_path) -> Path:
    return make_project(tmp_path / "project")


# one push


def test_a_push_sends_the_request_for_two_t4_without_internet(kaggle, project):
    quick_push(project)
    sent = kaggle.calls("SaveKernel")[0].body
    asked = {key: sent[key] for key in ("slug", "isPrivate", "enableGpu", "enableInternet", "machineShape")}
    assert asked == {
        "slug": KERNEL,
        "isPrivate": True,
        "enableGpu": True,
        "enableInternet": False,
        "machineShape": "NvidiaTeslaT4",
    }


def test_a_push_sends_the_competition_and_both_datasets_as_sources(kaggle, project):
    quick_push(project)
    sent = kaggle.calls("SaveKernel")[0].body
    assert sent["competitionDataSources"] == ["stable-diffusion-image-to-prompts"]
    assert sent["datasetDataSources"] == [WEIGHTS, CODE]


def test_a_push_sends_the_built_notebook(kaggle, project):
    quick_push(project)
    cells = json.loads(kaggle.calls("SaveKernel")[0].body["text"])["cells"]
    assert [cell["source"] for cell in cells] == ["print('image_to_prompts')"]


def test_url_and_version_are_printed(kaggle, project, capsys):
    quick_push(project)
    assert f"{KERNEL}: version 1 pushed: https://service/code/{KERNEL}\n" in capsys.readouterr().out


def test_the_push_is_recorded(kaggle, project):
    quick_push(project)
    pushed = record(project, "push.json")
    held = json.loads(kaggle.datasets[CODE].files["image-to-prompts.json"])
    expected = {
        "kernel": KERNEL,
        "version": 1,
        "url": f"https://service/code/{KERNEL}",
        "code_sha256": held["sha256"],
        "commit": None,
        "recipe": None,
    }
    assert expected.items() <= pushed.items()


@pytest.mark.parametrize("recipe", ["baseline", "text"])
def test_the_recipe_that_the_notebook_runs_is_recorded(kaggle, project, recipe):
    source = f'# %%\n# session.run("other")\nsession.run("{recipe}")\n'
    (project / "notebooks/image_to_prompts.py").write_text(source)
    build_notebooks(project)
    assert quick_push(project)["recipe"] == recipe


# the week's hours


def test_the_gpu_hours_left_are_told_before_any_is_spent(kaggle, project, capsys):
    quick_push(project)
    assert (
        "GPU hours left this week: 12.5 of 30.0, all of them again on 2026-11-28 00:00 UTC\n" in capsys.readouterr().err
    )
    calls = [request.call for request in kaggle.requests]
    assert calls.index("GetAcceleratorQuotaStatistics") < calls.index("SaveKernel")


@pytest.mark.parametrize("answer", [refused(404), refused(500), answered(), CUT])
def test_a_service_that_names_no_hours_does_not_stop_a_push(kaggle, project, capsys, answer):
    kaggle.script("GetAcceleratorQuotaStatistics", answer)
    assert quick_push(project)["version"] == 1
    assert "GPU hours left this week: unknown (" in capsys.readouterr().err


def test_a_notebook_that_is_not_its_source_is_not_pushed(kaggle, project):
    (project / "notebooks/image_to_prompts.py").write_text("# %%\nprint(2)\n")
    assert "Run 'make notebooks'" in refused_push(project)
    assert kaggle.requests == []


def test_metadata_that_breaks_a_rule_is_not_pushed(kaggle, project):
    change_kernel(project, enable_internet=True)
    assert "enable_internet is true; expected false" in refused_push(project)
    assert kaggle.requests == []


# the code dataset


def test_the_code_goes_up_before_the_notebook(kaggle, project):
    quick_push(project)
    assert kaggle.datasets[CODE].files["kernel/__init__.py"] == b"LINE = 1\n"


def test_unchanged_code_is_not_sent_again(kaggle, project):
    quick_push(project)
    sent = len(kaggle.calls("PUT"))
    quick_push(project)
    assert len(kaggle.calls("PUT")) == sent


def test_unchanged_code_is_not_sent_again_from_another_machine(kaggle, project, tmp_path):
    quick_push(project)
    sent = len(kaggle.calls("PUT"))
    quick_push(make_project(tmp_path / "clone"))
    assert len(kaggle.calls("PUT")) == sent


def test_a_changed_line_sends_kilobytes_and_no_weights(kaggle, project):
    kaggle.datasets[WEIGHTS].files["large.safetensors"] = bytes(1_000_000)
    quick_push(project)
    before = sum(request.size for request in kaggle.requests)
    (project / "kernel/__init__.py").write_text("LINE = 2\n")
    quick_push(project)
    assert sum(request.size for request in kaggle.requests) - before < 20_000
    assert set(kaggle.uploaded()) == {"image-to-prompts.json", "kernel.zip", "wheels.zip"}
    assert kaggle.datasets[CODE].files["kernel/__init__.py"] == b"LINE = 2\n"
    assert kaggle.datasets[WEIGHTS].version == 1


def test_sent_code_is_told_with_its_kilobytes(kaggle, project, capsys):
    quick_push(project)
    assert f"{CODE}: sending 1 kB as a new dataset\n" in capsys.readouterr().out


def test_the_notebook_waits_for_the_code(kaggle, project):
    kaggle.dataset_statuses[CODE] = ["BLOBS_RECEIVED"]
    assert f"{CODE}: not ready after 0 minutes" in refused_push(project, limit=0)
    assert kaggle.calls("SaveKernel") == []


# the weights


def test_the_notebook_waits_for_the_weights(kaggle, project):
    kaggle.dataset_statuses[WEIGHTS] = ["BLOBS_RECEIVED", "BLOBS_RECEIVED", "READY"]
    quick_push(project)
    calls = [request.call for request in kaggle.requests]
    assert calls.count("SaveKernel") == 1 and kaggle.dataset_statuses[WEIGHTS] == ["READY"]


def test_weights_that_never_get_ready_stop_the_push(kaggle, project):
    kaggle.dataset_statuses[WEIGHTS] = ["BLOBS_RECEIVED"]
    assert f"{WEIGHTS}: not ready after 0 minutes" in refused_push(project, limit=0)
    assert kaggle.calls("SaveKernel") == []


def test_weights_that_were_never_published_stop_the_push_with_what_publishes_them(kaggle, project):
    del kaggle.datasets[WEIGHTS]
    assert "Run 'python -m kernel publish dataset' first" in refused_push(project)
    assert kaggle.calls("SaveKernel") == []


def from_prepare(project: Path) -> None:
    change_kernel(project, dataset_sources=[CODE], kernel_sources=[PREPARE])


def test_weights_from_the_prepare_notebook_need_no_weights_dataset(kaggle, project):
    del kaggle.datasets[WEIGHTS]
    from_prepare(project)
    kaggle.kernel_statuses = ["COMPLETE"]
    quick_push(project)
    sent = kaggle.calls("SaveKernel")[0].body
    assert (sent["datasetDataSources"], sent["kernelDataSources"]) == ([CODE], [PREPARE])


def test_a_prepare_notebook_that_still_runs_stops_the_push(kaggle, project):
    from_prepare(project)
    kaggle.kernel_statuses = ["RUNNING"]
    assert "its run is RUNNING, so the notebook would start without weights" in refused_push(project)
    assert kaggle.calls("SaveKernel") == []


def test_the_prepare_notebook_is_pushed_with_the_internet_and_the_code_alone(kaggle, project):
    del kaggle.datasets[WEIGHTS]
    quick_push(project, prepare=True)
    sent = kaggle.calls("SaveKernel")[0].body
    keys = ("slug", "enableInternet", "enableGpu", "isPrivate", "datasetDataSources")
    assert [sent[key] for key in keys] == [PREPARE, True, True, True, [CODE]]
    assert "competitionDataSources" not in sent


def test_a_push_of_the_prepare_notebook_leaves_the_record_of_the_other_alone(kaggle, project):
    quick_push(project)
    quick_push(project, prepare=True)
    assert record(project, "push.json")["kernel"] == KERNEL


# the train notebook


@pytest.fixture
def with_pairs(kaggle):
    kaggle.datasets[PAIRS] = Dataset(1, {"drawn.pairs": b""})
    kaggle.kernel_statuses = ["COMPLETE"]
    return kaggle


def test_the_train_notebook_is_pushed_without_the_internet_and_with_the_pairs(with_pairs, project):
    quick_push(project, train=True)
    sent = with_pairs.calls("SaveKernel")[0].body
    keys = ("slug", "enableInternet", "machineShape", "datasetDataSources")
    assert [sent[key] for key in keys] == [TRAIN, False, "NvidiaTeslaT4", [WEIGHTS, CODE, PAIRS]]
    assert "competitionDataSources" not in sent and "kernelDataSources" not in sent
    assert record(project, "train.json")["kernel"] == TRAIN


def test_without_pairs_no_hours_are_spent(kaggle, project):
    assert "Run 'python -m kernel publish dataset --pairs FOLDER' first" in refused_push(project, train=True)
    assert kaggle.calls("SaveKernel") == []


def test_a_training_that_ended_is_gone_on_with_by_the_same_command(with_pairs, project, capsys):
    quick_push(project, train=True, wait=True)
    quick_push(project, train=True, wait=True)
    first, second = (request.body.get("kernelDataSources") for request in with_pairs.calls("SaveKernel"))
    assert (first, second) == (None, [TRAIN])
    assert f"{TRAIN}: the output of its latest version is an input of the new one" in capsys.readouterr().out


def test_a_wait_for_a_training_that_was_interrupted_follows_it_though_it_has_ended_meanwhile(with_pairs, project):
    quick_push(project, train=True)
    assert quick_push(project, train=True, wait=True)["version"] == 1
    assert len(with_pairs.calls("SaveKernel")) == 1


def test_a_training_of_other_code_is_not_started_beside_one_that_runs(with_pairs, project):
    quick_push(project, train=True)
    (project / "kernel/__init__.py").write_text("LINE = 2\n")
    with_pairs.kernel_statuses = ["RUNNING"]
    assert "what it trains would be trained twice" in refused_push(project, train=True)
    assert len(with_pairs.calls("SaveKernel")) == 1


def test_what_a_trained_encoder_answers_on_held_out_pairs_is_told(with_pairs, project, tmp_path, weights, capsys):
    encoder = save_encoder(tmp_path / "encoder", weights)
    with_pairs.outputs = {f"encoder/{path.name}": path.read_bytes() for path in encoder.glob("*.*")}
    quick_push(project, train=True, wait=True)
    assert f"{TRAIN}: 0.8125 on 2 pictures held out of training\n" in capsys.readouterr().out
    got = [request.path for request in with_pairs.calls("GET") if request.path.startswith("/output")]
    assert got == ["/output/encoder/encoder.json"]


def test_a_training_without_an_encoder_yet_is_told(with_pairs, project, capsys):
    assert quick_push(project, train=True, wait=True)["status"] == "COMPLETE"
    assert f"{TRAIN}: no encoder yet (" in capsys.readouterr().err


def test_the_main_notebook_waits_for_the_encoder_that_it_shall_ask(with_pairs, project):
    change_kernel(project, kernel_sources=[TRAIN])
    with_pairs.kernel_statuses = ["RUNNING"]
    said = refused_push(project)
    assert "would start without its encoder. Run 'python -m kernel publish push --train --wait'" in said
    with_pairs.kernel_statuses = ["COMPLETE"]
    quick_push(project)
    assert with_pairs.calls("SaveKernel")[0].body["kernelDataSources"] == [TRAIN]


# what the service answers


def test_a_refused_push_that_http_calls_fine_is_refused_with_its_words(kaggle, project):
    kaggle.script("SaveKernel", answered(error="Maximum weekly GPU quota reached"))
    said = refused_push(project)
    assert "the service refused the push: Maximum weekly GPU quota reached. Nothing runs. Mend what it names" in said


@pytest.mark.parametrize("kind", ["dataset", "competition", "kernel", "model"])
def test_every_kind_of_source_that_the_service_drops_fails_the_push(kaggle, project, kind):
    dropped = {f"invalid{kind.title()}Sources": ["someone/something"]}
    kaggle.script("SaveKernel", answered(url="https://service/code", versionNumber=1, **dropped))
    said = refused_push(project)
    assert f"version 1 was saved without the {kind} sources someone/something" in said
    assert f"Stop it on https://service/code, mend {kind}_sources in kernel-metadata.json" in said


# answers that nobody can read

ODD = [b"null", b"12", b'"text"', b"[]", b"{}", b"", b"<html>", b"[" * 100_000, b'{"code": null}', b'{"code": "500"}',
       b'{"versionNumber": "3"}', b'{"versionNumber": null}', b'{"versionNumber": -4}', b'{"error": 5}']  # fmt: skip


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:25].decode())
def test_an_odd_answer_to_a_push_never_pushes_twice(kaggle, project, odd, wait):
    """The service has saved it, and says so in no way that can be read: the same command finds it there."""
    kaggle.script("SaveKernel", (200, odd, {}))
    assert "pushing" in (said := refused_push(project)) and "may have been saved all the same" in said
    kaggle.kernel_version += 1
    assert quick_push(project, wait=wait)["version"] == 1
    assert len(kaggle.calls("SaveKernel")) == 1
    assert record(project, "push.json")["status"] == ("COMPLETE" if wait else None)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:25].decode())
@pytest.mark.parametrize("call", ["GetDatasetStatus", "GetDataset", "GetKernel", "GetAcceleratorQuotaStatistics",
                                  "GetKernelSessionStatus", "ListKernelSessionOutput", "StartBlobUpload",
                                  "CreateDatasetVersion"])  # fmt: skip
def test_an_odd_answer_is_one_line_or_borne(kaggle, project, call, odd, monkeypatch):
    monkeypatch.setattr("kernel.publish.kaggle.client.sleep", lambda seconds: None)
    monkeypatch.setattr("kernel.publish.kaggle.datasets.LIMIT", 0.5)
    kaggle.script(call, *[(200, odd, {})] * 9)
    try:
        pushed = quick_push(project, wait=True, limit=0.5)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert pushed["version"] == 1
    assert len(kaggle.calls("SaveKernel")) <= 1


def test_what_was_not_saved_is_pushed_by_the_same_command(kaggle, project):
    kaggle.script("SaveKernel", CUT)
    refused_push(project)
    assert quick_push(project)["version"] == 1 and len(kaggle.calls("SaveKernel")) == 2


@pytest.mark.parametrize("damaged", [b"", b"[", b"null", b'{"version": "3"}', b"\xff"])
def test_a_damaged_record_pushes_nothing_while_what_it_told_of_may_run(kaggle, project, damaged):
    quick_push(project)
    path = project / "build/kaggle/push.json"
    path.write_bytes(damaged)
    for _ in range(2):
        kaggle.kernel_statuses = ["RUNNING"]
        assert "latest version is RUNNING" in refused_push(project) and path.read_bytes() == damaged
    kaggle.kernel_statuses = ["COMPLETE"]
    assert quick_push(project)["version"] == 2 and len(kaggle.calls("SaveKernel")) == 2
    assert path.with_name("push.json.damaged").read_bytes() == damaged


def test_a_service_that_names_no_latest_version_is_not_pushed_to_again_blindly(kaggle, project):
    kaggle.script("SaveKernel", CUT)
    refused_push(project)
    kaggle.script("GetKernel", answered(metadata={}, blob={}))
    assert "does not say which version is the latest" in refused_push(project)
    assert len(kaggle.calls("SaveKernel")) == 1


def test_a_refused_push_leaves_the_record_of_the_one_before(kaggle, project):
    before = quick_push(project)
    kaggle.script("SaveKernel", answered(error="no GPU hours are left"))
    assert "refused the push" in refused_push(project)
    assert record(project, "push.json") == before


def test_a_push_that_lost_a_source_is_not_recorded(kaggle, project):
    kaggle.script("SaveKernel", answered(versionNumber=1, invalidDatasetSources=[CODE]))
    refused_push(project)
    assert not (project / "build/kaggle/push.json").exists()


def test_a_push_without_a_version_is_refused(kaggle, project):
    kaggle.script("SaveKernel", answered(url="https://service/code"))
    assert "it names no version" in refused_push(project)


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (401, "Make a new API token on https://www.kaggle.com/settings"),
        (403, "a GPU or the internet needs a phone-verified account"),
        (429, "wait 60 seconds, then run the same command again"),
        (500, "the same command looks for it there before it pushes again"),
    ],
)
def test_an_error_names_the_next_step(kaggle, project, status, step):
    kaggle.script("SaveKernel", refused(status, Retry_After="60"))
    assert step in refused_push(project)


def test_a_cut_connection_says_that_the_push_may_have_arrived(kaggle, project):
    kaggle.script("SaveKernel", CUT)
    assert "the notebook may have been saved all the same" in refused_push(project)

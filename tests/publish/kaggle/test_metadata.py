import json
import shutil
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.metadata import initialise, read_metadata, stage_prepare, stage_train
from tests.conftest import ROOT
from tests.publish.kaggle.kaggle_client import make_project, talk_to
from tests.publish.kaggle.kaggle_server import CODE, KERNEL, OWNER, PAIRS, WEIGHTS, KaggleServer

PREPARE, TRAIN = f"{OWNER}/image-to-prompts-prepare", f"{OWNER}/image-to-prompts-train"
DATASET_FILE, KERNEL_FILE = "dataset-metadata.json", "kernel-metadata.json"


@pytest.fixture
def project(tmp_path) -> Path:
    return make_project(tmp_path / "project")


def content(project: Path, name: str) -> dict:
    return json.loads((project / name).read_text())


def change(project: Path, name: str, changes: dict) -> None:
    """Other values; a key whose value is None goes."""
    changed = {**content(project, name), **changes}
    (project / name).write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def refusal(project: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_metadata(project)
    return str(refused.value)


# the account


@pytest.fixture
def untouched(project) -> Path:
    """As cloned, with the placeholder for the account."""
    for name in (DATASET_FILE, KERNEL_FILE):
        shutil.copy(ROOT / name, project / name)
    return project


def test_the_placeholder_is_refused_with_init(untouched):
    assert "still has the placeholder for your account. Run 'python -m kernel publish init --user" in refusal(untouched)


def test_the_placeholder_in_the_second_file_alone_is_refused(project):
    change(project, KERNEL_FILE, {"id": "your-kaggle-name/image-to-prompts"})
    assert "kernel-metadata.json: id 'your-kaggle-name/image-to-prompts' still has the placeholder" in refusal(project)


def test_init_writes_the_account_everywhere(untouched):
    initialise(untouched, "jane-doe")
    text = (untouched / DATASET_FILE).read_text() + (untouched / KERNEL_FILE).read_text()
    assert (text.count("jane-doe/"), text.count("your-kaggle-name")) == (4, 0)


def test_init_changes_nothing_but_the_account(untouched):
    initialise(untouched, "jane-doe")
    for name in (DATASET_FILE, KERNEL_FILE):
        expected = (ROOT / name).read_text().replace("your-kaggle-name", "jane-doe")
        assert (untouched / name).read_text() == expected


def test_init_for_another_account_moves_every_name(project):
    initialise(project, "jane-doe")
    assert read_metadata(project).owner == "jane-doe"


def test_init_keeps_sources_of_other_people(project):
    change(project, KERNEL_FILE, {"dataset_sources": [WEIGHTS, CODE, "someone/prompts"]})
    initialise(project, "jane-doe")
    assert content(project, KERNEL_FILE)["dataset_sources"][2:] == ["someone/prompts"]


def test_init_for_the_prepare_notebook_takes_its_output_for_the_weights_dataset(untouched):
    initialise(untouched, OWNER, "prepare")
    kernel = content(untouched, KERNEL_FILE)
    assert (kernel["dataset_sources"], kernel["kernel_sources"]) == ([CODE], [PREPARE])


def test_init_goes_back_to_the_weights_dataset(untouched):
    initialise(untouched, OWNER, "prepare")
    initialise(untouched, OWNER)
    kernel = content(untouched, KERNEL_FILE)
    assert (kernel["dataset_sources"], kernel["kernel_sources"]) == ([WEIGHTS, CODE], [])


def test_init_attaches_the_train_notebooks_output_and_takes_it_off_again(untouched):
    initialise(untouched, OWNER, "prepare", trained=True)
    assert content(untouched, KERNEL_FILE)["kernel_sources"] == [PREPARE, TRAIN]
    assert read_metadata(untouched).trained is True
    initialise(untouched, OWNER)
    assert content(untouched, KERNEL_FILE)["kernel_sources"] == []
    assert read_metadata(untouched).trained is False


@pytest.mark.parametrize("user", ["", "Jane Doe", "jane/doe", "jane@doe", "your-kaggle-name"])
def test_init_refuses_what_is_no_account(untouched, user):
    with pytest.raises(UserError, match="expected your account's name"):
        initialise(untouched, user)


def test_init_without_a_name_asks_the_clients_environment(untouched, tmp_path, monkeypatch):
    with KaggleServer() as server:
        talk_to(server, tmp_path, monkeypatch)
        monkeypatch.setenv("KAGGLE_USERNAME", "from-environment")
        initialise(untouched, None)
    assert read_metadata(untouched).owner == "from-environment"


def test_init_without_a_name_asks_the_clients_file(untouched, tmp_path, monkeypatch):
    with KaggleServer() as server:
        talk_to(server, tmp_path, monkeypatch)
        monkeypatch.delenv("KAGGLE_USERNAME")
        (tmp_path / "configuration").mkdir(exist_ok=True)
        (tmp_path / "configuration/kaggle.json").write_text('{"username": "from-file", "key": "0"}')
        initialise(untouched, None)
    assert read_metadata(untouched).owner == "from-file"


def test_init_without_a_name_and_without_credentials_says_where_to_get_them(untouched, tmp_path, monkeypatch):
    with KaggleServer() as server:
        talk_to(server, tmp_path, monkeypatch)
        monkeypatch.delenv("KAGGLE_USERNAME")
        with pytest.raises(UserError, match="no Kaggle credentials were found"):
            initialise(untouched, None)


# what is right


def test_the_names_follow_from_the_account(project):
    metadata = read_metadata(project)
    names = (metadata.kernel_id, metadata.weights_id, metadata.code_id, metadata.prepare_id)
    assert names == (KERNEL, WEIGHTS, CODE, PREPARE)
    assert (metadata.train_id, metadata.pairs_id) == (TRAIN, PAIRS)


def test_the_weights_come_from_the_dataset_unless_prepare_is_a_source(project):
    assert read_metadata(project).weights_from_prepare is False


def test_the_weights_come_from_prepare_when_it_is_a_source(project):
    initialise(project, OWNER, "prepare")
    assert read_metadata(project).weights_from_prepare is True


RIGHT = [
    (DATASET_FILE, {"title": "x" * 6}),
    (DATASET_FILE, {"title": "x" * 50}),
    (DATASET_FILE, {"subtitle": "x" * 20}),
    (DATASET_FILE, {"subtitle": "x" * 80}),
    (DATASET_FILE, {"subtitle": None}),
    (KERNEL_FILE, {"id": f"{OWNER}/abcde", "title": "Abcde"}),
    (KERNEL_FILE, {"docker_image": "registry/image", "docker_image_pinning_type": "original"}),
    (KERNEL_FILE, {"model_sources": ["google/gemma/pytorch/2b/1"]}),
    (KERNEL_FILE, {"dataset_sources": [WEIGHTS, CODE, "someone/prompts"]}),
]


@pytest.mark.parametrize(("name", "changes"), RIGHT)
def test_what_the_service_takes_passes(project, name, changes):
    change(project, name, changes)
    assert read_metadata(project).owner == OWNER


# what is wrong

WRONG = [
    (DATASET_FILE, {"isPrivate": True}, "unknown key 'isPrivate', which the client would ignore without a word"),
    (DATASET_FILE, {"id": "image-to-prompts-weights"}, "expected owner/slug"),
    (DATASET_FILE, {"id": f"{OWNER}/image_to_prompts"}, "expected owner/slug"),
    (DATASET_FILE, {"id": None}, "id is None; expected owner/slug"),
    (DATASET_FILE, {"id": f"{OWNER}/short"}, "the id's slug has 5 characters; the service takes 6 to 50"),
    (DATASET_FILE, {"id": f"{OWNER}/{'x' * 51}"}, "the id's slug has 51 characters"),
    (DATASET_FILE, {"title": "x" * 5}, "title has 5 characters; the service takes 6 to 50"),
    (DATASET_FILE, {"title": "x" * 51}, "title has 51 characters"),
    (DATASET_FILE, {"title": None}, "title is None"),
    (DATASET_FILE, {"subtitle": "x" * 19}, "subtitle has 19 characters; the service takes 20 to 80"),
    (DATASET_FILE, {"subtitle": "x" * 81}, "subtitle has 81 characters"),
    (DATASET_FILE, {"licenses": None}, "licenses is None; the service takes exactly one"),
    (DATASET_FILE, {"licenses": []}, "the service takes exactly one"),
    (DATASET_FILE, {"licenses": [{"name": "other"}, {"name": "CC0-1.0"}]}, "the service takes exactly one"),
    (DATASET_FILE, {"licenses": ["other"]}, "the service takes exactly one"),
    (KERNEL_FILE, {"internet": False}, "unknown key 'internet'"),
    (KERNEL_FILE, {"id": f"{OWNER}/abcd", "title": "Abcd"}, "the id's slug has 4 characters; the service takes 5 to"),
    (KERNEL_FILE, {"id": f"{OWNER}/{'x' * 51}", "title": "x" * 51}, "the id's slug has 51 characters"),
    (KERNEL_FILE, {"title": "x" * 51}, "title has 51 characters"),
    (KERNEL_FILE, {"title": "Another title"}, "makes the slug 'another-title', but the id has 'image-to-prompts'"),
    (KERNEL_FILE, {"language": "r"}, 'language is "r"; expected "python"'),
    (KERNEL_FILE, {"kernel_type": "script"}, 'kernel_type is "script"; expected "notebook"'),
    (KERNEL_FILE, {"is_private": False}, "is_private is false; expected true"),
    (KERNEL_FILE, {"enable_gpu": False}, "enable_gpu is false; expected true"),
    (KERNEL_FILE, {"enable_tpu": True}, "enable_tpu is true; expected false"),
    (KERNEL_FILE, {"enable_internet": True}, "enable_internet is true; expected false"),
    (KERNEL_FILE, {"enable_internet": None}, "enable_internet is missing; expected false"),
    (KERNEL_FILE, {"enable_internet": "false"}, 'enable_internet is "false"; expected false'),
    (KERNEL_FILE, {"enable_internet": 0}, "enable_internet is 0; expected false"),
    (KERNEL_FILE, {"machine_shape": "NvidiaTeslaP100"}, 'expected "NvidiaTeslaT4"'),
    (KERNEL_FILE, {"machine_shape": None}, "machine_shape is missing"),
    (KERNEL_FILE, {"docker_image_pinning_type": "newest"}, "the service takes 'original' and 'latest'"),
    (KERNEL_FILE, {"code_file": "notebooks/gone.ipynb"}, "code_file 'notebooks/gone.ipynb' is not there"),
    (KERNEL_FILE, {"dataset_sources": None}, "dataset_sources is None; expected a list"),
    (KERNEL_FILE, {"dataset_sources": [WEIGHTS]}, f"dataset_sources lacks '{CODE}'"),
    (KERNEL_FILE, {"dataset_sources": [CODE]}, f"dataset_sources lacks '{WEIGHTS}'"),
    (KERNEL_FILE, {"dataset_sources": [WEIGHTS, CODE, "datasets/someone/x"]}, "expected 2 parts"),
    (KERNEL_FILE, {"dataset_sources": [WEIGHTS, CODE, "datasets/x"]}, "expected owner/slug without a prefix"),
    (KERNEL_FILE, {"kernel_sources": ["code/x"]}, "expected owner/slug without a prefix"),
    (KERNEL_FILE, {"competition_sources": []}, "competition_sources lacks 'stable-diffusion-image-to-prompts'"),
    (KERNEL_FILE, {"competition_sources": ["c/stable-diffusion-image-to-prompts"]}, "expected 1 parts"),
    (KERNEL_FILE, {"model_sources": ["google/gemma"]}, "expected 5 parts"),
]


@pytest.mark.parametrize(("name", "changes", "said"), WRONG)
def test_what_breaks_a_rule_is_refused_naming_file_and_rule(project, name, changes, said):
    change(project, name, changes)
    refused = refusal(project)
    assert refused.startswith(f"{name}: ") and said in refused


def test_the_other_weights_source_does_not_stand_in_for_the_code(project):
    change(project, KERNEL_FILE, {"dataset_sources": [], "kernel_sources": [PREPARE]})
    assert f"dataset_sources lacks '{CODE}'" in refusal(project)


@pytest.mark.parametrize(
    "notebook",
    ["{}", "not json", '{"metadata": {"kernelspec": {}}}', "[]", '{"metadata": null}', "[" * 100_000],
    ids=["empty", "text", "unnamed", "list", "null", "deep"],
)
def test_a_notebook_without_a_kernelspec_is_refused(project, notebook):
    (project / "notebooks/image_to_prompts.ipynb").write_text(notebook)
    assert "has no metadata.kernelspec.name, so the service cannot run it. Run 'make notebooks'" in refusal(project)


@pytest.mark.parametrize("name", [DATASET_FILE, KERNEL_FILE])
def test_a_missing_file_is_refused_with_where_to_run(project, name):
    (project / name).unlink()
    assert f"{name}: not found; run this in the project's top folder" in refusal(project)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_file_that_is_no_json_object_is_refused(project, text):
    (project / KERNEL_FILE).write_text(text)
    assert f"{KERNEL_FILE}: " in refusal(project)


# the prepare notebook


def test_the_prepare_notebook_is_staged_beside_its_metadata(project, tmp_path):
    stage_prepare(project, read_metadata(project), tmp_path / "prepare")
    kernel = content(tmp_path / "prepare", KERNEL_FILE)
    notebook = (tmp_path / "prepare" / kernel["code_file"]).read_bytes()
    assert notebook == (project / "notebooks/prepare.ipynb").read_bytes()


def test_the_prepare_notebook_has_the_internet_and_the_code_alone(project, tmp_path):
    stage_prepare(project, read_metadata(project), tmp_path / "prepare")
    kernel = content(tmp_path / "prepare", KERNEL_FILE)
    assert (kernel["id"], kernel["enable_internet"], kernel["enable_gpu"]) == (PREPARE, True, True)
    sources = [kernel[f"{kind}_sources"] for kind in ("dataset", "competition", "kernel", "model")]
    assert sources == [[CODE], [], [], []]


@pytest.mark.parametrize("stage", [stage_prepare, stage_train])
def test_the_other_notebooks_titles_make_their_slugs(project, tmp_path, stage):
    from slugify import slugify

    kernel = stage(project, read_metadata(project), tmp_path / "staged")
    assert f"{OWNER}/{slugify(kernel['title'])}" == kernel["id"]


@pytest.mark.parametrize("stage", [stage_prepare, stage_train])
def test_a_missing_notebook_is_refused(project, tmp_path, stage):
    (project / f"notebooks/{stage.__name__.removeprefix('stage_')}.ipynb").unlink()
    with pytest.raises(UserError, match="Run 'make notebooks'"):
        stage(project, read_metadata(project), tmp_path / "staged")


# the train notebook


def test_the_train_notebook_has_two_t4_no_internet_and_every_input_but_the_competition(project, tmp_path):
    change(project, KERNEL_FILE, {"dataset_sources": [WEIGHTS, CODE, "someone/tower"], "kernel_sources": [TRAIN]})
    stage_train(project, read_metadata(project), tmp_path / "train")
    kernel = content(tmp_path / "train", KERNEL_FILE)
    machine = (kernel["id"], kernel["enable_internet"], kernel["enable_gpu"], kernel["machine_shape"])
    assert machine == (TRAIN, False, True, "NvidiaTeslaT4")
    sources = [kernel[f"{kind}_sources"] for kind in ("dataset", "competition", "kernel", "model")]
    assert sources == [[WEIGHTS, CODE, "someone/tower", PAIRS], [], [], []]
    notebook = (tmp_path / "train" / kernel["code_file"]).read_bytes()
    assert notebook == (project / "notebooks/train.ipynb").read_bytes()


def test_the_train_notebook_takes_the_weights_from_where_the_main_one_does(project, tmp_path):
    initialise(project, OWNER, "prepare")
    kernel = stage_train(project, read_metadata(project), tmp_path / "train", goes_on=True)
    assert (kernel["dataset_sources"], kernel["kernel_sources"]) == ([CODE, PAIRS], [PREPARE, TRAIN])

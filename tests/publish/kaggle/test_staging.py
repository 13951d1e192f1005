import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.staging import commit_of, stage_code, stage_dataset, stage_pairs, staged
from tests.training.sets import write_tar

# in parts, so that no file of the project looks like a secret itself
SECRETS = {
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a Kaggle token": "KGAT_" + "0123456789abcdef" * 2,
    "a Kaggle key": '{"username": "someone", "key": "' + "0123456789abcdef" * 2 + '"}',
    "a Hugging Face token": "hf_" + "A" * 34,
    "a GitHub token": "ghp_" + "a1" * 18,
    "an AWS key": "AKIA" + "A" * 16,
}


def test_the_code_is_the_package_without_the_miniature_world_and_the_server(project, tmp_path):
    (project / "kernel" / "miniature").mkdir()
    (project / "kernel" / "miniature" / "world.py").write_text("")
    (project / "kernel" / "__pycache__").mkdir()
    (project / "kernel" / "__pycache__" / "x.pyc").write_text("")
    folder = stage_code(project, tmp_path / "code", "someone").folder
    assert (folder / "kernel" / "pipeline" / "run.py").is_file()
    assert (folder / "kernel" / "evaluation" / "templates" / "report.html").is_file()
    assert not (folder / "kernel" / "miniature").exists() and not (folder / "kernel" / "server").exists()
    assert not list(folder.rglob("*.pyc"))


def test_the_code_names_itself_in_its_marker_and_metadata(project, tmp_path):
    code = stage_code(project, tmp_path / "code", "someone")
    marker = json.loads((code.folder / "image-to-prompts.json").read_text())
    metadata = json.loads((code.folder / "dataset-metadata.json").read_text())
    assert marker["sha256"] == code.sha256
    assert (marker["format"], marker["kind"]) == (1, "code")
    assert metadata["id"] == "someone/image-to-prompts-code"
    assert 20 <= len(metadata["subtitle"]) <= 80


def test_a_changed_line_changes_the_codes_sha256(project, tmp_path):
    before = stage_code(project, tmp_path / "code", "someone").sha256
    assert stage_code(project, tmp_path / "code", "someone").sha256 == before
    (project / "kernel" / "prompts.py").open("a").write("# one line more\n")
    assert stage_code(project, tmp_path / "code", "someone").sha256 != before


def test_what_is_sent_of_the_code_is_under_a_megabyte(project, tmp_path):
    """The client sends each folder as a zip."""
    folder = stage_code(project, tmp_path / "code", "someone").folder
    sent = shutil.make_archive(str(tmp_path / "kernel"), "zip", folder / "kernel")
    assert 2**16 < Path(sent).stat().st_size < 2**20


def test_a_pair_set_travels_as_links_under_a_suffix_that_kaggle_leaves_alone(tmp_path):
    write_tar(tmp_path / "pairs" / "a-000.tar", {"1.png": b"picture", "1.txt": b"a prompt"})
    (tmp_path / "pairs" / "pairs.json").write_text("{}")
    found = stage_pairs(tmp_path / "pairs", tmp_path / "staged", "someone")
    assert [name for name, _ in found.entries] == ["a-000.pairs", "dataset-metadata.json", "pairs.json"]
    assert (found.folder / "a-000.pairs").is_symlink()
    metadata = json.loads((found.folder / "dataset-metadata.json").read_text())
    assert metadata["id"] == "someone/image-to-prompts-pairs" and 20 <= len(metadata["subtitle"]) <= 80
    before = found.sha256
    write_tar(tmp_path / "pairs" / "a-000.tar", {"1.png": b"picture", "1.txt": b"another"})
    assert stage_pairs(tmp_path / "pairs", tmp_path / "staged", "someone").sha256 != before


def test_a_folder_without_tars_is_no_pair_set_to_send(tmp_path):
    with pytest.raises(UserError, match="holds no tar; expected a pair set as 'python -m kernel publish pairs'"):
        stage_pairs(tmp_path, tmp_path / "staged", "someone")


def test_the_dataset_has_large_files_single_and_small_ones_in_folders(project, tmp_path, weights_folder):
    staged_dataset = stage_dataset(project, weights_folder, project / "wheels", tmp_path / "dataset")
    names = {name for name, _ in staged_dataset.entries}
    assert {"captioners--blip2--model.safetensors", "clip--open_clip_model.safetensors", "manifest.json"} <= names
    assert {"captioners--blip2", "sentences--1_Pooling", "wheels", "dataset-metadata.json"} <= names
    assert all(path.parent == staged_dataset.folder for path in staged_dataset.folder.rglob("*.safetensors"))


def test_large_files_are_not_copied(project, tmp_path, weights_folder):
    folder = stage_dataset(project, weights_folder, project / "wheels", tmp_path / "dataset").folder
    assert (folder / "sentences--model.safetensors").is_symlink()


def test_damaged_weights_are_not_staged(project, tmp_path, weights_folder):
    own = shutil.copytree(weights_folder, tmp_path / "weights")
    (own / "prior.txt").write_text("changed\n")
    with pytest.raises(UserError, match="prior.txt"):
        stage_dataset(project, own, project / "wheels", tmp_path / "dataset")


def test_a_dataset_without_wheels_is_refused(project, tmp_path, weights_folder):
    for wheel in (project / "wheels").glob("*.whl"):
        wheel.unlink()
    with pytest.raises(UserError, match="holds no wheels.*make wheels"):
        stage_dataset(project, weights_folder, project / "wheels", tmp_path / "dataset")


@pytest.mark.parametrize(("kind", "text"), SECRETS.items())
def test_a_secret_in_a_file_is_refused_and_not_shown(tmp_path, kind, text):
    (tmp_path / "notes.txt").write_text(f"remember {text} please")
    with pytest.raises(UserError, match=rf"'notes.txt' looks like a secret \({kind}\)") as caught:
        staged(tmp_path, "")
    assert text not in str(caught.value)


@pytest.mark.parametrize("name", ["kaggle.json", ".env", "id_rsa", "server.pem", "kernel/.netrc"])
def test_a_file_named_like_a_secret_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="looks like a secret"):
        staged(tmp_path, "")


@pytest.mark.parametrize("name", ["torch-2.10.0+cu128.whl", "a~b.txt", "größe.txt", "folder/é.txt"])
def test_a_name_that_kaggle_changes_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="which Kaggle strips.*Rename"):
        staged(tmp_path, "")


@pytest.mark.parametrize("name", ["ftfy-6.3.1.tar.gz", "a.zip", "folder/words.txt.gz"])
def test_an_archive_that_kaggle_unpacks_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="archive, which Kaggle unpacks"):
        staged(tmp_path, "")


def test_fifty_top_level_entries_pass_and_one_more_is_refused(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text("")
    assert len(staged(tmp_path, "").entries) == 50
    (tmp_path / "one more.txt").write_text("")
    with pytest.raises(UserError, match="51 top-level files and folders; Kaggle takes 50"):
        staged(tmp_path, "")


def test_a_folders_size_is_that_of_its_files(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("12345")
    (tmp_path / "b.txt").write_text("123")
    assert staged(tmp_path, "").entries == [("b.txt", 3), ("folder", 5)]


def test_the_commit_has_a_plus_when_files_differ_from_it(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = commit_of(tmp_path)
    (tmp_path / "new.txt").write_text("")
    assert len(clean) == 40
    assert commit_of(tmp_path) == clean + "+"


def test_outside_a_repository_there_is_no_commit(tmp_path):
    assert commit_of(tmp_path) is None

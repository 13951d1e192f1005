"""Installed versions against what is declared, and on Kaggle against the image that the wheels were checked on."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kernel.errors import UserError
from kernel.publish.kaggle.staging import stage_code
from kernel.system import versions
from kernel.system.kaggle_image import exact_version, logical_lines, read_image
from kernel.system.versions import DECLARED, IMAGE_RECORD, check_versions
from tests.conftest import ROOT

IMAGE = "gcr.io/kaggle-gpu-images/python@sha256:0"


@pytest.fixture
def recorded() -> dict[str, str | None]:
    """What the notebook finds on the recorded image once its wheels are installed; of what is there in a version that
    nobody has looked up, the lowest that is declared."""
    image = read_image(IMAGE_RECORD)
    there = {name: version or DECLARED.get(name, "").removeprefix(">=") for name, version in image.packages.items()}
    lines = logical_lines((ROOT / "wheels" / "requirements.txt").read_text())
    wheels = [Requirement(line.partition("--hash")[0]) for _, line in lines]
    return {"python": image.python, **there, **{wheel.name: exact_version(wheel) for wheel in wheels}}


@pytest.fixture
def on_kaggle(monkeypatch, recorded) -> dict[str, str | None]:
    """The recorded image, to be changed."""
    monkeypatch.setenv("KAGGLE_DOCKER_IMAGE", IMAGE)
    monkeypatch.setattr(versions, "installed", recorded.get)
    return recorded


def test_the_declared_ranges_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {own.name: own.specifier for own in map(Requirement, project["dependencies"])}
    ranges["python"] = SpecifierSet(project["requires-python"])
    assert {name: SpecifierSet(declared) for name, declared in DECLARED.items()} == {
        name: ranges[name] for name in DECLARED
    }


def test_the_record_of_the_image_travels_beside_the_package(tmp_path):
    """The code dataset is where the notebook imports `kernel` from."""
    stage_code(ROOT, tmp_path / "code", "someone")
    (package,) = tmp_path.rglob("versions.py")
    there = package.parents[2] / IMAGE_RECORD.relative_to(ROOT)
    assert there.read_bytes() == IMAGE_RECORD.read_bytes()
    assert (package.parent / "kaggle_image.py").is_file()


def test_what_is_installed_here_is_what_was_declared(monkeypatch):
    monkeypatch.delenv("KAGGLE_DOCKER_IMAGE", raising=False)
    assert check_versions() == []


def test_the_recorded_image_with_its_wheels_raises_no_doubt(on_kaggle):
    assert set(DECLARED) <= {name for name, version in on_kaggle.items() if version}
    assert check_versions() == []


def test_versions_outside_the_declared_ranges_are_refused_all_in_one_line(on_kaggle):
    on_kaggle.update({"torch": "2.5.1+cu121", "transformers": "6.0.0", "open_clip_torch": None, "python": "3.14.0"})
    with pytest.raises(UserError) as refused:
        check_versions()
    said = str(refused.value)
    assert "torch 2.5.1+cu121 (expected >=2.6)" in said and "transformers 6.0.0 (expected >=5.0,<6)" in said
    assert "open_clip_torch is not installed (expected >=3.2,<4)" in said and "python 3.14.0" in said
    assert "numpy" not in said and "\n" not in said and "Run 'make setup'" in said


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions.installed("torch") is None


@pytest.mark.parametrize("version", ["2.6.0", "2.11.0a0+git1234", "2.12.0.dev20261101+cu130", "3.0"])
def test_previews_within_a_range_are_taken(on_kaggle, monkeypatch, version):
    monkeypatch.delenv("KAGGLE_DOCKER_IMAGE")
    on_kaggle["torch"] = version
    assert check_versions() == []


def test_other_versions_on_kaggle_are_one_warning(on_kaggle):
    on_kaggle.update({"torch": "2.11.0+cu130", "pandas": "3.0.0"})
    (warning,) = check_versions()
    assert warning.startswith(f"this image ({IMAGE}) holds torch 2.11.0+cu130 (checked: 2.10.0+cu128), pandas 3.0.0 ")
    assert "numpy" not in warning and "\n" not in warning and "publish push --pin" in warning


def test_the_same_torch_for_another_cuda_is_no_other_version(on_kaggle):
    on_kaggle["torch"] = "2.10.0+cu126"
    assert check_versions() == []


@pytest.mark.parametrize("content", [None, "torch==2.10.0\n"])
def test_without_a_record_that_can_be_read_it_is_said_that_nothing_was_compared(on_kaggle, tmp_path, content):
    record = tmp_path / "kaggle-image.txt"
    if content is not None:
        record.write_text(content)
    (warning,) = check_versions(record)
    assert warning.startswith("versions were not compared") and str(record) in warning


def test_a_version_that_is_none_is_a_warning(on_kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_DOCKER_IMAGE")
    on_kaggle["numpy"] = "from source"
    assert check_versions() == ["numpy: its version 'from source' cannot be compared with >=2.0"]


def test_nothing_heavy_is_imported_for_it():
    script = "import sys; from kernel.system.versions import check_versions; check_versions(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {"torch", "transformers", "open_clip", "sentence_transformers", "pandas"}.isdisjoint(done.stdout.split())


def test_comparing_with_the_image_imports_nothing_of_publish():
    code = (
        "import sys; from kernel.system.versions import check_versions; check_versions(); "
        "print([name for name in sys.modules if name.startswith('kernel.publish')])"
    )
    environment = {**os.environ, "KAGGLE_DOCKER_IMAGE": IMAGE}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

import pytest

from kernel.errors import UserError
from kernel.publish.rehearsal import image_python as rehearsal_python
from kernel.publish.rehearsal.image_python import base_python, image_python, installed_versions
from kernel.system.kaggle_image import Image

IMAGE = "# image: gcr.io/kaggle-gpu-images/python@sha256:0\n# python: {python}.0\n{packages}"


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Writes the record of an image of one small package; the notebook's own packages are left out."""
    monkeypatch.setattr(rehearsal_python, "NOTEBOOK_PACKAGES", [])
    (tmp_path / "wheels").mkdir()
    python = "{}.{}".format(*rehearsal_python.sys.version_info)

    def write(packages):
        (tmp_path / "wheels" / "kaggle-image.txt").write_text(IMAGE.format(python=python, packages=packages))
        return tmp_path

    return write


def test_the_environment_has_the_images_exact_versions_and_nothing_it_does_not_use(tmp_path, image):
    python = image_python(image("wcwidth==0.2.13+local\nsome-package-nobody-has==1.0\n"), tmp_path / "python")
    versions = installed_versions(python)
    assert versions["wcwidth"] == "0.2.13"
    assert "torch" not in versions


def test_it_is_built_once_and_again_for_another_version(tmp_path, image, capfd):
    project = image("wcwidth==0.2.12\n")
    image_python(project, tmp_path / "python")
    capfd.readouterr()
    image_python(project, tmp_path / "python")
    assert capfd.readouterr().err == ""
    python = image_python(image("wcwidth==0.2.13\n"), tmp_path / "python")
    assert installed_versions(python)["wcwidth"] == "0.2.13"


def test_a_version_that_cannot_be_had_is_told(tmp_path, image):
    with pytest.raises(UserError, match="could not be built.*--this-python"):
        image_python(image("wcwidth==0.0.0.1\n"), tmp_path / "python")


def test_without_the_images_python_this_one_serves():
    assert base_python(Image("2.99.0", "", {})).name.startswith("python")
    assert installed_versions(base_python(Image("2.99.0", "", {})))["python"] != "2.99.0"

import re
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.system.kaggle_image import Image, read_image

HEADERS = "# image: gcr.io/kaggle-gpu-images/python@sha256:37c6\n# python: 3.12.13\n"
COMMITTED = Path(__file__).parents[2] / "wheels" / "kaggle-image.txt"


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> Image:
        (tmp_path / "image.txt").write_text(text, encoding="utf-8")
        return read_image(tmp_path / "image.txt")

    return read


@pytest.fixture
def refusal(read):
    def refusal(text: str) -> str:
        with pytest.raises(UserError) as refused:
            read(text)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    return refusal


def test_the_headers_give_python_and_image(read):
    assert read(HEADERS) == Image("3.12.13", "gcr.io/kaggle-gpu-images/python@sha256:37c6", {})


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("numpy==2.0.2", {"numpy": "2.0.2"}),
        ("  numpy == 2.0.2  ", {"numpy": "2.0.2"}),
        ("numpy==2.0.2  # reported", {"numpy": "2.0.2"}),
        ("torch==2.10.0+cu128", {"torch": "2.10.0+cu128"}),
        ("Huggingface_Hub==1.11.0", {"huggingface-hub": "1.11.0"}),
        ("regex", {"regex": None}),
        ("regex>=2024", {"regex": None}),
        ("regex==2024.*", {"regex": None}),
        ("regex===2004d", {"regex": None}),
        ("torch @ https://somewhere/torch-2.10.0%2Bcu128-cp312-cp312-linux_x86_64.whl#sha256=3f", {"torch": None}),
        ("pandas @ file:///tmp/build/pandas", {"pandas": None}),
        ("-e git+https://somewhere/learn.git@3f2a#egg=learn_tools", {"learn-tools": None}),
        ("-e git+https://somewhere/learn.git@3f2a#egg=learn_tools&subdirectory=a", {"learn-tools": None}),
        ("# Editable install with no version control (learn==1.0)\n-e /src/learn", {}),
        ("", {}),
    ],
)
def test_a_line_of_pip_freeze_gives_the_package_and_what_is_known_of_its_version(read, line, packages):
    assert read(f"{HEADERS}{line}\n").packages == packages


def test_the_same_line_twice_is_one_package(read):
    assert read(HEADERS + "numpy==2.0.2\nnumpy==2.0.2\n").packages == {"numpy": "2.0.2"}


def test_two_versions_of_a_package_are_refused_with_both(refusal):
    assert "line 4: numpy is 2.1 here and 2.0.2 above" in refusal(HEADERS + "numpy==2.0.2\nNumPy==2.1\n")


@pytest.mark.parametrize("line", ["numpy 2.0.2", "Package    Version", "==2.0", "numpy==", "<html>"])
def test_a_line_that_names_no_package_is_refused_with_its_number(refusal, line):
    assert f"line 3: found {line!r}, expected NAME==VERSION or NAME" in refusal(f"{HEADERS}{line}\n")


@pytest.mark.parametrize("text", ["", "# python: 3.12\n", "# python 3.12.13\n", "python: 3.12.13\n"])
def test_a_missing_python_is_refused(refusal, text):
    assert "no line like '# python: 3.12.13'" in refusal(HEADERS.splitlines()[0] + "\n" + text)


def test_a_missing_image_is_refused(refusal):
    assert "no line like '# image: NAME@sha256:...'" in refusal("# python: 3.12.13\nnumpy==2.0.2\n")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        read_image(tmp_path / "gone.txt")


def test_the_committed_record_is_of_a_python_3_12_image_named_by_its_digest():
    image = read_image(COMMITTED)
    assert image.python.startswith("3.12.")
    assert re.fullmatch(r"gcr\.io/kaggle-gpu-images/python@sha256:[0-9a-f]{64}", image.digest)


def test_the_committed_record_lacks_what_the_image_lacks():
    assert not {"open-clip-torch", "ftfy"} & set(read_image(COMMITTED).packages)

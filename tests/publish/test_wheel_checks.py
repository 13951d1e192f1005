import pytest

from kernel.publish.wheels import check_wheels
from kernel.system.kaggle_image import Image
from tests.publish.wheel_files import make_wheel

IMAGE = Image("3.12.13", "image@sha256:0", {"torch": "2.10.0+cu128", "numpy": "2.0.2", "tqdm": None})

# the files


def test_a_pure_wheel_without_requirements_fits(tmp_path):
    make_wheel(tmp_path)
    assert check_wheels(tmp_path, IMAGE) == []


def test_the_folders_own_text_files_are_no_problem(tmp_path):
    for name in ("requirements.txt", "kaggle-image.txt", "README.md"):
        (tmp_path / name).touch()
    assert check_wheels(tmp_path, IMAGE) == []


@pytest.mark.parametrize("name", ["thing-1.0.tar.gz", "thing-1.0.zip", "thing-1.0.tar.bz2", "thing-1.0.TAR.GZ"])
def test_an_sdist_is_refused_since_kaggle_unpacks_it(tmp_path, name):
    (tmp_path / name).touch()
    assert check_wheels(tmp_path, IMAGE) == [
        f"{name}: Kaggle unpacks archives, so pip could not read it there. Ship a wheel instead"
    ]


@pytest.mark.parametrize(
    "name", ["thing-1.0+cu126-py3-none-any.whl", "thing~1-1.0-py3-none-any.whl", "größe-1.0-py3-none-any.whl"]
)
def test_a_name_that_kaggle_strips_is_refused(tmp_path, name):
    make_wheel(tmp_path, name)
    assert f"{name!a}: Kaggle strips '+', '~' and what is not ASCII" in check_wheels(tmp_path, IMAGE)[0]


def test_a_name_that_is_no_wheels_is_refused(tmp_path):
    make_wheel(tmp_path, "thing-1.0.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.startswith("thing-1.0.whl: not a readable wheel")


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_holds_no_wheel_is_refused(tmp_path, content):
    (tmp_path / "thing-1.0-py3-none-any.whl").write_bytes(content)
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.startswith("thing-1.0-py3-none-any.whl: not a readable wheel")


@pytest.mark.parametrize("line", ["Requires-Dist: numpy >>2", "Requires-Python: three"])
def test_metadata_that_cannot_be_read_is_refused(tmp_path, line):
    make_wheel(tmp_path, lines=line)
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.startswith("thing-1.0-py3-none-any.whl: not a readable wheel")


@pytest.mark.parametrize("inside", ["torch-1.0", "thing-1.1", "thing-1.0+cu126"])
def test_a_renamed_wheel_is_refused_with_what_is_inside(tmp_path, inside):
    make_wheel(tmp_path, inside=inside)
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert f"its METADATA is of {inside.replace('-', ' ')}" in problem


def test_a_wheel_of_torch_is_refused(tmp_path):
    make_wheel(tmp_path, "torch-2.10.0-py3-none-any.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.startswith("torch-2.10.0-py3-none-any.whl: torch is never shipped")


@pytest.mark.parametrize(
    ("name", "held"), [("numpy-2.3.0-py3-none-any.whl", "2.0.2"), ("tqdm-4.67-py3-none-any.whl", "version unknown")]
)
def test_a_wheel_that_would_replace_the_images_own_package_is_refused(tmp_path, name, held):
    make_wheel(tmp_path, name)
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert f"{name}: would replace the image's own {name.split('-')[0]} ({held})" in problem


def test_a_wheel_of_the_version_that_the_image_holds_does_no_harm(tmp_path):
    make_wheel(tmp_path, "numpy-2.0.2-py3-none-any.whl")
    assert check_wheels(tmp_path, IMAGE) == []


def test_two_wheels_of_one_package_are_refused(tmp_path):
    make_wheel(tmp_path, "thing-1.0-py3-none-any.whl")
    make_wheel(tmp_path, "thing-1.1-py3-none-any.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem == "thing-1.1-py3-none-any.whl and thing-1.0-py3-none-any.whl: both are thing. Keep one"


# Python and platform


@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "py2.py3-none-any",
        "py312-none-any",
        "cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp312-abi3-manylinux_2_35_x86_64",
        "py3-none-manylinux1_x86_64",
        "py3-none-linux_x86_64",
    ],
)
def test_a_wheel_for_both_pythons_on_the_images_platform_fits(tmp_path, tag):
    make_wheel(tmp_path, f"thing-1.0-{tag}.whl")
    assert check_wheels(tmp_path, IMAGE) == []


@pytest.mark.parametrize(
    "tag",
    [
        "py2-none-any",
        "py314-none-any",
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp314-abi3-manylinux_2_17_x86_64",
        "cp312-abi3-manylinux_2_36_x86_64",
        "cp312-abi3-manylinux_2_17_aarch64",
        "cp312-abi3-musllinux_1_2_x86_64",
        "py3-none-macosx_11_0_arm64",
        "py3-none-win_amd64",
    ],
)
def test_a_wheel_for_neither_python_or_another_platform_is_refused_with_its_tag(tmp_path, tag):
    make_wheel(tmp_path, f"thing-1.0-{tag}.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert f"is built for {tag}, not for x86_64 Linux with glibc 2.35" in problem
    assert problem.endswith("(Python 3.12, 3.13)")


@pytest.mark.parametrize(
    ("tag", "python"),
    [("cp312-cp312-manylinux_2_17_x86_64", "3.13"), ("cp313-cp313-manylinux_2_17_x86_64", "3.12")],
)
def test_a_wheel_for_one_python_is_refused_for_the_other(tmp_path, tag, python):
    make_wheel(tmp_path, f"thing-1.0-{tag}.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.endswith(f"(Python {python})")


@pytest.mark.parametrize(
    ("required", "pythons"),
    [(">=3.13", "(Python 3.12)"), ("<3.13", "(Python 3.13)"), ("<3.12", "(Python 3.12, 3.13)")],
)
def test_a_wheel_that_requires_another_python_is_refused_for_it(tmp_path, required, pythons):
    make_wheel(tmp_path, lines=f"Requires-Python: {required}")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert f"requires Python {required}, so pip would refuse it" in problem and problem.endswith(pythons)


def test_the_images_own_release_of_python_is_what_counts(tmp_path):
    make_wheel(tmp_path, lines="Requires-Python: >=3.12.5")
    assert check_wheels(tmp_path, IMAGE) == []


def test_an_image_of_another_python_is_checked_for_it_too(tmp_path):
    make_wheel(tmp_path, lines="Requires-Python: <3.14")
    (problem,) = check_wheels(tmp_path, Image("3.14.2", "image@sha256:0", {}))
    assert problem.endswith("(Python 3.14)")


# requirements


@pytest.mark.parametrize("requirement", ["numpy", "NumPy>=2", "torch>=2.10", "torch==2.10.0", "tqdm"])
def test_a_requirement_that_the_image_meets_is_no_problem(tmp_path, requirement):
    make_wheel(tmp_path, lines=f"Requires-Dist: {requirement}")
    assert check_wheels(tmp_path, IMAGE) == []


def test_a_requirement_that_another_wheel_meets_is_no_problem(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: Other_Thing>=2")
    make_wheel(tmp_path, "other_thing-2.0-py3-none-any.whl")
    assert check_wheels(tmp_path, IMAGE) == []


def test_a_missing_requirement_is_named_with_who_needs_it(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: missing>=1")
    assert check_wheels(tmp_path, IMAGE) == [
        "thing-1.0-py3-none-any.whl needs missing>=1, which neither the image nor the wheels hold. "
        "Pin it in requirements.txt (Python 3.12, 3.13)"
    ]


def test_a_conflict_with_the_image_is_named_with_both_sides(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: numpy>=2.1")
    assert check_wheels(tmp_path, IMAGE) == [
        "thing-1.0-py3-none-any.whl needs numpy>=2.1, but the image holds numpy 2.0.2: they conflict. "
        "Take a release that fits (Python 3.12, 3.13)"
    ]


def test_a_conflict_with_another_wheel_is_named_with_both_sides(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: other<2")
    make_wheel(tmp_path, "other-2.0-py3-none-any.whl")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert "thing-1.0-py3-none-any.whl needs other<2, but other-2.0-py3-none-any.whl: they conflict" in problem


def test_a_version_asked_of_a_package_of_unknown_version_cannot_be_checked(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: tqdm>=4")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert "needs tqdm>=4, which cannot be checked: record the image's version of tqdm in kaggle-image.txt" in problem


def test_an_extra_asked_of_another_package_cannot_be_checked(tmp_path):
    make_wheel(tmp_path, lines="Requires-Dist: numpy[fast]")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert "needs numpy with the extra fast, which cannot be checked" in problem


@pytest.mark.parametrize(
    "marker",
    ['extra == "training"', 'sys_platform == "win32"', 'platform_machine == "aarch64"', 'python_version < "3.12"'],
)
def test_a_requirement_of_another_place_or_extra_is_passed_over(tmp_path, marker):
    make_wheel(tmp_path, lines=f"Requires-Dist: missing; {marker}")
    assert check_wheels(tmp_path, IMAGE) == []


@pytest.mark.parametrize(
    ("marker", "pythons"),
    [
        ('python_version >= "3.13"', "(Python 3.13)"),
        ('python_full_version < "3.13"', "(Python 3.12)"),
        ('sys_platform == "linux" and platform_python_implementation == "CPython"', "(Python 3.12, 3.13)"),
    ],
)
def test_a_requirement_of_some_pythons_is_checked_for_these(tmp_path, marker, pythons):
    make_wheel(tmp_path, lines=f"Requires-Dist: missing; {marker}")
    (problem,) = check_wheels(tmp_path, IMAGE)
    assert problem.endswith(pythons)

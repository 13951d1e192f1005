import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish import wheels
from kernel.publish.wheels import fill_wheels, read_requirements
from kernel.system.files import file_sha256
from tests.publish.wheel_files import make_wheel

ROOT = Path(__file__).parents[2]
IMAGE_LINES = "# image: image@sha256:0\n# python: 3.12.13\ntorch==2.10.0+cu128\nnumpy==2.0.2\ntqdm\n"


def pin(wheel: Path) -> str:
    project, version = wheel.name.split("-")[:2]
    return f"{project}=={version} --hash=sha256:{file_sha256(wheel)}\n"


# requirements.txt


@pytest.mark.parametrize(
    "line",
    [
        "thing",
        "thing==1.0",
        "thing>=1.0 --hash=sha256:" + "0" * 64,
        "thing==1.* --hash=sha256:" + "0" * 64,
        "thing --hash=sha256:" + "0" * 64,
        "thing==1.0 --hash=sha256:00",
        "thing==1.0 --hash=md5:" + "0" * 32,
        "thing==1.0 --hash=sha256:" + "0" * 64 + " --pre",
        "--index-url=somewhere",
        "-r other.txt",
    ],
)
def test_a_line_that_pins_no_file_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"# comment\n{line}\n")
    with pytest.raises(UserError, match="requirements.txt, line 2: found .*, expected NAME==VERSION --hash=sha256"):
        read_requirements(tmp_path / "requirements.txt")


@pytest.mark.parametrize("end", ["\n", "", " \\\n"])
def test_hashes_may_stand_on_lines_of_their_own(tmp_path, end):
    one, other = "0" * 64, "1" * 64
    lines = f"a==1.0 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{other}\nb==2.0 --hash=sha256:{other}{end}"
    (tmp_path / "requirements.txt").write_text(lines)
    pins = read_requirements(tmp_path / "requirements.txt")
    assert [(pin.name, str(pin.version), pin.sha256s) for pin in pins] == [
        ("a", "1.0", {one, other}),
        ("b", "2.0", {other}),
    ]


def test_torch_is_refused_before_anything_is_fetched(tmp_path):
    (tmp_path / "requirements.txt").write_text("Torch==2.10.0 --hash=sha256:" + "0" * 64)
    with pytest.raises(UserError, match="line 1: torch is never shipped"):
        read_requirements(tmp_path / "requirements.txt")


def test_requirements_without_a_pin_are_refused(tmp_path):
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="pins no wheel"):
        read_requirements(tmp_path / "requirements.txt")


# filling wheels/, with the real pip


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that is all that pip can fetch from."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


@pytest.fixture
def project(tmp_path, shelf) -> Path:
    """A project that pins thing 1.0, which is on the shelf."""
    folder = tmp_path / "project" / "wheels"
    folder.mkdir(parents=True)
    (folder / "kaggle-image.txt").write_text(IMAGE_LINES)
    (folder / "requirements.txt").write_text(pin(make_wheel(shelf)))
    return folder.parent


def contents(project: Path) -> set[str]:
    return {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}


TEXTS = {"wheels/kaggle-image.txt", "wheels/requirements.txt"}


def refusal(project: Path) -> str:
    with pytest.raises(UserError) as refused:
        fill_wheels(project)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_pinned_wheel_is_fetched(project, shelf):
    (wheel,) = fill_wheels(project)
    assert wheel.read_bytes() == (shelf / wheel.name).read_bytes()
    assert contents(project) == {*TEXTS, "wheels/thing-1.0-py3-none-any.whl"}


def test_what_a_wheel_requires_is_not_fetched(project, shelf):
    (project / "wheels" / "requirements.txt").write_text(pin(make_wheel(shelf, lines="Requires-Dist: numpy")))
    make_wheel(shelf, "numpy-2.0.2-py3-none-any.whl")
    assert [path.name for path in fill_wheels(project)] == ["thing-1.0-py3-none-any.whl"]


def test_a_second_run_fetches_nothing(project, shelf):
    first = fill_wheels(project)
    shutil.rmtree(shelf)
    assert fill_wheels(project) == first


def test_two_at_once_wait_for_each_other(project, shelf, monkeypatch):
    fill_wheels(project)
    within, go_on, check = threading.Event(), threading.Event(), wheels.check_wheels
    seen: list[int] = []

    def slow(folder, image):
        seen.append(len(list(folder.glob("*.whl"))))
        within.set()
        assert go_on.wait(60)
        return check(folder, image)

    monkeypatch.setattr(wheels, "check_wheels", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fill_wheels, project)
        assert within.wait(60)
        second = pool.submit(fill_wheels, project)
        time.sleep(0.3)  # for one that did not wait to do its harm
        assert seen == [1]
        go_on.set()
        assert first.result() == second.result() and seen == [1, 1]


def test_without_the_wheel_on_the_shelf_pips_words_are_told(project, shelf):
    shutil.rmtree(shelf)
    assert "'pip download' failed: Could not find a version that satisfies" in refusal(project)


def test_a_damaged_wheel_is_fetched_again(project, shelf):
    (wheel,) = fill_wheels(project)
    wheel.write_bytes(b"damaged")
    fill_wheels(project)
    assert wheel.read_bytes() == (shelf / wheel.name).read_bytes()


def test_wheels_that_are_no_longer_pinned_are_removed(project):
    make_wheel(project / "wheels", "older-1.0-py3-none-any.whl")
    fill_wheels(project)
    assert contents(project) == {*TEXTS, "wheels/thing-1.0-py3-none-any.whl"}


def test_another_sha256_than_the_pinned_one_is_refused(project, shelf):
    make_wheel(shelf, lines="Summary: tampered")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refusal(project)


def test_an_sdist_is_never_fetched(project, shelf):
    source = shelf / "other-1.0.tar.gz"
    source.write_bytes(b"")
    (project / "wheels" / "requirements.txt").write_text(f"other==1.0 --hash=sha256:{file_sha256(source)}\n")
    assert "Could not find a version that satisfies the requirement other==1.0" in refusal(project)


def test_a_wheel_that_does_not_fit_is_refused_and_nothing_changes(project, shelf):
    fill_wheels(project)
    before = contents(project)
    wheel = make_wheel(shelf, "other-1.0-py3-none-any.whl", "Requires-Dist: missing")
    (project / "wheels" / "requirements.txt").write_text(pin(wheel))
    assert "other-1.0-py3-none-any.whl needs missing, which neither" in refusal(project)
    assert contents(project) == before


def test_an_sdist_that_lies_among_the_wheels_is_refused(project):
    (project / "wheels" / "thing-1.0.tar.gz").touch()
    assert "thing-1.0.tar.gz: Kaggle unpacks archives" in refusal(project)


def test_the_wheels_are_for_the_images_python_and_not_for_this_one(project, shelf):
    wheel = make_wheel(shelf, "other-1.0-cp312-abi3-manylinux_2_28_x86_64.whl")
    (project / "wheels" / "requirements.txt").write_text(pin(wheel))
    assert [path.name for path in fill_wheels(project)] == [wheel.name]


def test_a_run_that_was_killed_does_no_harm_to_the_next(project):
    (project / ".wheels.tmp").mkdir()
    (project / ".wheels.tmp" / "half.whl").touch()
    fill_wheels(project)
    assert contents(project) == {*TEXTS, "wheels/thing-1.0-py3-none-any.whl"}


# the real requirements


@pytest.fixture(scope="module")
def real_wheels(tmp_path_factory) -> Path:
    """wheels/ as pip fills it from the registry for the committed pins."""
    project = tmp_path_factory.mktemp("project")
    (project / "wheels").mkdir()
    for name in ("requirements.txt", "kaggle-image.txt"):
        shutil.copy(ROOT / "wheels" / name, project / "wheels")
    fill_wheels(project)
    return project / "wheels"


def test_the_committed_pins_give_the_two_wheels_that_the_image_lacks(real_wheels):
    assert {path.name for path in real_wheels.glob("*.whl")} == {
        "ftfy-6.3.1-py3-none-any.whl",
        "open_clip_torch-3.3.0-py3-none-any.whl",
    }


def test_open_clip_and_ftfy_work_from_their_wheels_alone(real_wheels, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*command, *map(str, real_wheels.glob("*.whl"))], check=True)
    program = "import ftfy, open_clip; open_clip.tokenize(['a cat']); print(ftfy.__file__); print(open_clip.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / name / "__init__.py") for name in ("ftfy", "open_clip")]

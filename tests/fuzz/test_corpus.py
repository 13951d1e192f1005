"""Every file that `make fuzz` found something with, and the valid ones that it starts from, through its target."""

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

FILES = [(target, path) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


def test_every_target_has_files_to_start_from():
    assert {target for target, _ in FILES} == set(TARGETS)


@pytest.mark.parametrize(("target", "path"), FILES, ids=[f"{target}-{path.name}" for target, path in FILES])
def test_a_file_is_read_or_said_to_be_wrong(tmp_path, target, path):
    TARGETS[target](tmp_path, path.read_bytes())

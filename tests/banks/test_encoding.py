"""A bank under way; what is made of its shards is tested by whole builds."""

import pytest

from kernel.banks.build import BUILDING, IDENTITY, open_building
from kernel.errors import UserError


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]"])
def test_a_damaged_record_of_a_build_says_what_to_remove(tmp_path, content):
    (tmp_path / BUILDING).mkdir()
    (tmp_path / BUILDING / IDENTITY).write_bytes(content)
    with pytest.raises(UserError, match=f"{IDENTITY}: not what a build is of .* Remove the folder in which it lies"):
        open_building(tmp_path, {})

"""What is no file is refused at once, whatever its name says, and a file is read up to its bound."""

import os
import socket
from pathlib import Path

import pytest

from kernel.system.opening import open_file, read_whole


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "link to a device"])
def test_what_is_no_file_is_refused_in_words_and_never_waited_for(tmp_path, kind):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.png"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(path))
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError) as refused:
        open_file(path)
    assert refused.value.strerror == f"a {kind.split()[-1] if 'device' in kind else kind}, not a file"


@pytest.mark.parametrize(("name", "kind"), [("nothing", FileNotFoundError), (".", IsADirectoryError)])
def test_what_is_not_there_or_a_folder_is_the_systems_own_error(tmp_path, name, kind):
    with pytest.raises(kind):
        read_whole(tmp_path / name, 10)


def test_a_file_is_read_up_to_its_bound_and_refused_beyond(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a" * 2**20)
    assert read_whole(path, 2**20) == b"a" * 2**20
    path.write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(OSError) as refused:
        read_whole(path, 2**20)
    assert refused.value.strerror == "more than 1 MiB"

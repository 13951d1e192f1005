"""A place for progress that cannot take it: nothing else fails for that."""

import errno
from dataclasses import replace

import pytest

import kernel
from kernel.config import RECIPES, Paths
from kernel.pipeline.run import run

RECIPE = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1)


class Broken:
    """A terminal that is gone."""

    encoding = "ascii"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return False


ERRORS = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    UnicodeEncodeError("ascii", "█", 0, 1, "ordinal not in range"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_whose_progress_nobody_takes_ends_well(image_folder, weights_folder, tmp_path, monkeypatch, error):
    monkeypatch.setattr("sys.stderr", Broken(error))
    content = run(RECIPE, Paths(image_folder, weights_folder, tmp_path / "run"), "cpu", limit=2)
    monkeypatch.undo()
    assert content["problems"] == [] and content["captioners"] == {"blip2": 2}


@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_who_takes_the_records_of_describe_fails_by_himself(image_folder, weights_folder, tmp_path, error, device):
    from kernel.interrogator.request import Request
    from kernel.pipeline.describe import Means, describe

    def tell(record):
        raise error

    with pytest.raises(type(error)) as raised:
        describe([image_folder], Request("fast", features=str(tmp_path)), weights_folder, Means(device=device), tell)
    assert raised.value is error
    assert kernel.describe(image_folder, weights=weights_folder, features=tmp_path, top=1)  # it can be asked again

"""The machine's clock is set in the middle of a run: the deadline holds, and no time is negative."""

import time
from dataclasses import replace

from kernel.config import RECIPES, Paths
from kernel.models.clip import ClipEncoder
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission
from kernel.system.deadline import Deadline

FAST = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1)
HOURS = 3600.0


def test_a_clock_set_back_during_a_run_gives_it_no_time(image_folder, weights_folder, tmp_path, monkeypatch):
    """The captions' share of the time is over once CLIP is done; by the clock on the wall there would be hours."""
    deadline = Deadline.after(HOURS, time.time())
    really_encode, really_now = ClipEncoder.encode_images, time.time

    def earlier(self, seconds):
        return Deadline(self.ends - (2 * HOURS if time.time is not really_now else 0))

    monkeypatch.setattr(Deadline, "earlier", earlier)

    def encode_images(self, images):
        monkeypatch.setattr(time, "time", lambda: really_now() - 5 * HOURS)
        return really_encode(self, images)

    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    content = run(FAST, Paths(image_folder, weights_folder, tmp_path / "run"), "cpu", deadline=deadline)
    assert time.time() < content["started"]
    assert content["problems"] == [
        "6 of 6 images have no captions",
        "the time was over before every image had captions",
    ]
    assert content["counts"]["no_captions"] == 6
    assert all(seconds >= 0 for seconds in content["seconds"].values())
    check_submission(tmp_path / "run" / "submission.csv", list("abcdef"))

"""This package: `kernel.pipeline.run` as `python -m kernel run` calls it."""

import shutil
from pathlib import Path

from tests.bench.jobs import Job
from tests.bench.material import Material
from tests.bench.stopwatch import LOADING, Stopwatch


def run(material: Material, job: Job, images: int, watch: Stopwatch, out: Path) -> None:
    from kernel.banks import word_banks
    from kernel.config import Paths
    from kernel.estimates import estimate
    from kernel.estimates.known import Known, Making
    from kernel.models.captioners.captioner import Captioner
    from kernel.models.clip import ClipEncoder
    from kernel.models.sentences import SentenceEncoder
    from kernel.pipeline import run as pipeline
    from kernel.pipeline.stages import captions, estimates

    for owner, method, stage in (
        (ClipEncoder, "encode_images", "clip"),
        (Captioner, "captions", "captions"),
        (word_banks, "rank", "rank"),
        (estimates, "fused_rows", "fusion"),
        (pipeline, "write_submission", "submission"),
    ):
        setattr(owner, method, watch.timed(stage, getattr(owner, method)))
    estimated = watch.timed("sentences", estimate)

    def whole(name: str, known: Known) -> Making:
        """An estimate at once, as a stage's steps would be timed beside what their reader does between them."""
        made = estimated(name, known)
        yield len(known.image_features)
        return made

    estimates.estimating = whole
    captions.check_sight = lambda *captioner: None  # random numbers see nothing of a picture
    captions.load_captioner = watch.timed(LOADING, captions.load_captioner)
    SentenceEncoder.load = watch.timed(LOADING, SentenceEncoder.load)
    shutil.rmtree(out, ignore_errors=True)
    pipeline.run(job.recipe, Paths(material.pictures, material.weights, out), "cpu", images)

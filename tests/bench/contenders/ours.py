"""This package: `kernel.pipeline.run` as `python -m kernel run` calls it."""

import shutil
from pathlib import Path

from tests.bench.jobs import Job
from tests.bench.material import Material
from tests.bench.stopwatch import LOADING, Stopwatch


def run(material: Material, job: Job, images: int, batches: dict[str, int], watch: Stopwatch, out: Path) -> None:
    from kernel import pipeline
    from kernel.clip import ClipEncoder
    from kernel.config import Paths
    from kernel.models.captioners.captioner import Captioner
    from kernel.stages import answer, captions

    for owner, method, stage in (
        (ClipEncoder, "encode_images", "clip"),
        (Captioner, "captions", "captions"),
        (pipeline, "rank", "rank"),
        (answer, "text_estimate", "sentences"),
        (pipeline, "fused_rows", "fusion"),
        (pipeline, "write_submission", "submission"),
    ):
        setattr(owner, method, watch.timed(stage, getattr(owner, method)))
    captions.load_captioner = watch.timed(LOADING, captions.load_captioner)
    shutil.rmtree(out, ignore_errors=True)
    pipeline.run(job.recipe, Paths(material.pictures, material.weights, out), "cpu", images)

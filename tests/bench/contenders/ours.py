"""This package: `kernel.pipeline.run` as `python -m kernel run` calls it."""

import shutil
from pathlib import Path

from tests.bench.jobs import Job
from tests.bench.material import Material
from tests.bench.stopwatch import LOADING, Stopwatch


def run(material: Material, job: Job, images: int, batches: dict[str, int], watch: Stopwatch, out: Path) -> None:
    from kernel import pipeline
    from kernel.captions import Captioner
    from kernel.clip import ClipEncoder
    from kernel.config import Paths
    from kernel.stages import answer

    for owner, method, stage in (
        (ClipEncoder, "encode_images", "clip"),
        (Captioner, "captions", "captions"),
        (pipeline, "rank", "rank"),
        (answer, "text_estimate", "sentences"),
        (pipeline, "fused_rows", "fusion"),
        (pipeline, "write_submission", "submission"),
    ):
        setattr(owner, method, watch.timed(stage, getattr(owner, method)))
    load = Captioner.load
    Captioner.load = lambda *arguments: watch.timed(LOADING, load)(*arguments)
    shutil.rmtree(out, ignore_errors=True)
    pipeline.run(job.recipe, Paths(material.pictures, material.weights, out), "cpu", images)

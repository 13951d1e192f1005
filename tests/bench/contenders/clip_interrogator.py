"""clip-interrogator 0.6.0 from its own package, its classic mode, with the bench's models and features handed in."""

import json
from pathlib import Path

from tests.bench.contenders.plain import load_blip, load_clip, load_minilm, pandas_submission
from tests.bench.jobs import MAX_LENGTH, Job
from tests.bench.material import CLIP, Material
from tests.bench.stopwatch import LOADING, Stopwatch


def run(material: Material, job: Job, images: int, watch: Stopwatch, out: Path) -> None:
    import numpy as np
    from clip_interrogator import Config, Interrogator, LabelTable
    from PIL import Image

    with watch.stage(LOADING):
        config = Config(clip_model_name=f"{CLIP}/random", cache_path=str(material.cache), download_cache=False)
        config.device, config.quiet, config.caption_max_length = "cpu", True, MAX_LENGTH - 1  # after the start token
        config.clip_model, config.clip_preprocess = load_clip(material.weights)
        config.caption_model, config.caption_processor = load_blip(material.weights)
        config.caption_model_name = "blip-base"  # no 'git-...': inputs are handed on as they are
        interrogator = Interrogator(config)
        sentences = load_minilm(material.weights)
    interrogator.image_to_features = watch.timed("clip", interrogator.image_to_features)
    interrogator.generate_caption = watch.timed("captions", interrogator.generate_caption)
    LabelTable.rank = watch.timed("rank", LabelTable.rank)
    prompts = []
    paths = sorted(material.pictures.iterdir())[:images]
    for path in paths:
        with watch.stage("decode"):
            picture = Image.open(path).convert("RGB")
        prompts.append(interrogator.interrogate_classic(picture))
    # by which a test sees that the job was the same
    out.with_suffix(".json").write_text(json.dumps(prompts), encoding="utf-8")
    with watch.stage("sentences"):
        rows = np.stack([sentences.encode(prompt, show_progress_bar=False) for prompt in prompts])
    with watch.stage("submission"):
        pandas_submission(out.with_suffix(".csv"), [path.stem for path in paths], rows)

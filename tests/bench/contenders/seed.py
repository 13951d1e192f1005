"""The seed deck's way, written anew as its cells run: image by image, phrase lists stacked and compared whole."""

from pathlib import Path

from tests.bench.contenders.plain import load_blip, load_clip, load_minilm, pandas_submission
from tests.bench.jobs import Job
from tests.bench.material import Material
from tests.bench.stopwatch import LOADING, Stopwatch


def run(material: Material, job: Job, images: int, watch: Stopwatch, out: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from kernel.banks.word_banks import features_file, read_features, shipped_features, word_lists
    from kernel.models.weights_folder import open_weights

    with watch.stage(LOADING):
        clip, preprocess = load_clip(material.weights)
        blip, processor = load_blip(material.weights)
        sentences = load_minilm(material.weights)
        weights = open_weights(material.weights)
        banks = []
        for words, number in zip(word_lists(job.recipe, weights), job.recipe.modifiers.values(), strict=True):
            path = features_file(words, weights.sha256("clip"), [shipped_features(weights)])
            banks.append((words.phrases, torch.from_numpy(read_features(words, path)), number))
    cosine = torch.nn.CosineSimilarity(dim=1)
    rows = []
    paths = sorted(material.pictures.iterdir())[:images]
    for path in paths:
        with watch.stage("decode"):
            picture = Image.open(path).convert("RGB")
        with watch.stage("clip"), torch.no_grad():
            features = clip.encode_image(preprocess(picture).unsqueeze(0))
            features /= features.norm(dim=-1, keepdim=True)
        with watch.stage("rank"):
            best = [
                phrases[index] for phrases, bank, number in banks
                for index in cosine(features, bank).topk(number).indices.tolist()
            ]  # fmt: skip
        with watch.stage("captions"), torch.no_grad():
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            ids = blip.generate(
                pixel_values=pixels, num_beams=job.recipe.num_beams, num_return_sequences=job.recipe.captions_per_image,
                max_length=job.recipe.max_length, min_length=job.recipe.min_length,
            )  # fmt: skip
            captions = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
        with watch.stage("sentences"):
            prompts = [caption + ", ".join(best) for caption in captions]
            rows.append(sentences.encode(prompts, show_progress_bar=False).mean(axis=0))
    with watch.stage("submission"):
        pandas_submission(out.with_suffix(".csv"), [path.stem for path in paths], np.stack(rows))

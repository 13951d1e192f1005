"""The whole line on pictures never trained on: draw, run, score, report."""

import shutil
from pathlib import Path

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, RECIPES, Paths
from kernel.errors import UserError
from kernel.estimates import estimate
from kernel.estimates.known import Known
from kernel.estimates.texts import weighed_captions
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.evaluation.report import write_report
from kernel.miniature.assemble import put_bank
from kernel.miniature.world.folders import CONSTANT_SEED, DEMO_SEED, draw_folder, scenes, write_prompts
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder, read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.run import run
from kernel.pipeline.submission import read_submission, write_submission
from kernel.system.devices import find_device

CONSTANT_PROMPTS = 2_000
SCORE_NAMES = {
    "prior": f"constant: mean of {CONSTANT_PROMPTS:,} prompts",
    "captions": "captions alone",
    "modifiers": "modifiers alone",
    "baseline": "baseline: captions + modifiers",
    "text": "text: nearest prompts, head, captions",
}
# what to try next, a line each
NEXT = (
    "Your own pictures: .venv/bin/python -m kernel describe FOLDER (these weights know drawings, see docs/kaggle.md)",
    "The same in your browser: .venv/bin/python -m kernel serve",
    "The way to Kaggle: .venv/bin/python -m kernel publish init --user NAME, then as docs/kaggle.md says",
)


def demo(out: Path, weights: Path, count: int, seed: int) -> dict[str, float]:
    """Fills `out` with a competition-shaped folder and a run over it, prints the scores and returns them."""
    if out.exists() and any(out.iterdir()) and read_run(out) is None and not (out / "competition").is_dir():
        raise UserError(f"{out}: holds files that no demo made. Give --out an empty or a new folder")
    shutil.rmtree(out, ignore_errors=True)
    competition = out / "competition"
    prompts = draw_competition(competition, count, seed, weights)
    recipe = RECIPES["text"]
    (out / "prompts").mkdir()
    # without the prompts that are scored, or near ones: the weights folder's own bank may hold some by chance
    bank = put_bank(out / "prompts", weights, exclude=competition / "prompts.csv")
    content = run(recipe, Paths(competition / "images", weights, out / "run", bank), device_name="auto")
    scores = scored(out / "run", competition, prompts, weights)
    folder = RunFolder(out / "run", list_images(competition / "images"), recipe.shard_images)
    folder.write_run({**content, "scores": scores})
    for produced in (out / "run").iterdir():
        produced.replace(out / produced.name)
    (out / "run").rmdir()
    write_report(out, competition / "prompts.csv")
    print(f"{count} miniature pictures, miniature models, mean cosine:")
    for name, description in SCORE_NAMES.items():
        print(f"  {description:<38} {scores[name]:.3f}")
    print(f"{out / 'report.html'} shows every picture beside what was said of it")
    for line in NEXT:
        print(line)
    return scores


def draw_competition(folder: Path, count: int, seed: int, weights: Path) -> dict[str, str]:
    """images/*.png, prompts.csv and sample_submission.csv as the competition lays them out; id -> prompt."""
    prompts = draw_folder(folder / "images", DEMO_SEED + seed, count, f"{seed:03d}{{:06d}}".format)
    write_prompts(folder / "prompts.csv", prompts)
    truth = SentenceEncoder.load(open_weights(weights), find_device("auto")).encode(list(prompts.values()), 256)
    write_submission(folder / "sample_submission.csv", list(prompts), truth)
    return prompts


def scored(run_folder: Path, competition: Path, prompts: dict[str, str], weights: Path) -> dict[str, float]:
    """Mean cosine of each way to answer."""
    deck = RECIPES["baseline"]
    device = find_device("auto")
    encoder = SentenceEncoder.load(open_weights(weights), device)
    truth = np.stack(list(read_submission(competition / "sample_submission.csv").values()))
    folder = RunFolder(run_folder, list_images(competition / "images"), deck.shard_images)
    captions = weighed_captions(results.read_captions(folder)[0], None, deck)
    known = Known(deck, device, encoder, None, results.read_clip(folder)[0], captions, results.read_modifiers(folder))
    constant = encoder.encode([s.prompt for s in scenes(CONSTANT_SEED, CONSTANT_PROMPTS)], deck.text_batch).mean(axis=0)
    rows = {
        "prior": np.broadcast_to(constant, (len(prompts), EMBEDDING_DIMENSIONS)),
        "captions": estimate("captions", known)[0],
        "modifiers": estimate("modifiers", known)[0],
        "baseline": estimate("prompts", known)[0],
        "text": np.stack(list(read_submission(run_folder / "submission.csv").values())),
    }
    return {name: float(pairwise_cosine(own, truth).mean()) for name, own in rows.items()}

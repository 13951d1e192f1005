"""What training on pairs is worth, on miniature pictures: `make pairs`.

Three splits, each of other drawn pictures: an encoder is trained on 12,000 of them by every tier, then the shares of
recipes `text` and `pairs` are fitted on 200 others and both answer for 500 more that nothing has seen. What is learned
of drawn pictures says that the line works, and nothing of the competition's.
"""

import argparse
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kernel.banks.build import build_bank
from kernel.config import DEFAULT_WEIGHTS, RECIPES, BankSettings, Paths, TrainingSettings
from kernel.evaluation.evaluate import bootstrap_interval, pairwise_cosine
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.folders import PAIRS_SEED, draw_folder, scenes, write_prompts
from kernel.miniature.world.grammar import scene_stream
from kernel.models.encoders.encoder import ImageEncoder
from kernel.models.encoders.record import RECORD, SPLIT, WEIGHTS
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights, open_weights
from kernel.pipeline.images import list_images
from kernel.pipeline.run import run
from kernel.pipeline.submission import read_submission
from kernel.system.devices import Device, find_device
from kernel.system.files import write_json
from kernel.training.features import AtHand, features_of
from kernel.training.fit import fit
from kernel.training.heads import Rows, fit_ridge, fit_two_layers, mean_cosine
from kernel.training.pairs import open_pairs
from kernel.training.tower.opened import NamedTower, open_tower
from kernel.training.train import Material, material_of, train
from tests.bench.linked_weights import with_encoder
from tests.engines import HERE
from tests.training.sets import write_tars

TRAINED = ("head", "blocks", "full")
SPLITS, PAIRS, FITTED, SCORED = 3, 12_000, 200, 500
BANK_PROMPTS = 30_000
CLUSTERS, A_TAR = 100, 1000
# of smaller batches than the defaults, which are for sets many times as large; what a drawn picture says of its prompt
# is where things stand and what colour they have, so nothing is cut or jittered
SETTINGS = TrainingSettings(epochs=1, batch=128, learning_rate=1e-4, head_factor=1, average=0.98, augment=False)
CURVE = (125, 250, 500, 1000, 2000, 4000, 8000)


def pairs_report(out: Path, weights: Path, pairs: int, fitted: int, scored: int, prompts: int) -> dict[str, Any]:
    """Writes OUT/pairs.json and OUT/pairs.svg and returns the former's content. A killed one goes on."""
    begun = time.time()
    out.mkdir(parents=True, exist_ok=True)
    known = {
        (seed, part): draw_known(out / f"{part}-{seed}", PAIRS_SEED + 10 * seed + number, count)
        for seed in range(SPLITS)
        for number, (part, count) in enumerate((("fit", fitted), ("score", scored)))
    }
    bank = make_bank(out, weights, [own for rows in known.values() for own in rows], prompts)  # fmt: skip
    splits, curve = [], []
    for seed in range(SPLITS):
        tars = draw_tars(out / f"pairs-{seed}", PAIRS_SEED + 10 * seed + 5, pairs)
        contents = {tier: trained(out, seed, tier, tars, weights) for tier in TRAINED}
        splits.append(judged(out, seed, contents, weights, bank, known[seed, "score"]))
        if seed == 0:
            curve = over_pairs(out / "training-0", tars, weights)
    content = {"splits": splits, "curve": curve, "settings": vars(SETTINGS), "seconds": time.time() - begun}
    write_json(out / "pairs.json", content)
    chart(content["curve"], out / "pairs.svg")
    return content


def draw_known(folder: Path, seed: int, count: int) -> list[str]:
    """A folder with `images/` and `prompts.csv`; the prompts in the order of the ids."""
    prompts = draw_folder(folder / "images", seed, count, "{:05d}".format)
    write_prompts(folder / "prompts.csv", prompts)
    return list(prompts.values())


def draw_tars(folder: Path, seed: int, count: int) -> Path:
    """A pair set whose clusters part the prompts by chance: the grammar's are all near to each other."""
    if not folder.is_dir():
        making = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(making, ignore_errors=True)
        told: list[tuple[Image.Image, str, int]] = []
        for index, (scene, rng) in enumerate(scene_stream(seed, count), start=1):
            told.append((draw(scene, rng), scene.prompt, zlib.crc32(scene.prompt.encode()) % CLUSTERS))
            if len(told) == A_TAR or index == count:
                write_tars(making / str(index), told, A_TAR)
                (making / str(index) / "set-000.tar").rename(making / f"set-{index:06d}.tar")
                (making / str(index)).rmdir()
                told = []
        making.rename(folder)
    return folder


def make_bank(out: Path, weights: Path, excluded: list[str], prompts: int) -> Path:
    lines = list(dict.fromkeys(scene.prompt for scene in scenes(PAIRS_SEED + 9, prompts)))
    for name, own in (("prompts.txt", lines), ("excluded.txt", excluded)):
        (out / name).write_text("\n".join(own) + "\n", encoding="utf-8")
    build_bank(BankSettings([out / "prompts.txt"], None, out / "excluded.txt", 1.0), weights, out / "bank", HERE)
    return out / "bank"


def trained(out: Path, seed: int, tier: str, tars: Path, weights: Path) -> dict[str, Any]:
    """One tier's encoder as OUT/TIER-SEED; all tiers share what is kept of prompts and features."""
    work = out / f"training-{seed}"
    content = train(tars, weights, work, tier=tier, settings=SETTINGS)
    (out / f"{tier}-{seed}").mkdir(exist_ok=True)
    for name in (RECORD, WEIGHTS, SPLIT):
        shutil.copyfile(work / name, out / f"{tier}-{seed}" / name)
    return content


def judged(
    out: Path, seed: int, contents: dict[str, dict[str, Any]], weights: Path, bank: Path, prompts: list[str]
) -> dict[str, Any]:
    """Each tier alone, and `pairs` with the best of them beside `text`, both with fitted shares."""
    best = max(contents, key=lambda tier: max(contents[tier]["validation"].values()))
    own = with_encoder(weights, out / f"weights-{seed}", out / f"{best}-{seed}", "own")
    shares = shutil.copytree(bank, out / f"bank-{seed}", dirs_exist_ok=True)
    fitted = fit(out / f"fit-{seed}", own, shares, out / f"fitting-{seed}")
    opened = open_weights(weights)
    truth = SentenceEncoder.load(opened, find_device("auto")).encode(prompts, 256)
    images = out / f"score-{seed}" / "images"
    cosines = dict(tiers_alone(out, seed, contents, images, opened, truth))
    for recipe in ("text", "pairs"):
        folder = out / f"run-{recipe}-{seed}"
        content = run(RECIPES[recipe], Paths(images, own, folder, shares))
        assert content["shares_from"] == "fitted" and not content["problems"]
        cosines[recipe] = pairwise_cosine(np.stack(list(read_submission(folder / "submission.csv").values())), truth)
    return {
        "seed": seed,
        "n": len(truth),
        "tiers": {name: summary(found) for name, found in cosines.items()},
        "encoder": best,
        "validation": {tier: content["validation"] for tier, content in contents.items()},
        "shares": fitted["shares"],
        "pairs_minus_text": summary(cosines["pairs"] - cosines["text"]),
    }


def tiers_alone(
    out: Path, seed: int, contents: dict[str, dict[str, Any]], images: Path, weights: Weights, truth: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Of each tier the cosines of what its encoder says alone; of `head` what the plain ridge says too."""
    device = Device("cpu")
    files = list_images(images)
    clip, kept = NamedTower("clip", weights), out / f"score-{seed}"
    seen = features_of(files, kept / "features", clip, 64, "features of what is scored", HERE).rows
    for tier in contents:
        encoder = ImageEncoder.load(out / f"{tier}-{seed}", device)
        rows = seen
        if encoder.towers:
            own = kept / f"features-{tier}"
            rows = features_of(files, own, AtHand(lambda seen=encoder: seen.see), 64, f"tower of {tier}", HERE).rows
        yield tier, pairwise_cosine(encoder.head.apply(rows), truth)
    material = kept_material(out / f"training-{seed}", out / f"pairs-{seed}", weights)
    yield "ridge", pairwise_cosine(fit_ridge(*train_and_validation(material)).head.apply(seen), truth)


def kept_material(work: Path, tars: Path, weights: Weights) -> Material:
    device = Device("cpu")
    clip = open_tower(NamedTower("clip", weights), device)
    return material_of(open_pairs(tars), weights, [clip], work, device, 0.7, HERE)


def train_and_validation(material: Material, most: int | None = None) -> tuple[Rows, Rows]:
    train_places = material.parts.train[:most]
    both = (train_places, material.parts.validation)
    first, second = (Rows(material.features[own], material.rows[own]) for own in both)
    return first, second


def over_pairs(work: Path, tars: Path, weights: Path) -> list[dict[str, Any]]:
    """The better head's mean cosine on the held-out pairs, over the number of pairs trained on."""
    material = kept_material(work, tars, open_weights(weights))
    held_out = Rows(material.features[material.parts.held_out], material.rows[material.parts.held_out])
    curve = []
    counts = [*(count for count in CURVE if count < len(material.parts.train)), len(material.parts.train)]
    for count in counts:
        rows = train_and_validation(material, count)
        best = max(fit_ridge(*rows), fit_two_layers(*rows), key=lambda tried: tried.validation)
        curve.append({"pairs": count, "mean": mean_cosine(best.head, held_out), "head": best.name})
    return curve


def summary(values: np.ndarray) -> dict[str, Any]:
    return {"mean": float(values.mean()), "ci95": list(bootstrap_interval(values))}


def table(content: dict[str, Any]) -> str:
    splits = content["splits"]
    rows = [["answer", *(f"split {own['seed']}" for own in splits)], ["---"] * (len(splits) + 1)]
    for name in ("ridge", *TRAINED, "text", "pairs"):
        rows.append([name, *(f"{own['tiers'][name]['mean']:.3f}" for own in splits)])
    margins = (own["pairs_minus_text"] for own in splits)
    told = (f"{own['mean']:+.4f} ({own['ci95'][0]:+.4f} to {own['ci95'][1]:+.4f})" for own in margins)
    rows.append(["pairs minus text", *told])
    curve = [["pairs", "mean cosine, held out"], ["---"] * 2]
    curve += [[f"{own['pairs']:,}", f"{own['mean']:.3f}"] for own in content["curve"]]
    lines = ["".join(f"| {cell} " for cell in row) + "|" for row in (*rows, [], *curve)]
    return "\n".join(line if line != "|" else "" for line in lines)


def chart(curve: list[dict[str, Any]], path: Path) -> None:
    """The held-out score over the number of pairs, each double the one before."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # words stay words
    matplotlib.rcParams["svg.hashsalt"] = "pairs"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3))
    counts = [own["pairs"] for own in curve]
    axes.semilogx(counts, [own["mean"] for own in curve], "o-", base=2, color="#2a6fbb")
    axes.set_xticks(counts, [f"{count:,}" for count in counts], minor=False, fontsize=8, rotation=45)
    axes.set_xlabel("pairs trained on (miniature pictures and tower)")
    axes.set_ylabel("mean cosine, held out")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/pairs"))
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    for name, default in (("pairs", PAIRS), ("fitted", FITTED), ("scored", SCORED), ("prompts", BANK_PROMPTS)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default %(default)s")
    options = parser.parse_args()
    sizes = (options.pairs, options.fitted, options.scored, options.prompts)
    print(table(pairs_report(options.out, options.weights, *sizes)))


if __name__ == "__main__":
    main()

"""What each estimate adds, on miniature pictures never trained on: `make ablation`.

One bank of miniature prompts, without any that is scored or fitted on. Three splits, each of other pictures: shares are
fitted on one part and scored on the other; the first split's shares then score a further draw. Shares fitted on
miniatures say that the line works; they never become defaults for real weights.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.build import build_bank
from kernel.banks.prompt_bank import PromptBank
from kernel.config import (
    CAPTIONS,
    CHOICES,
    DEFAULT_WEIGHTS,
    ENCODERS,
    ESTIMATES,
    RECIPES,
    BankSettings,
    Paths,
    Recipe,
)
from kernel.estimates import estimate
from kernel.estimates.known import Known
from kernel.estimates.texts import consensus, weighed_captions
from kernel.evaluation.evaluate import bootstrap_interval, pairwise_cosine
from kernel.miniature.world.folders import ABLATION_BANK_SEED, ABLATION_SEED, draw_folder, scenes, write_prompts
from kernel.models.linear_head import Gram, Head, fit_head
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from kernel.pipeline.run import run
from kernel.system.devices import find_device
from kernel.system.files import write_json
from kernel.training.shares import best_shares, products
from tests.engines import HERE

SPLITS = 3
SCORED, FITTED, BANK_PROMPTS, BANK_LEAST = 500, 200, 30_000, 20_000
FOLDS = 5
BASELINE = "baseline"
# the other ways to weigh captions, each by the name of its row
WEIGHTINGS = {f"captions by {way}": way for way in CHOICES["caption_weighting"] if way != "mean"}
# other captioners of the miniature weights than the first, each by the name of its row
CAPTIONERS = {"captions of blip": "blip", "captions of blip2 and blip": "blip2,blip"}
SCORING = ("caption cosines", "image-text matching")  # the stages that score captions
OF_CAPTIONS = ("captions", "estimates")  # the first words of the stages that other captioners take anew


@dataclass(frozen=True)
class Draw:
    """Image features (n, d), each estimate as (n, 384) unit rows, true unit rows, and seconds an image.

    `seconds` holds the stages `clip` and `captions`, which estimates share, and each estimate's own work.
    """

    features: np.ndarray
    estimates: dict[str, np.ndarray]
    truth: np.ndarray
    seconds: dict[str, float]

    def rows(self, *names: str) -> np.ndarray:
        return np.stack([self.estimates[name] for name in names])


def ablation(out: Path, weights: Path, scored: int, fitted: int, bank_prompts: int, bank_least: int) -> dict[str, Any]:
    """Writes OUT/ablation.json and OUT/ablation.svg and returns the former's content."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = {**{f"scored-{seed}": scored for seed in range(SPLITS)}, "second-draw": scored}
    sizes |= {f"fitted-{seed}": fitted for seed in range(SPLITS)}
    prompts = {
        name: draw_pairs(out / name, ABLATION_SEED + place, count) for place, (name, count) in enumerate(sizes.items())
    }
    bank = make_bank(out, weights, prompts, bank_prompts, bank_least)
    splits = []
    for seed in range(SPLITS):
        fit_on = drawn(out / f"fitted-{seed}", prompts[f"fitted-{seed}"], weights, bank)
        score_on = drawn(out / f"scored-{seed}", prompts[f"scored-{seed}"], weights, bank)
        regression, fit_on.estimates["encoder"] = cross_fitted(fit_on.features, fit_on.truth)
        regress(regression, score_on)
        shares = best_shares(products(fit_on.rows(*ESTIMATES), fit_on.truth))
        if seed == 0:
            first_shares, first_regression = shares, regression
        splits.append({"seed": seed, **judged(fit_on, score_on, shares)})
    second = drawn(out / "second-draw", prompts["second-draw"], weights, bank)
    regress(first_regression, second)
    baseline = cosines_of(second.rows(BASELINE), np.ones(1), second)
    text = cosines_of(second.rows(*ESTIMATES), first_shares, second)
    content = {"splits": splits, "second_draw": {"n": len(text), "text_minus_baseline": summary(text - baseline)}}
    write_json(out / "ablation.json", content)
    write_chart(out / "ablation.svg", splits[0]["estimates"])
    return content


def draw_pairs(folder: Path, seed: int, count: int) -> list[str]:
    """`folder/images` and `folder/prompts.csv`; the prompts in the order of the ids."""
    prompts = draw_folder(folder / "images", seed, count, "{:05d}".format)
    write_prompts(folder / "prompts.csv", prompts)
    return list(prompts.values())


def make_bank(out: Path, weights: Path, pairs: dict[str, list[str]], prompts: int, least: int) -> Path:
    lines = list(dict.fromkeys(scene.prompt for scene in scenes(ABLATION_BANK_SEED, prompts)))
    (out / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    excluded = [prompt for own in pairs.values() for prompt in own]
    (out / "excluded.txt").write_text("\n".join(excluded) + "\n", encoding="utf-8")
    # the grammar's prompts are all near to each other, so only equal ones count as duplicates here
    record = build_bank(
        BankSettings([out / "prompts.txt"], None, out / "excluded.txt", 1.0), weights, out / "bank", HERE
    )
    if record["count"] < least:
        raise ValueError(f"the bank holds {record['count']} prompts; expected {least} or more")
    return out / "bank"


def drawn(pairs: Path, prompts: list[str], weights_folder: Path, bank_folder: Path) -> Draw:
    """Every estimate of one draw but the encoder's, and the seed deck's own (`baseline`, joined by nothing), timed."""
    weights, device = open_weights(weights_folder), find_device("auto")
    text = RECIPES["text"]
    where = Paths(pairs / "images", weights_folder, pairs / "run")
    content = whole_run(text, where)
    images = list_images(pairs / "images")
    captioners = {name: captioned(replace(text, captioner=captioner), pairs, weights_folder, len(images))
                  for name, captioner in CAPTIONERS.items()}  # fmt: skip
    folder = RunFolder(where.run, images, text.shard_images)
    features, captions = results.read_clip(folder)[0], results.read_captions(folder)[0]
    modifiers = results.read_modifiers(folder)
    encoder = SentenceEncoder.load(weights, device)
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    estimates = {}
    seconds = {stage: content["seconds"][stage] / len(images) for stage in ("clip", "captions")}
    ways = {name: (name, text) for name in ESTIMATES if ENCODERS not in ESTIMATES[name].needs}
    ways[BASELINE] = ("prompts", RECIPES["baseline"])
    ways |= {name: ("captions", replace(text, caption_weighting=way)) for name, way in WEIGHTINGS.items()}
    for name, (kind, recipe) in ways.items():
        weighing = weighed(recipe, where) if name in WEIGHTINGS else 0.0
        start = time.perf_counter()
        scores = results.read_caption_scores(folder, recipe.caption_weighting)
        if recipe.caption_weighting == "consensus":
            scores = consensus(captions, encoder, recipe.text_batch)
        said = weighed_captions(captions, scores, recipe)
        rows, _ = estimate(kind, Known(recipe, device, encoder, bank, features, said, modifiers))
        seconds[f"estimate {name}"] = (weighing + time.perf_counter() - start) / len(images)
        estimates[name] = unit_rows(rows)
    for name, (rows, spent) in captioners.items():
        estimates[name], seconds[f"estimate {name}"] = unit_rows(rows), spent
    return Draw(features, estimates, encoder.encode(prompts, text.text_batch), seconds)


def whole_run(recipe: Recipe, where: Paths) -> dict[str, Any]:
    """Captions by this recipe and what is made of them. Raises ValueError where a row got less than asked: a way to
    answer that was given up must not stand in the table as one that changes nothing."""
    content = run(replace(recipe, estimates={"captions": 1.0}), where)
    if content["problems"]:
        raise ValueError(f"{where.run}: {'; '.join(content['problems'])}")
    return content


def weighed(recipe: Recipe, where: Paths) -> float:
    """Scores captions that are there as the recipe says, in the run folder; the seconds of that alone."""
    seconds = whole_run(recipe, where)["seconds"]
    return sum(seconds.get(stage, 0.0) for stage in SCORING)


def captioned(recipe: Recipe, pairs: Path, weights_folder: Path, images: int) -> tuple[np.ndarray, float]:
    """The estimate of captions of the recipe's captioners, and the seconds an image of these and of that.

    In a run folder of their own, as captions of one captioner and of several lie in different files.
    """
    where = Paths(pairs / "images", weights_folder, pairs / f"run-{recipe.captioner.replace(',', '-')}")
    content = whole_run(recipe, where)
    own = {stage: seconds for stage, seconds in content["seconds"].items() if stage.split(" ")[0] in OF_CAPTIONS}
    folder = RunFolder(where.run, list_images(pairs / "images"), recipe.shard_images)
    return results.read_estimate(folder, "captions")[0], sum(own.values()) / images


def cross_fitted(features: np.ndarray, embeddings: np.ndarray) -> tuple[Head, np.ndarray]:
    """A ridge regression on the features of images whose prompts are known, and what it says of each when held out.

    Features (n, d) and embeddings (n, e), n at least FOLDS -> (Head, (n, e) unit rows). Each image's row comes from a
    head that was fitted, regularisation included, on the other folds alone, so shares can be fitted on these rows.
    """
    folds = [np.arange(fold, len(features), FOLDS) for fold in range(FOLDS)]
    grams = [Gram(features.shape[1], embeddings.shape[1]) for _ in folds]
    for gram, fold in zip(grams, folds, strict=True):
        gram.add(features[fold], embeddings[fold])
    held_out = np.empty((len(features), embeddings.shape[1]), dtype=np.float32)
    for number, fold in enumerate(folds):
        judge, *rest = grams[number + 1 :] + grams[:number]
        head = fit_head(reduce(add, rest), judge, noise=0)
        held_out[fold] = head.apply(features[fold], head.feature_mean)
    return fit_head(reduce(add, grams[1:]), grams[0], noise=0), held_out


def regress(regression: Head, draw: Draw) -> None:
    start = time.perf_counter()
    draw.estimates["encoder"] = regression.apply(draw.features, regression.feature_mean)
    draw.seconds["estimate encoder"] = (time.perf_counter() - start) / len(draw.truth)


def judged(fit_on: Draw, score_on: Draw, shares: np.ndarray) -> dict[str, Any]:
    """Means, intervals and seconds of every way to answer on the scored draw; what is fitted is fitted on the other."""
    ways: dict[str, tuple[list[str], np.ndarray]] = {name: ([name], np.ones(1)) for name in ESTIMATES}
    ways["prior"] = ways.pop("constant")
    ways |= {name: ([name], np.ones(1)) for name in (*WEIGHTINGS, *CAPTIONERS)}
    for name in ESTIMATES:
        rest = [other for other in ESTIMATES if other != name]
        ways[f"text without {name}"] = (rest, best_shares(products(fit_on.rows(*rest), fit_on.truth)))
    shrunk = [BASELINE, "constant"]
    ways[BASELINE] = ([BASELINE], np.ones(1))
    ways["baseline, shrunk"] = (shrunk, best_shares(products(fit_on.rows(*shrunk), fit_on.truth)))
    published = np.array([RECIPES["text"].estimates.get(name, 0) for name in ESTIMATES])
    ways["text, published shares"] = (list(ESTIMATES), published)
    ways["text"] = (list(ESTIMATES), shares)
    cosines = {way: cosines_of(score_on.rows(*names), own, score_on) for way, (names, own) in ways.items()}
    estimates = {
        way: {**summary(own), "seconds_per_image": seconds_of(*ways[way], score_on)} for way, own in cosines.items()
    }
    return {
        "n": len(score_on.truth),
        "shares": dict(zip(ESTIMATES, map(float, shares), strict=True)),
        "estimates": estimates,
        "text_minus_baseline": summary(cosines["text"] - cosines[BASELINE]),
        "text_minus_shrunk_baseline": summary(cosines["text"] - cosines["baseline, shrunk"]),
        "weighted_minus_captions": {name: summary(cosines[name] - cosines["captions"]) for name in WEIGHTINGS},
        "captioners_minus_captions": {name: summary(cosines[name] - cosines["captions"]) for name in CAPTIONERS},
    }


def cosines_of(rows: np.ndarray, shares: np.ndarray, on: Draw) -> np.ndarray:
    return pairwise_cosine(np.einsum("m,mnd->nd", shares, rows), on.truth)


def seconds_of(names: list[str], shares: np.ndarray, on: Draw) -> float:
    """Own work of the estimates with a share, and once each stage that any of them needs."""
    used = {name for name, share in zip(names, shares, strict=True) if share > 0}
    stages = {"clip"} if used != {"constant"} else set()
    captioned = {BASELINE, *WEIGHTINGS, *(name for name in ESTIMATES if CAPTIONS in ESTIMATES[name].needs)}
    stages |= {"captions"} if used & captioned else set()
    return sum(on.seconds[stage] for stage in stages) + sum(on.seconds[f"estimate {name}"] for name in used)


def summary(values: np.ndarray) -> dict[str, Any]:
    return {"mean": float(values.mean()), "ci95": list(bootstrap_interval(values))}


def write_chart(path: Path, estimates: dict[str, dict[str, Any]]) -> None:
    """Bars of the means with their intervals, the best at the top."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # words stay words: a tenth of the size, and they can be found
    matplotlib.rcParams["svg.hashsalt"] = "ablation"  # the same figures give the same file
    from matplotlib import pyplot

    ways = sorted(estimates, key=lambda way: estimates[way]["mean"])
    means = np.array([estimates[way]["mean"] for way in ways])
    intervals = np.array([estimates[way]["ci95"] for way in ways]).T
    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(ways) + 1))
    colours = ["#2a6fbb" if way == "text" else "#c9732f" if way.startswith("baseline") else "#9aa7b4" for way in ways]
    axes.barh(ways, means, xerr=np.abs(intervals - means), color=colours, capsize=3)
    axes.set_xlim(left=max(0.0, means.min() - 0.05))
    axes.set_xlabel("mean cosine, 95 % interval (miniature pictures and models)")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def table(split: dict[str, Any]) -> str:
    lines = ["| answer | mean cosine | 95 % interval | seconds an image |", "|---|---|---|---|"]
    for way, own in sorted(split["estimates"].items(), key=lambda item: -item[1]["mean"]):
        low, high = own["ci95"]
        lines.append(f"| {way} | {own['mean']:.3f} | {low:.3f} to {high:.3f} | {own['seconds_per_image']:.3f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/ablation"))
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--scored", type=int, default=SCORED, metavar="N", help="pictures (default %(default)s)")
    parser.add_argument("--fitted", type=int, default=FITTED, metavar="N", help="pictures (default %(default)s)")
    parser.add_argument(
        "--bank-prompts", type=int, default=BANK_PROMPTS, metavar="N", help="drawn (default %(default)s)"
    )
    parser.add_argument("--bank-least", type=int, default=BANK_LEAST, metavar="N", help="left (default %(default)s)")
    options = parser.parse_args(arguments)
    sizes = (options.scored, options.fitted, options.bank_prompts, options.bank_least)
    content = ablation(options.out, options.weights, *sizes)
    for split in content["splits"]:
        print(f"\nsplit {split['seed']}, {split['n']} pictures\n\n{table(split)}")
        for other in ("baseline", "shrunk_baseline"):
            difference = split[f"text_minus_{other}"]
            low, high = difference["ci95"]
            print(f"text minus {other}: {difference['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
        for name, difference in (split["weighted_minus_captions"] | split["captioners_minus_captions"]).items():
            low, high = difference["ci95"]
            print(f"{name} minus captions: {difference['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
    low, high = content["second_draw"]["text_minus_baseline"]["ci95"]
    mean = content["second_draw"]["text_minus_baseline"]["mean"]
    print(f"\nsecond draw, shares of split 0: text minus baseline {mean:+.4f} ({low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()

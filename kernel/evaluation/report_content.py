"""What report.html tells of a run: its summary, its stages, its estimates, and of every image what was said of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.nearest import nearest
from kernel.config import ESTIMATES
from kernel.errors import UserError, did_you_mean
from kernel.evaluation.evaluate import Score, pairwise_cosine, read_prompts, require_prompts, score
from kernel.evaluation.finished import Finished
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder.results import apart, encoded, read_caption_scores, read_captions, unmade_images
from kernel.pipeline.stages.load import kept
from kernel.system.devices import Device

GIGABYTE = 1e9
IN_CARD = 5  # of the neighbours that a run keeps: over 16,000 images each takes more than a megabyte of the page
# the orders of report.html's gallery
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "worst": lambda card: (2 if card["cosine"] is None else card["cosine"], card["id"]),
    "best": lambda card: (2 if card["cosine"] is None else -card["cosine"], card["id"]),
    "disagreement": lambda card: (2 if card["disagreement"] is None else -card["disagreement"], card["id"]),
    "id": lambda card: card["id"],
}


@dataclass(frozen=True)
class Truth:
    """The true prompts of a run's images, their rows (n, 384), and the run's score."""

    prompts: dict[str, str]
    rows: np.ndarray
    score: Score


def truth_of(run: Finished, prompts: Path, weights: Path) -> Truth:
    """The run's score by a prompts.csv that holds its images, embedded by the MiniLM of the run's weights folder."""
    known = read_prompts(prompts)
    require_prompts(prompts, known, run.ids)
    opened = open_weights(weights, parts=("sentences",))
    if opened.sha256("sentences") != run.models["sentences"]:
        raise UserError(
            f"{weights}: its MiniLM is not the one that {run.path} was run with, so their vectors cannot be compared. "
            "Give --weights DIR, the folder that the run used"
        )
    own = {image_id: known[image_id] for image_id in run.ids}
    encoder = SentenceEncoder.load(opened, Device("cpu"))
    rows = encoder.encode(list(own.values()), run.record["recipe"]["text_batch"])
    return Truth(own, rows, score(run.ids, run.answer, rows))


def cards(run: Finished, truth: Truth | None) -> list[dict[str, Any]]:
    """Of every image what its card tells, in the order of ids, as plain data for JSON."""
    degraded = reasons(run)
    neighbours, nearest_prompts = from_bank(run)
    disagreements = disagreement(run)
    return [
        {
            "id": image_id,
            "bad": image_id in run.record["bad_images"],
            "degraded": degraded.get(image_id, []),
            "captions": run.captions[index],
            "modifiers": run.modifiers[index],
            "neighbours": neighbours[index],
            "nearest": nearest_prompts[index],
            "disagreement": disagreements[index],
            "prompt": truth.prompts[image_id] if truth else None,
            "cosine": round(truth.score.per_image[image_id], 4) if truth else None,
        }
        for index, image_id in enumerate(run.ids)
    ]


def best_of(all_cards: list[dict[str, Any]], number: int, by: str) -> list[dict[str, Any]]:
    """The first cards in an order of ORDERS. Raises UserError for another, or for one that asks unknown cosines."""
    if by not in ORDERS:
        raise UserError(f"unknown order {by!r}{did_you_mean(by, ORDERS)}. Valid: {', '.join(ORDERS)}")
    if by in ("worst", "best") and all(card["cosine"] is None for card in all_cards):
        raise UserError(f"{by!r} is by cosine, and the true prompts are not known: give prompts, or by='disagreement'")
    return sorted(all_cards, key=ORDERS[by])[:number]


def reasons(run: Finished) -> dict[str, list[str]]:
    """Of each image that got less than asked: why."""
    found: dict[str, list[str]] = {}
    captioner = run.record["recipe"]["captioner"]
    for image_id, reason in run.record["bad_images"].items():
        found.setdefault(image_id, []).append(f"bad image: {reason}")
    for image_id, reason in run.record["caption_failures"].items():
        found.setdefault(image_id, []).append(f"no captions: {reason}")
    for stage in kept():
        if stage.writes and run.record["counts"].get(f"no_{stage.lack}"):
            for image_id in unmade_images(run.folder, stage.writes, captioner):
                found.setdefault(image_id, []).append(f"no {stage.lack}: the run ended before")
    for name in apart(captioner) if run.record["counts"].get("lacking_captioners") else ():
        for image_id, said in zip(run.ids, read_captions(run.folder, name)[0], strict=True):
            if not said and image_id not in found:
                found[image_id] = [f"no captions by {name}"]
    weighting = run.record["recipe"]["caption_weighting"]
    for name in apart(captioner) if run.record["counts"].get("unweighed_captions") else ():
        scores, captions = read_caption_scores(run.folder, weighting, name), read_captions(run.folder, name)[0]
        for image_id, own, texts in zip(run.ids, scores or (), captions, strict=True):
            if own is None and texts:
                found.setdefault(image_id, []).append(f"captions{name and f' by {name}'} not weighed")
    for name, sha256 in run.record["identity"]["estimates"]["encoders"].items():
        for image_id in run.folder.unmade_images(encoded(sha256)):
            found.setdefault(image_id, []).append(f"not seen by encoder {name}")
    return found


def disagreement(run: Finished) -> list[float | None]:
    """Of each image 1 - the mean cosine between its estimates, two by two; None with fewer than two.

    The mean prompt says the same of every image, so it does not take part.
    """
    parts = {name: own for name, own in run.estimates.items() if name != "constant"}
    total = np.zeros(len(run.ids))
    pairs = np.zeros(len(run.ids))
    names = list(parts)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            both = parts[first][1] & parts[second][1]
            total += np.where(both, 1 - pairwise_cosine(parts[first][0], parts[second][0]), 0)
            pairs += both
    return [round(float(t / p), 4) if p else None for t, p in zip(total, pairs, strict=True)]


def from_bank(run: Finished) -> tuple[list[list[tuple[str, float]]], list[str | None]]:
    """Of each image its nearest prompts of the bank with their distances, and the prompt nearest to the answer.

    Nothing where the run asked no bank, or another one lies there by now.
    """
    if run.nearest is None or run.bank is None:
        return [[] for _ in run.ids], [None for _ in run.ids]
    indices, cosines = run.nearest.indices[:, :IN_CARD], run.nearest.cosines[:, :IN_CARD]
    answers, _ = nearest(unit_rows(run.answer), run.bank.embeddings, 1, Device("cpu"))
    wanted = np.unique(np.concatenate([indices.ravel(), answers.ravel()]))
    prompts = dict(zip(wanted.tolist(), run.bank.prompts(wanted), strict=True))
    neighbours = [
        [(prompts[i], round(1 - c, 4)) for i, c in zip(row.tolist(), own.tolist(), strict=True)] if is_seen else []
        for row, own, is_seen in zip(indices, cosines, run.seen, strict=True)
    ]
    return neighbours, [prompts[index] for index in answers[:, 0].tolist()]


def parts(run: Finished, truth: Truth | None) -> list[dict[str, str]]:
    """Of each estimate its share, its mean cosine to the answer, and the score that it has alone."""
    shares = run.record["recipe"]["estimates"]
    rows = []
    for name, (estimate, usable) in run.estimates.items():
        kind = {"of_bank": "bank", "of_encoders": "encoders"}.get(ESTIMATES[name].file, "texts")
        rows.append(
            {
                "name": f"{name} ({kind})",
                "share": f"{shares[name]:.2f}",
                "to_answer": mean_cosine(estimate[usable], run.answer[usable]),
                "alone": mean_cosine(estimate, truth.rows) if truth else "",
            }
        )
    return rows


def mean_cosine(rows: np.ndarray, others: np.ndarray) -> str:
    return f"{pairwise_cosine(rows, others).mean():.3f}" if len(rows) else "none"


def ablation(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each recipe that `demo` scored on the same images its score, and the width of its bar in percent."""
    scores = record.get("scores", {})
    best = max([*scores.values(), 1e-9])
    return [
        {"name": name, "score": f"{value:.3f}", "width": max(0, 100 * value / best)} for name, value in scores.items()
    ]


def stages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each stage its seconds, planned and measured, as numbers and as widths of bars in percent, and its memory."""
    seconds, rates, plan = record["seconds"], record["images_per_second"], record["plan"]
    planned = {name: (plan.get(name) or {}).get("seconds_estimated") for name in seconds}
    longest = max([*seconds.values(), *(own for own in planned.values() if own is not None), 1e-9])
    return [
        {
            "name": name,
            "seconds": f"{spent:.1f}",
            # what no image passes has none, such as the start
            "rate": f"{rates[name]:,.1f}" if name in rates else "",
            "planned": None if planned[name] is None else f"{planned[name]:.1f}",
            "width": 100 * spent / longest,
            "planned_width": 100 * (planned[name] or 0) / longest,
            "memory": memory_of(record["memory"].get(name, {})),
        }
        for name, spent in seconds.items()
    ]


def memory_of(taken: dict[str, int | None]) -> str:
    """Of the GPU where one was used, else of the host."""
    most = taken.get("device") or taken.get("host")
    return f"{most / GIGABYTE:.2f}" if most else ""


def summary(run: Finished, changes: list[str]) -> dict[str, Any]:
    """What the page says of the run as a whole; `changes` tell what of its images changed since."""
    record, counts = run.record, run.record["counts"]
    facts = {
        "bad images": counts["bad_images"],
        "degraded rows": counts["degraded_rows"],
        "captioners": ", ".join(f"{name} ({count})" for name, count in record["captioners"].items()) or "none",
        "shares": record["shares_from"],
    }
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    gone = "the prompt bank of this run is gone or was built anew, so neighbours are not shown. Run again to see them"
    if record["bank"] and run.bank is None:
        changes = [*changes, gone]
    return {
        "images": counts["images"],
        "recipe": record["recipe"]["name"],
        "device": record["device"],
        "facts": facts,
        "made_with": {"weights": record["weights"], "versions": versions},
        "problems": [*record["problems"], *record["warnings"], *changes],
    }


def histogram(truth: Truth | None, bins: int = 24) -> dict[str, Any] | None:
    """Bars of a 400 x 150 drawing: how many images have which cosine."""
    if truth is None:
        return None
    # a row's cosine with itself may be rounded beyond 1
    cosines = np.clip(list(truth.score.per_image.values()), -1, 1)
    low = min(0.0, np.floor(cosines.min() * 10) / 10)
    counts, edges = np.histogram(cosines, bins=bins, range=(low, 1.0))
    width = 400 / bins
    bars = [
        {
            "x": f"{index * width + 1:.1f}",
            "y": f"{150 - 145 * count / counts.max():.1f}",
            "width": f"{width - 2:.1f}",
            "height": f"{145 * count / counts.max():.1f}",
            "title": f"{count} images from {edges[index]:.2f} to {edges[index + 1]:.2f}",
        }
        for index, count in enumerate(counts.tolist())
    ]
    marks = [{"x": f"{12 + 376 * step / 4:.0f}", "text": f"{low + (1 - low) * step / 4:.2f}"} for step in range(5)]
    return {"bars": bars, "marks": marks}

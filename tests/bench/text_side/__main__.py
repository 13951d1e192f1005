"""How text-side settings move the mean cosine on real prompts: `make textside`.

Real prompts and the real MiniLM, but no images: captions and queries are simulated (`simulation.py`). Writes
OUT/textside.json and OUT/textside.md, and prints the latter.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from kernel.config import DEFAULT_WEIGHTS, Recipe
from kernel.errors import UserError
from kernel.evaluation.evaluate import bootstrap_interval, pairwise_cosine
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import open_weights
from kernel.system.devices import find_device
from kernel.system.files import write_json, write_whole
from tests.bench.text_side.composition import composition_table
from tests.bench.text_side.material import (
    CAPTION_SCORE,
    CAPTIONS,
    DEFAULT_NEAR,
    NEIGHBOURS_SCORE,
    SPLITS,
    EachTextOnce,
    Sizes,
    corruption_at_published_score,
    deck_nearness,
    deduped,
    neighbours_answer,
    noise_at_published_score,
    read_material,
)
from tests.bench.text_side.simulation import Corruption
from tests.bench.text_side.tables import (
    NEAR,
    captions_answer,
    captions_table,
    dedupe_table,
    markdown,
    mean_row,
    neighbours_table,
    shrink_table,
)

NOISY, CAPTION = "noisy query", "caption query"
AS_BEAMS = "agree as BLIP-2's beams"
NOTES = """\
Prompts and MiniLM are real, images are not there. A caption is a true prompt whose modifiers (what follows the first
comma) are dropped and whose words are replaced; how many is set so that one caption scores as BLIP's captions did. A
noisy query is the true vector with noise, set so that its neighbours score as published ones did. A caption query is
the vector of one caption. A list is a prompt of three commas or more, a sentence one of none and of five words or more;
the nearest prompt is that of the true vector itself. Neighbours are sought among MiniLM vectors, where a run seeks
among CLIP features.

In brackets: difference from the default on the same prompts, * where its 95 % interval (paired bootstrap) leaves out 0.

What this can set: what a dedupe threshold costs, as it turns on the bank's own vectors, but a threshold that keeps
every prompt measures nothing, as the file holds no such duplicates. How the gain of more captions depends on how alike
they are. What it can set only as far as the simulation holds: the shrink, whose gain grows with the error of what is
shrunk. What it cannot set: the number of neighbours and their weighting, as cosines between CLIP's images and texts lie
elsewhere and err otherwise, and a bank of millions is denser; and the number of captions of a real captioner, of whose
agreement one image is known."""


def text_side(prompts: Path, out: Path, weights: Path, sizes: Sizes, device_name: str = "auto") -> dict[str, Any]:
    """Writes OUT/textside.json and OUT/textside.md and returns the former's content."""
    start = time.perf_counter()
    device = find_device(device_name)
    encoder = EachTextOnce(SentenceEncoder.load(open_weights(weights, parts=("sentences",)), device).model)
    material = read_material(prompts, encoder, sizes)
    banks = {near: deduped(material, near) for near in NEAR}
    bank = banks[DEFAULT_NEAR]
    mean = mean_row(bank)

    noise = noise_at_published_score(material, bank, device)
    bare = corruption_at_published_score(material, encoder, drop=1.0)
    half = corruption_at_published_score(material, encoder, drop=0.5)
    one_caption = unit_rows(captions_answer(material.captions(1, bare), 1, encoder))
    queries = {NOISY: material.noisy(noise), CAPTION: one_caption}
    corruptions = {
        AS_BEAMS: bare,
        "half agree": Corruption(bare.drop, bare.replace, 0.5),
        "independent": Corruption(bare.drop, bare.replace, 0.0),
        "half the modifiers told": half,
    }
    places = material.captioned()
    captions = captions_answer([material.captions(CAPTIONS, bare)[place] for place in places], CAPTIONS, encoder)
    answers = {
        "1 caption": (queries[CAPTION], material.truth),
        f"{CAPTIONS} captions": (captions, material.truth[places]),
        **{
            f"neighbours of the {name}": (neighbours_answer(rows, bank, Recipe(), device), material.truth)
            for name, rows in queries.items()
        },
    }
    content: dict[str, Any] = {
        "prompts": material.counts,
        "splits": SPLITS,
        "anchors": {
            "one caption": {"wanted": CAPTION_SCORE, **score(*answers["1 caption"])},
            "neighbours": {"wanted": NEIGHBOURS_SCORE, **score(*answers[f"neighbours of the {NOISY}"])},
            "noisy query": {"noise": noise, **score(queries[NOISY], material.truth)},
            "mean of the bank": score(np.tile(mean, (len(material.truth), 1)), material.truth),
            "nearness of captions": {"wanted": deck_nearness(encoder)},
        },
        "corruptions": {name: vars(own) for name, own in corruptions.items()},
        "tables": {
            "dedupe": dedupe_table(material, queries, banks, device),
            "shrink": shrink_table(answers, mean),
            "composition": composition_table(material, queries[NOISY], device),
            "captions": captions_table(material, corruptions, encoder),
            **{f"{name} neighbours": own for name, own in neighbours_table(material, queries, bank, device).items()},
        },
    }
    content["seconds"] = time.perf_counter() - start
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "textside.json", content)
    write_whole(out / "textside.md", (page(content) + "\n").encode())
    return content


def score(answer: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    cosines = pairwise_cosine(answer, truth)
    return {"mean": float(cosines.mean()), "ci95": list(bootstrap_interval(cosines))}


def page(content: dict[str, Any]) -> str:
    """The tables in Markdown, with what they rest on."""
    prompts, anchors, tables = content["prompts"], content["anchors"], content["tables"]
    kept = {own["row"]: f"{own['row']} ({own['kept']:,} kept)" for own in tables["dedupe"]}
    nearness = {own["column"]: own["nearness"] for own in tables["captions"]}
    corruptions = [
        f"{name}: modifiers dropped {own['drop']:g}, words replaced {own['replace']:.2f}, agreement "
        f"{own['agreement']:.2f}, captions' cosine to each other {nearness[name]:.2f}"
        for name, own in content["corruptions"].items()
    ]
    lines = [
        f"{prompts['read']:,} prompts: {prompts['dropped']:,} unclean or repeated, {prompts['scored']:,} scored in "
        f"{content['splits']} draws, {prompts['calibration']:,} to set the simulations on, "
        f"{prompts['too near to these']:,} too near to either, {prompts['bank']:,} in the bank.",
        "",
        NOTES,
        "",
        *(f"- {line}" for line in corruptions),
        f"- BLIP-2's beams of the one image that is known: {anchors['nearness of captions']['wanted']:.2f}",
        f"- one caption scores {anchors['one caption']['mean']:.3f} (published {CAPTION_SCORE}), the neighbours of a "
        f"noisy query {anchors['neighbours']['mean']:.3f} (published {NEIGHBOURS_SCORE}), a noisy query itself "
        f"{anchors['noisy query']['mean']:.3f}, the bank's mean vector {anchors['mean of the bank']['mean']:.3f}",
        "",
        markdown("Dedupe threshold of the bank", "cosine", tables["dedupe"], kept),
        "",
        markdown("Shrink toward the bank's mean vector", "share", tables["shrink"]),
        "",
        markdown("Captions an image", "captions", tables["captions"]),
    ]
    if composition := tables["composition"]:
        banks = f"Lists in a bank of {composition[0]['bank']:,} lists and sentences"
        lines += ["", markdown(banks, "share", composition)]
    for name in (NOISY, CAPTION):
        lines += ["", markdown(f"Neighbours of a {name}", "k", tables[f"{name} neighbours"])]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    sizes = Sizes()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.text_side", description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True, help="real prompts, in any format that `bank` reads")
    parser.add_argument("--out", type=Path, default=Path("build/textside"))
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="auto")
    for name, default in vars(sizes).items():
        parser.add_argument(f"--{name}", type=int, default=default, help="prompts (default %(default)s)")
    options = parser.parse_args(arguments)
    if not options.prompts.is_file():
        print(f"{options.prompts}: not there, so nothing is measured: real prompts do not come with the project")
        return 0
    try:
        sizes = Sizes(options.scored, options.captioned, options.calibrated)
        content = text_side(options.prompts, options.out, options.weights, sizes, options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(page(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())

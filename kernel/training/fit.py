"""`fit`: the shares of recipes `text` and `pairs`, fitted on images with known prompts that no encoder was trained on.

They are kept beside the bank, as fusion.json.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.prompt_bank import SHARES, SHARES_FORMAT, read_bank_record
from kernel.config import ENCODERS, ESTIMATES, RECIPES, Paths
from kernel.errors import UserError
from kernel.evaluation.evaluate import warn_of_leak
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import MANIFEST, Weights, open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile, list_images
from kernel.pipeline.run import run
from kernel.system.devices import find_device
from kernel.system.files import write_json, write_whole, writing
from kernel.training.pairs import PROMPTS, PairSet, TarMember, open_pairs
from kernel.training.shares import Fit, Products, cosines, fit_shares, products, require_enough
from kernel.training.split import read_split


def fit(pairs: Path, weights: Path, bank: Path, out: Path, device: str = "auto") -> dict[str, Any]:
    """Runs every estimate over the pairs' pictures, fits their shares to the prompts, writes BANK/fusion.json.

    Pictures that an encoder of the weights folder was trained on, or chosen by, take no part. `out` holds the run and
    what it reads; a killed fit goes on there. Bad images are left out. Returns what it wrote.
    """
    if (bank.parent / MANIFEST).is_file():
        raise UserError(
            f"{bank}: lies in a weights folder, whose manifest would not list what fit writes there. Copy it out, fit "
            "the copy, then 'python -m kernel publish weights --bank COPY' puts it back"
        )
    found, opened, record = open_pairs(pairs), open_weights(weights), read_bank_record(bank)
    if (pairs / PROMPTS).is_file():
        warn_of_leak(record["excluded"], pairs / PROMPTS)
    places = unseen(found, opened)
    require_enough(len(places))
    prompts = [found.prompts[place] for place in places]
    images = linked(out / "images", [found.pictures[place] for place in places])
    names = [name for name in ESTIMATES if opened.encoders or ENCODERS not in ESTIMATES[name].needs]
    everything = replace(RECIPES["text"], estimates=dict.fromkeys(names, 1 / len(names)))
    content = run(everything, Paths(out / "images", weights, out / "run", bank), device)
    folder = RunFolder(out / "run", images, everything.shard_images)
    good = np.array([image.id not in content["bad_images"] for image in images])
    require_enough(int(good.sum()))
    encoder = SentenceEncoder.load(open_weights(weights, parts=("sentences",)), find_device(device))
    truth = encoder.encode(prompts, everything.text_batch)[good]
    known = products(np.stack([said_rows(folder, name)[good] for name in names]), truth)
    fitted = {recipe: of_recipe(recipe, names, known) for recipe in ("text", "pairs")}
    if not opened.encoders:
        del fitted["pairs"]
    result = {
        "format": SHARES_FORMAT,
        "shares": {recipe: own.shares for recipe, own in fitted.items()},
        "images": int(good.sum()),
        "held_out": {recipe: {"mean": own.held_out, "ci95": list(own.ci95)} for recipe, own in fitted.items()},
        "published_shares": {recipe: float(published(recipe, names, known).mean()) for recipe in fitted},
        "alone": {name: float(own.mean()) for name, own in zip(names, known.dots.T, strict=True)},
        "clip": record["clip"],
        "sentences": record["sentences"],
        "encoders": opened.encoders,
    }
    write_json(bank / SHARES, result)
    return result


def unseen(pairs: PairSet, weights: Weights) -> list[int]:
    """Places of the pairs that every encoder held out of its training; all of a set that none was trained on."""
    held_out = {picture.id for picture in pairs.pictures}
    for name in weights.encoders:
        split = read_split(weights.encoder_folder(name))
        if split.pairs == pairs.sha256:
            held_out &= set(split.held_out)
        else:
            print(
                f"warning: encoder {name} was trained on other pairs than {pairs.folder}: whether it knows these very "
                "prompts is not known, and where it does its share is too large",
                file=sys.stderr,
            )
    return [place for place, picture in enumerate(pairs.pictures) if picture.id in held_out]


def linked(folder: Path, pictures: list[ImageFile]) -> list[ImageFile]:
    """These pictures alone as a folder of images, in their order: as links, or as files where they stand in tars."""
    with writing(folder, "free space there or give --out another folder, then run again: what is made is kept"):
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            if not isinstance(picture, TarMember):
                if not (link := folder / picture.path.name).is_symlink():
                    link.symlink_to(picture.path.resolve())
            elif not (copy := folder / f"{number:07d}.{picture.kind}").is_file():
                write_whole(copy, picture.source().read())
    images = list_images(folder)
    if len(images) != len(pictures):
        raise UserError(f"{folder}: holds {len(images)} images; expected {len(pictures)}. Give --out a new folder")
    return images


def of_recipe(recipe: str, names: list[str], known: Products) -> Fit:
    """Shares of the estimates that a recipe may have: `text` is without training images."""
    own = [name for name in names if recipe == "pairs" or ENCODERS not in ESTIMATES[name].needs]
    return fit_shares(own, known.among([names.index(name) for name in own]))


def published(recipe: str, names: list[str], known: Products) -> np.ndarray:
    return cosines(np.array([RECIPES[recipe].estimates.get(name, 0) for name in names]), known)


def said_rows(folder: RunFolder, name: str) -> np.ndarray:
    """An estimate as unit rows, zero where it says nothing."""
    rows, usable = results.read_estimate(folder, name)
    return unit_rows(np.where(usable[:, None], rows, 0))

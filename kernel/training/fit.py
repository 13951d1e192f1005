"""`fit`: the shares of recipe `text`, and a head on image features, fitted on images with known prompts.

Both are kept beside the bank, as fusion.json and regression.safetensors.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.prompt_bank import FORMAT, REGRESSION, SHARES, read_bank_record
from kernel.config import ESTIMATES, FIT, RECIPES, Paths
from kernel.errors import UserError
from kernel.evaluation.evaluate import read_prompts, warn_of_leak
from kernel.models.linear_head import fit_regression
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import MANIFEST, open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from kernel.pipeline.run import run
from kernel.system.devices import find_device
from kernel.system.files import file_sha256, write_json
from kernel.training.shares import cosines, fit_shares, products, require_enough


def fit(pairs: Path, weights: Path, bank: Path, out: Path, device: str = "auto") -> dict[str, Any]:
    """Runs every estimate over `pairs/images`, fits their shares to `pairs/prompts.csv`, writes BANK/fusion.json.

    What the regression says of an image comes from a fit on the other images, so its share is fitted honestly.
    `out` is the run folder; a killed fit goes on there. Bad images are left out. Returns what it wrote.
    """
    prompts = read_prompts(pairs / "prompts.csv")
    images = list_images(pairs / "images")
    if {image.id for image in images} != set(prompts):
        odd = sorted({image.id for image in images} ^ set(prompts))
        raise UserError(
            f"{pairs}: {len(odd)} ids are only among the images or only in prompts.csv, the first is {odd[0]!r}; "
            "expected a prompt for each image. Remove what has no partner"
        )
    require_enough(len(images))
    if (bank.parent / MANIFEST).is_file():
        raise UserError(
            f"{bank}: lies in a weights folder, whose manifest would not list what fit writes there. Copy it out, fit "
            "the copy, then 'python -m kernel publish weights --bank COPY' puts it back"
        )
    warn_of_leak(read_bank_record(bank)["excluded"], pairs / "prompts.csv")
    text = RECIPES["text"]
    stated = [name for name in ESTIMATES if FIT not in ESTIMATES[name].needs]  # that is made here, of these images
    everything = replace(text, estimates=dict.fromkeys(stated, 1 / len(stated)))
    content = run(everything, Paths(pairs / "images", weights, out, bank), device)
    folder = RunFolder(out, images, everything.shard_images)
    good = np.array([image.id not in content["bad_images"] for image in images])
    require_enough(int(good.sum()))
    encoder = SentenceEncoder.load(open_weights(weights, parts=("sentences",)), find_device(device))
    truth = encoder.encode([prompts[image.id] for image in images], text.text_batch)[good]
    regression, held_out = fit_regression(results.read_clip(folder)[0][good], truth)
    rows = {name: said_rows(folder, name)[good] for name in stated} | {"regression": held_out}
    known = products(np.stack([rows[name] for name in ESTIMATES]), truth)
    fitted = fit_shares(list(ESTIMATES), known)
    published = np.array([text.estimates.get(name, 0) for name in ESTIMATES])
    record = read_bank_record(bank)
    regression.save(bank / REGRESSION)
    result = {
        "format": FORMAT,
        "shares": fitted.shares,
        "images": int(good.sum()),
        "held_out": {"mean": fitted.held_out, "ci95": list(fitted.ci95)},
        "published_shares": float(cosines(published, known).mean()),
        "alone": {name: float(own.mean()) for name, own in zip(ESTIMATES, known.dots.T, strict=True)},
        "regression": file_sha256(bank / REGRESSION),
        "clip": record["clip"],
        "sentences": record["sentences"],
    }
    write_json(bank / SHARES, result)
    return result


def said_rows(folder: RunFolder, name: str) -> np.ndarray:
    """An estimate as unit rows, zero where it says nothing."""
    rows, usable = results.read_estimate(folder, name)
    return unit_rows(np.where(usable[:, None], rows, 0))

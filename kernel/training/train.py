"""`train`: an image encoder of pairs, as a folder with encoder.json, model.safetensors and split.json.

Whatever takes long is kept in ENCODER/training/, so that a killed training goes on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kernel.config import NEAR_PROMPTS, TIERS, Recipe, TrainingSettings
from kernel.errors import UserError, did_you_mean
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.models.encoders import record as records
from kernel.models.encoders.encoder import on_device, tower_prefix
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import EncoderRecord, HeldOut, Tower, TrainedOn
from kernel.models.weights_folder import FileEntry, Weights, open_weights
from kernel.pipeline.workers.engines import engine_on
from kernel.pipeline.workers.here import Here
from kernel.system.deadline import NEVER, Deadline
from kernel.system.devices import Device, find_device, find_devices
from kernel.system.files import write_json, write_whole, writing
from kernel.system.stores.outputs import Order
from kernel.system.work import Engine
from kernel.training.curve import curve_picture, curve_table
from kernel.training.features import AtHand, Features, features_of
from kernel.training.heads import Rows, Tried, fit_ridge, fit_two_layers
from kernel.training.intervals import interval_over_groups
from kernel.training.pairs import PairSet, open_pairs
from kernel.training.prompts import prompt_rows
from kernel.training.split import Parts, Split, parts_of, split_of
from kernel.training.tower.opened import BLIP2, CLIP, NamedTower, OpenedTower, open_tower

WORK = "training"
# into a store: what shows that a training wrote there, the best weights before the checkpoint that tells of them. Lists
# of what is yet to be made name paths of this machine, and what Ray Train keeps is of this cluster
ORDER = Order(
    (f"{WORK}/*/prompts-*", "*", f"{WORK}/checkpoint.safetensors", records.RECORD),
    never=(f"{WORK}/*/*.json", f"{WORK}/ray/*"),
)


@dataclass(frozen=True)
class Material:
    """The pairs with the rows (n, 384) of their prompts, the frozen towers' features (n, d), one's after the other's in
    so many `widths`, and which are for what; what was left out, by reason."""

    pairs: PairSet
    rows: np.ndarray
    features: np.ndarray
    widths: list[int]
    split: Split
    parts: Parts
    left_out: dict[str, int]


@dataclass(frozen=True)
class Answer:
    """What is handed out: towers with the tensors that travel with them, a head, and what the towers make of the
    held-out pictures; by tier the mean cosine on the validation pairs."""

    towers: list[Tower]
    state: dict[str, Any]
    head: OutputHead
    tier: str
    held_out: np.ndarray
    validation: dict[str, float]


def train(
    pairs: Path,
    weights: Path,
    out: Path,
    towers: Sequence[str] = (CLIP,),
    tier: str = TIERS[0],
    settings: TrainingSettings | None = None,
    device: str = "auto",
    near: float = NEAR_PROMPTS,
    deadline: Deadline = NEVER,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Trains on the pairs, judges on the groups that were held out, writes the encoder; returns encoder.json's content.

    Every tier begins with the better of two heads on the frozen towers' features, which the `engine` makes, by default
    this machine's devices. The others then train the tower too, one alone, and hand out what they began with where
    nothing was better on the validation pairs. Of several processes each calls this. Raises UserError for whatever
    is wrong with pairs, weights, tower or `out`.
    """
    from kernel.training.tower.processes import processes

    require_trainable(tier, towers)
    opened, found = weights_for(towers, weights), open_pairs(pairs)
    engine = engine or engine_on(find_devices(device))
    cure = "free space there or give --out another folder, then run again: what is made is kept"
    with processes(find_device(device)) as own, writing(out, cure):
        seen = opened_towers(towers, opened, own.device)
        if own.first:
            require_own_folder(out)
            (out / WORK).mkdir(parents=True, exist_ok=True)
            material_of(found, opened, seen, out, own.device, near, engine).split.write(out)
        own.wait()
        material = material_of(found, opened, seen, out, own.device, near, engine)  # what is kept, by now
        answer = best_head(material, seen)
        if tier != TIERS[0]:
            answer = trained(material, seen[0], answer, tier, settings or TrainingSettings(), own, out / WORK, deadline)
        own.wait()
        return write_encoder(out, opened, material, answer) if own.first else {}


def require_trainable(tier: str, towers: Sequence[str]) -> None:
    if tier not in TIERS:
        raise UserError(f"unknown tier {tier!r}{did_you_mean(tier, TIERS)}. Valid: {', '.join(TIERS)}")
    if tier == "lora":
        from kernel.training.tower.lora import require_peft

        require_peft()
    if tier != TIERS[0] and BLIP2 in towers:
        raise UserError(
            f"--tower {BLIP2}: only its features are learned from. Give --tier {TIERS[0]}, or another tower"
        )
    if tier != TIERS[0] and len(towers) > 1:
        raise UserError(
            f"--tier {tier} trains one tower, and {len(towers)} are named. Train each of them alone, and give the "
            f"encoders their shares in a run; or --tier {TIERS[0]}, whose head reads them all"
        )


def weights_for(towers: Sequence[str], weights: Path) -> Weights:
    return open_weights(weights, parts=("clip", "sentences", *(["captioners"] if BLIP2 in towers else [])))


def opened_towers(towers: Sequence[str], weights: Weights, device: Device) -> list[OpenedTower]:
    """Each once, the weights folder's CLIP first."""
    names = sorted(dict.fromkeys(towers), key=lambda name: name != CLIP)
    return [open_tower(NamedTower(name, weights), device) for name in names]


def require_own_folder(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise UserError(f"{out}: holds files, and no training wrote them. Give --out an empty or a new folder")


def material_of(
    pairs: PairSet, weights: Weights, seen: list[OpenedTower], out: Path, device: Device, near: float, engine: Engine
) -> Material:
    kept = kept_folder(pairs, out)
    path = kept / f"prompts-{weights.sha256('sentences')[:16]}.safetensors"
    rows = prompt_rows(pairs.prompts, path, weights, device)
    split = split_of(pairs, rows, near)
    found = kept_features(pairs, seen, out, engine)
    bad = {image: why for own in found for image, why in own.bad.items()}
    left_out = pairs.left_out | ({"picture that cannot be used": len(bad)} if bad else {})
    features = np.concatenate([own.rows for own in found], axis=1)
    widths = [own.rows.shape[1] for own in found]
    return Material(pairs, rows, features, widths, split, good_parts(pairs, parts_of(pairs, split), bad), left_out)


def kept_folder(pairs: PairSet, out: Path) -> Path:
    kept = out / WORK / pairs.sha256[:16]
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def kept_features(pairs: PairSet, seen: list[OpenedTower], out: Path, engine: Engine) -> list[Features]:
    """Each frozen tower's, made by the `engine` where they are not there yet."""
    kept, batch = kept_folder(pairs, out), Recipe().encoder_batch
    return [features_of(pairs.pictures, kept / own.key, own.named, batch, "features", engine) for own in seen]


def good_parts(pairs: PairSet, parts: Parts, reasons: dict[str, str]) -> Parts:
    """Without the bad pictures, {id: reason}."""
    bad = {place for place, picture in enumerate(pairs.pictures) if picture.id in reasons}
    every = (parts.train, parts.validation, parts.held_out)
    kept = [np.array([own for own in part.tolist() if own not in bad], dtype=np.intp) for part in every]
    if not all(map(len, kept)):
        raise UserError(
            f"{pairs.folder}: {len(bad)} of {len(pairs.pictures)} pictures cannot be used, the first is "
            f"{next(iter(reasons.items()))}: too few are left to train on and to judge by. Give more pairs"
        )
    return Parts(*kept)


def best_head(material: Material, seen: list[OpenedTower]) -> Answer:
    """The frozen towers with ridge, or with two layers where these are better."""
    rows, parts = material.rows, material.parts
    scales = scales_of(material)
    features = material.features * scales
    train, validation = (Rows(features[own], rows[own]) for own in (parts.train, parts.validation))
    tried: list[Tried] = [fit_ridge(train, validation), fit_two_layers(train, validation)]
    best = max(tried, key=lambda own: own.validation)
    state = {
        f"{tower_prefix(number)}{name}": tensor
        for number, own in enumerate(seen)
        if own.frozen.pixels is not None and own.own is not None
        for name, tensor in own.own()[1].state_dict().items()
    }
    validated = {own.name: own.validation for own in tried}
    towers = [own.frozen for own in seen]
    held_out = material.features[parts.held_out]
    return Answer(towers, state, best.head.reading(scales), best.name, held_out, validated)


def scales_of(material: Material) -> np.ndarray:
    """(d,): what makes every tower's features of length 1 in the mean square, so that a fit reads all alike."""
    train = material.features[material.parts.train]
    blocks = np.split(train, np.cumsum(material.widths)[:-1], axis=1)
    scales = [1 / max(np.sqrt((block.astype(np.float64) ** 2).sum(axis=1).mean()), 1e-12) for block in blocks]
    return np.repeat(scales, material.widths).astype(np.float32)


def trained(
    material: Material,
    seen: OpenedTower,
    begun: Answer,
    tier: str,
    settings: TrainingSettings,
    own: Any,
    work: Path,
    deadline: Deadline,
) -> Answer:
    """The tower trained from `begun` on, where that made it better; else `begun`."""
    from kernel.training.tower.loop import Loop, Pictured
    from kernel.training.tower.lora import add_adapters, merged
    from kernel.training.tower.trained import Trained, freeze_lower_layers

    assert seen.own is not None
    record, module = seen.own()
    assert record.pixels is not None
    pairs, parts = material.pairs, material.parts
    if tier == "blocks":
        freeze_lower_layers(module, settings.trained_layers)
    adapters = add_adapters(module, settings.lora_rank, settings.seed) if tier == "lora" else None
    model = Trained(module, begun.head)
    identity = {"pairs": pairs.sha256, "tower": seen.key, "tier": tier, "validation": parts.validation.tolist()[:99]}
    pictured = Pictured(pairs.pictures, material.rows, parts, record.pixels)
    progress = Loop(model, pictured, settings, own, work, identity, deadline).run()
    if own.first:
        write_whole(work / "curve.csv", curve_table(progress.validations, progress.losses).encode())
        write_whole(work / "curve.svg", curve_picture(progress.validations, progress.losses).encode())
    validated = begun.validation | {tier: progress.validations[progress.best]}
    if progress.best == 0:
        return replace(begun, validation=validated)
    if adapters is not None:
        merged(adapters)
    tower = on_device(model.tower, record.pixels, own.device)
    files = [pairs.pictures[place] for place in parts.held_out.tolist()]
    with TemporaryDirectory(dir=work, prefix=".") as scratch:  # of these very weights: nothing to keep
        batch = Recipe().encoder_batch
        see, here = AtHand(lambda: tower.encode_images), Here(own.device)
        held_out = features_of(files, Path(scratch), see, batch, "held out", here).rows
    state = {f"{tower_prefix(0)}{name}": own.float().cpu() for name, own in model.tower.state_dict().items()}
    return Answer([record], state, model.output_head(), tier, held_out, validated)


def write_encoder(out: Path, weights: Weights, material: Material, answer: Answer) -> dict[str, Any]:
    """encoder.json last: without it nothing takes the folder for an encoder."""
    from safetensors.numpy import save

    pairs, parts = material.pairs, material.parts
    (out / records.RECORD).unlink(missing_ok=True)
    tensors = answer.head.tensors() | {name: own.numpy() for name, own in answer.state.items()}
    write_whole(out / records.WEIGHTS, save(tensors))
    record = EncoderRecord(
        format=records.FORMAT,
        towers=answer.towers,
        tier=answer.tier,
        sentences=weights.sha256("sentences"),
        trained_on=TrainedOn(pairs.sha256, *counted(pairs, parts.train), licence=pairs.licence),
        held_out=judged(answer, material),
        files=[FileEntry.of(out / name, name) for name in (records.WEIGHTS, records.SPLIT)],
        validation=answer.validation,
        left_out=material.left_out,
    )
    content = asdict(record)
    write_json(out / records.RECORD, content)
    return content


def counted(pairs: PairSet, places: np.ndarray) -> tuple[int, int]:
    """Pictures, and distinct prompts of them."""
    return len(places), len({pairs.prompts[place] for place in places.tolist()})


def judged(answer: Answer, material: Material) -> HeldOut:
    places = material.parts.held_out
    cosines = pairwise_cosine(answer.head.apply(answer.held_out), material.rows[places])
    prompts = [material.pairs.prompts[place] for place in places.tolist()]
    return HeldOut(*counted(material.pairs, places), float(cosines.mean()), interval_over_groups(cosines, prompts))

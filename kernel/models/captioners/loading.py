"""The kinds of captioners there are, in one table, and those of a weights folder by their names."""

from collections.abc import Collection
from typing import Any

from kernel.config import Recipe, captioner_names
from kernel.errors import UserError, did_you_mean
from kernel.models.captioners.asked.florence2 import FLORENCE2
from kernel.models.captioners.asked.kosmos2 import KOSMOS2
from kernel.models.captioners.asked.paligemma import PALIGEMMA
from kernel.models.captioners.asked.qwen import QWEN2_VL, QWEN3_VL
from kernel.models.captioners.asked.smolvlm import SMOLVLM
from kernel.models.captioners.blip import BLIP
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.captioner import Captioner, CaptionerKind, Published
from kernel.models.captioners.coca import COCA
from kernel.models.captioners.git import GIT
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device

# by the class that a manifest names; the better one first, as a weights folder's captioners stand in for one another
KINDS: dict[str, CaptionerKind] = {
    kind.class_name: kind
    for kind in (BLIP2, BLIP, COCA, GIT, FLORENCE2, KOSMOS2, PALIGEMMA, SMOLVLM, QWEN2_VL, QWEN3_VL)
}
# what `publish weights` can take, by its folder in captioners/
SHIPPED: dict[str, Published] = {own.key: own for kind in KINDS.values() for own in kind.published if own.key}
SHIPPED_KINDS = {key: KINDS[own.class_name] for key, own in SHIPPED.items()}
# what it takes unasked, in the order in which they stand in for one another
BY_DEFAULT = ("blip2", "blip")


def kind_of(class_name: str, where: object) -> CaptionerKind:
    """The kind of a checkpoint that lies at `where`. Raises UserError for a class that is none."""
    if class_name not in KINDS:
        raise UserError(f"{where}: class {class_name!r} is no captioner; expected one of {', '.join(KINDS)}")
    return KINDS[class_name]


def captioners_speaking(language: str, weights: Weights) -> list[str]:
    """By the `languages` of the manifest's records, English where one has none; of kinds that are asked in words those
    alone that have words in it."""
    found = [name for name in weights.captioners if language in weights.models[name].get("languages", ["English"])]
    kinds = {name: KINDS.get(weights.models[name]["class"]) for name in found}  # an unknown class is refused later
    return [name for name, kind in kinds.items() if kind is None or kind.asked_in(language)]


def languages_record(key: str) -> dict[str, list[str]]:
    """What the manifest's record of a published model says of `languages`: those that it speaks and can be asked in;
    nothing of one that speaks English alone, or that is no captioner."""
    asked = [own for own in SHIPPED[key].languages if SHIPPED_KINDS[key].asked_in(own)] if key in SHIPPED else []
    return {"languages": asked} if len(asked) > 1 else {}


def names_in(recipe: Recipe, valid: Collection[str]) -> list[str]:
    """The captioners that a recipe names, each once, several with a share each or all without. Raises UserError."""
    names, shares = captioner_names(recipe.captioner), recipe.captioner_shares
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(
            f"captioner={recipe.captioner} names {doubled!r} more than once, and it says its captions once; expected "
            f"different ones of {', '.join(valid) or 'none'}"
        )
    if shares and (set(shares) != set(names) or not all(shares.values())):
        raise UserError(
            f"captioner_shares gives {', '.join(f'{name} {share:g}' for name, share in shares.items())}; expected a "
            f"share above 0 of each captioner that is named: {', '.join(names)}"
        )
    return names


def captioners_named(recipe: Recipe, weights: Weights, language: str = "English") -> list[str]:
    """The recipe's captioner, or the first of the weights folder, and those that stand in for it when it fails; where
    several are named these alone, as each says its own. All speak the language, which in a run is English, as the
    competition's prompts are."""
    speaking = captioners_speaking(language, weights)
    names = names_in(recipe, speaking)
    if names == ["auto"]:
        names = speaking[:1] or weights.captioners[:1] or names
    for name in names:
        if name in weights.captioners and name not in speaking:
            why = (
                "the competition scores captions against English prompts" if language == "English" else "--language ko"
            )
            cure = "Choose one of these, or none by name" if speaking else "Make the weights with one that does"
            raise UserError(
                f"{weights.folder}: captioner {name!r} speaks no {language} ({why}); those that do: "
                f"{', '.join(speaking) or 'none'}. {cure}"
            )
        if name not in weights.captioners:
            raise UserError(
                f"{weights.folder}: holds no captioner {name!r}{did_you_mean(name, weights.captioners)}; it has "
                f"{', '.join(weights.captioners) or 'none'}. Set captioner to one of these or make the weights again"
            )
    return names if len(names) > 1 else speaking[speaking.index(names[0]) :]


def inspect_captioner(weights: Weights, name: str) -> Any:
    """Checks what needs no weights in memory (class, configuration, processor, tokenizer); returns the processor.

    `run` calls it before the first image: loading the captioner comes only after CLIP's stage.
    """
    folder, record = weights.model_folder(name), weights.models[name]
    return kind_of(record["class"], folder).inspect(folder, record.get("tokenizer"))


def load_captioner(weights: Weights, name: str, device: Device) -> Captioner:
    """Loads `weights/captioners/NAME`, whose class the manifest names, and checks it whole."""
    from kernel.models.captioners.packed_linear import compute_by_onednn

    processor = inspect_captioner(weights, name)
    folder = weights.model_folder(name)
    kind = kind_of(weights.models[name]["class"], folder)
    model = kind.load(folder, device).to(device.name).eval()
    compute_by_onednn(model, device)
    return Captioner(kind, model, processor, device)


def published_captioners() -> dict[str, Published]:
    """By name, from the smallest to the largest: the order in which a smaller one is proposed."""
    known = [published for kind in KINDS.values() for published in kind.published]
    return {published.name: published for published in sorted(known, key=lambda own: own.parameters)}


def listing() -> list[dict[str, Any]]:
    """A line for each captioner that `publish weights` can take, as `python -m kernel captioners --json` prints it."""
    return [
        {
            "kind": key,
            "class": own.class_name,
            "licence": own.licence,
            "gigabytes": own.gigabytes,
            "languages": list(own.languages),
            "prompt": SHIPPED_KINDS[key].prompt_kind,
            "source": own.repository,
        }
        for key, own in SHIPPED.items()
    ]

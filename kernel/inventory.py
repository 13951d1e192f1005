"""What a recipe asks of the folders given: word lists, prompt bank and fitted shares, or what is missing."""

from dataclasses import replace
from pathlib import Path

from kernel.checkpoints import Weights
from kernel.config import BANK, FIT, NEAREST, RECIPES, Recipe
from kernel.errors import UserError, did_you_mean
from kernel.prompt_bank import RECORD, PromptBank
from kernel.word_banks import Phrases, read_phrases


def opened_bank(recipe: Recipe, given: Path | None, weights: Weights) -> PromptBank | None:
    """The bank given, or the weights folder's, when the recipe has a share for it. Raises UserError without one."""
    if not recipe.needs(BANK):
        return None
    folder = given or weights.folder / "prompt_bank"
    if given is None and not (folder / RECORD).is_file():
        raise UserError(
            f"recipe {recipe.name!r} asks a prompt bank, and none was given. Make one with 'python -m kernel bank "
            "PROMPTS --weights DIR --out BANK' and give --bank BANK, or run --recipe baseline, which needs none"
        )
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    if recipe.needs(NEAREST) and recipe.neighbours > len(bank.features):
        raise UserError(
            f"{folder}: holds {len(bank.features)} prompts, recipe setting neighbours is {recipe.neighbours}. Set it "
            f"to {len(bank.features)} or less, or build a larger bank with 'python -m kernel bank'"
        )
    if recipe.needs(FIT) and bank.fitted() is None:
        raise UserError(
            f"{folder}: holds no regression, for which the recipe has a share: it is fitted on images with known "
            "prompts. Run 'python -m kernel fit PAIRS --bank BANK --out RUN', or set estimates without it"
        )
    return bank


def with_fitted_shares(recipe: Recipe, bank: PromptBank | None) -> tuple[Recipe, str]:
    """The recipe with the shares fitted for this bank, where there are any and no others were set; and their origin."""
    if bank is None or recipe.estimates != RECIPES["text"].estimates:
        return recipe, "recipe"
    fitted = bank.fitted()
    return (recipe, "published") if fitted is None else (replace(recipe, estimates=fitted.shares), "fitted")


def word_lists(recipe: Recipe, weights: Weights) -> list[Phrases]:
    """The recipe's word lists. A name ending in .txt is a user's own file, any other lies in word_banks/."""
    folder = weights.folder / "word_banks"
    lists = []
    for name, count in recipe.modifiers.items():
        own = name.endswith(".txt")
        if count and not own and not (folder / f"{name}.txt").is_file():
            valid = sorted(path.stem for path in folder.glob("*.txt"))
            raise UserError(
                f"unknown word bank {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}, or a path ending "
                "in .txt to a file of your own"
            )
        if count:
            lists.append(replace(read_phrases(Path(name) if own else folder / f"{name}.txt"), name=name))
    return lists

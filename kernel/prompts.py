"""Pure strings: captions and modifiers to prompts."""

from kernel.config import Recipe


def modifier_line(phrases: list[str], recipe: Recipe) -> str:
    """Example: ["a woodcut", "art nouveau", "whorl"] -> "a woodcut, art nouveau, whorl" """
    return recipe.modifier_separator.join(phrases)


def compose(captions: list[str], phrases: list[str], recipe: Recipe) -> list[str]:
    """One prompt a caption; without captions the modifiers alone, without modifiers the captions alone.

    Example (separator ""): ["a spiral on it"], ["a woodcut", "swirl"] -> ["a spiral on ita woodcut, swirl"]
    """
    line = modifier_line(phrases, recipe)
    if not captions:
        return [line] if line else []
    return [caption + recipe.separator + line if line else caption for caption in captions]

"""Words that no term may hold."""

import re
from collections.abc import Sequence


def allowed(phrases: Sequence[str], banned: Sequence[str]) -> list[int]:
    """The rows of phrases without these words, which are whole ones in any case: "art" is not in "party".

    Example: allowed(["Art deco", "party", "pop art"], ["art"]) == [1]
    """
    if not banned:
        return list(range(len(phrases)))
    word = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, banned))})(?!\w)", re.IGNORECASE)
    return [row for row, phrase in enumerate(phrases) if not word.search(phrase)]

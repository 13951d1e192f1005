"""Which prompts of a public source go into a sample, and why others do not.

Every verdict is about one row alone, so the order of rows and the size of batches change nothing.
"""

import math
import re
from dataclasses import dataclass, field
from enum import Enum

from kernel.banks.cleaning import Reason, clean
from kernel.errors import UserError

LANGUAGES = ("en", "any")


@dataclass(frozen=True)
class PromptSettings:
    """What is taken: the defaults of `publish prompts`, all of them here."""

    sources: tuple[str, ...] = ("diffusiondb",)
    # share of each source in the sample, which it keeps even where that makes the sample smaller: kind beats count
    mix: dict[str, float] = field(default_factory=dict)
    # sources without a stated licence that the user takes all the same
    accepted: tuple[str, ...] = ()
    count: int = 1_000_000
    seed: int = 0
    # one or two words are names and typing errors for the most part
    min_words: int = 3
    # CLIP reads 75 tokens, about 60 words: it does not see the end of a longer prompt
    max_words: int = 60
    language: str = "en"
    # scores are probabilities, so above this a prompt is likelier unsafe than not
    max_nsfw: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"--count {self.count}: expected 1 or more, else nothing is written")
        if not 0 <= self.min_words <= self.max_words:
            raise UserError(
                f"--min-words {self.min_words} and --max-words {self.max_words}: expected 0 or more and no more than "
                "the other, else no prompt passes"
            )
        if self.language not in LANGUAGES:
            raise UserError(f"--language {self.language!r}: unknown. Valid: {', '.join(LANGUAGES)}")
        if self.mix and (tuple(self.mix) != self.sources or not all(share > 0 for share in self.mix.values())):
            raise UserError(f"--mix {self.mix}: expected a share above 0 of every source, and no --source beside it")
        if self.mix and abs(sum(self.mix.values()) - 1) > 1e-6:
            raise UserError(f"--mix {self.mix}: the shares sum to {sum(self.mix.values()):g}; expected 1")
        if not 0 <= self.max_nsfw <= 1:
            raise UserError(f"--max-nsfw {self.max_nsfw}: expected 0 to 1; 1 takes every prompt that has a score")


class Why(Enum):
    """Why a clean prompt is dropped; the value is its name in the counts."""

    TOO_FEW_WORDS = "too few words"
    TOO_MANY_WORDS = "too many words"
    LANGUAGE = "other language"
    NSFW = "NSFW score too high"
    NO_SCORE = "no NSFW score"


REASONS = [reason.value for reason in (*Reason, *Why) if reason is not Reason.DUPLICATE]


def passed(text: str, score: float | None, scored: bool, settings: PromptSettings) -> str | Reason | Why:
    """The clean prompt, or the first reason to drop it. `scored` says whether the source has NSFW scores at all."""
    prompt = clean(text)
    if isinstance(prompt, Reason):
        return prompt
    words = len(prompt.split())
    if words < settings.min_words:
        return Why.TOO_FEW_WORDS
    if words > settings.max_words:
        return Why.TOO_MANY_WORDS
    if settings.language == "en" and not seems_english(prompt):
        return Why.LANGUAGE
    if scored and (score is None or math.isnan(score)):
        return Why.NO_SCORE
    if scored and score is not None and score > settings.max_nsfw:
        return Why.NSFW
    return prompt


# One such word, and none of English, is telling only in a prompt of no more words than this.
LONE_WORD_IN = 8
# Of all letters; names and loan words keep their accents ("café", "Dalí", "Chloé").
MIN_ASCII_SHARE = 0.85
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")

# Frequent words of English, those of prompts among them.
ENGLISH = frozenset(
    "the of and with by from at for to is are this that these his her their its very wearing holding standing sitting "
    "looking into through over under between behind woman girl boy cat dog house city night style painting portrait "
    "photo drawing made which who while as like being has there you your my".split()
)
# Frequent words of Spanish, French, German, Italian, Portuguese, Dutch, Polish and Turkish, written in ASCII, that are
# no English words and stand in few names: no "la", "de", "el", "le", "van", "von", "der", "los" as in "Los Angeles",
# no "pour", "chat", "met", "com", "adam".
OTHER = frozenset(
    "una unos unas por para como pero muy sobre desde entre hacia mujer hombre chica gato perro noche ciudad casa "
    "cielo con y en estilo cuadro paisaje retrato tiene esta ella sus "
    "une un les du et dans sur avec est sont qui femme homme fille chien nuit ville maison vers sous "
    "ein eine einer einem einen und mit auf ist sind nicht das dem den zum zur bei frau mann katze hund haus stadt "
    "nacht wald vor hinter unter ueber wie "
    "gli nel nella della dello delle degli che sono donna uomo ragazza notte citta ritratto alla "
    "uma um na das mulher homem menina cachorro noite cidade estilo pela "
    "het een op voor niet vrouw meisje hond huis stad nacht bos onder boven naar "
    "jest nie przez kobieta kot pies miasto noc oraz lub nad "
    "bir ile gibi kedi gece olan icin".split()
)


def seems_english(text: str) -> bool:
    """Whether nothing says that a prompt is not English: most letters are ASCII, and frequent words of eight other
    European languages do not outnumber those of English, or stand alone in a long prompt.

    It is no language model. It lets through what holds no frequent word at all, as lists of names and tags do
    ("cyberpunk samurai, octane render"), and so also phrases of a language that it does not know or that is written
    in other letters than its own ("röda katten på taket", "akai neko"). It drops English prompts that quote foreign
    words ("uno card") and hold no frequent English one.

    Example: "un gato en la playa, al atardecer" -> False; "a cat at the beach, un chien" -> True
    """
    letters = [character for character in text if character.isalpha()]
    if sum(character.isascii() for character in letters) < MIN_ASCII_SHARE * len(letters):
        return False
    words = [word.lower() for word in WORD.findall(text)]
    other = sum(word in OTHER for word in words)
    english = sum(word in ENGLISH for word in words)
    return other <= english or (other == 1 and len(words) > LONE_WORD_IN)

"""Descriptions in Korean: by which CLIP terms are ranked, who says the caption, and how English terms are said.

A Korean CLIP, `clip_ko` of the weights folder, reads the Korean phrases themselves. Where there is none, the English
one ranks their English partners, and the Korean phrases are answered; it never sees a Korean caption.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel.banks.korean.partners import BANKS, Partners, read_partners
from kernel.banks.word_banks import Phrases
from kernel.config import Recipe, captioner_names
from kernel.errors import UserError, did_you_mean
from kernel.interrogator.bans import allowed
from kernel.interrogator.request import MERGED, NEGATIVE, Request
from kernel.models.captioners.loading import captioners_named, captioners_speaking
from kernel.models.multilingual.loading import kind_of_clip
from kernel.models.weights_folder import Weights

KOREAN_CLIP = "clip_ko"


def clip_name(request: Request, weights: Weights) -> str:
    """The model of the weights folder that ranks terms. Raises UserError for a Korean one of an unknown class."""
    if request.language != "ko" or KOREAN_CLIP not in weights.models:
        return "clip"
    kind_of_clip(weights, KOREAN_CLIP)
    return KOREAN_CLIP


def by_partners(request: Request, weights: Weights) -> bool:
    """Whether Korean phrases are ranked by their English partners."""
    return request.language == "ko" and clip_name(request, weights) != KOREAN_CLIP


def captioners_for(request: Request, recipe: Recipe, weights: Weights) -> list[str]:
    """The captioners that speak the request's language; none where the prompt takes no caption, or nobody speaks
    Korean and none was named. Raises UserError for others, and for several whose Korean no CLIP reads."""
    if not request.needs_captions:
        return []
    if request.language == "ko" and recipe.captioner == "auto" and not captioners_speaking(request.spoken, weights):
        return []
    named = captioners_named(recipe, weights, request.spoken)
    if len(captioner_names(recipe.captioner)) > 1 and by_partners(request, weights):
        raise UserError(
            f"captioner={recipe.captioner}: CLIP chooses among their prompts, and {weights.folder} holds none that "
            f"reads Korean: the first one's would always be taken. Name one, or give weights with a model {KOREAN_CLIP}"
        )
    return named


def notes(request: Request, weights: Weights, captioners: list[str]) -> list[str]:
    """What a Korean description lacks of this weights folder, a line each."""
    said = []
    if by_partners(request, weights):
        said.append(
            f"{weights.folder} holds no Korean CLIP ({KOREAN_CLIP}): its English one ranks the terms by their English "
            "partners"
        )
    if request.language == "ko" and request.needs_captions and not captioners:
        said.append(f"{weights.folder} holds no captioner that speaks Korean: prompts are of terms alone")
    return said


def korean_banks(request: Request, weights: Weights) -> list[Phrases]:
    """The banks as the CLIP reads that ranks them: Korean phrases, or their English partners; none that a ban leaves
    nothing of. Mode negative takes the flavors, the user's own and, last, theirs for it. Raises UserError for names
    that are none, and where partners rank for phrases that lack one or share it."""
    banks = partners_of(request)
    if not by_partners(request, weights):
        return [Phrases(own.name, list(own.english), {}) for own in banks]
    for own in banks:
        alone = next((phrase for phrase, partner in own.english.items() if not partner), None)
        if alone is not None:
            raise UserError(
                f"{request.own[own.name]}: {alone!r} has no English partner, and {weights.folder} holds no Korean "
                f"CLIP that reads it. Write a tab and the English behind each phrase, or give weights with a "
                f"model {KOREAN_CLIP}"
            )
    return [Phrases(name, list(korean), {}) for name, korean in korean_by_bank(request).items()]


def partners_of(request: Request) -> list[Partners]:
    for name in request.without:
        valid = [*BANKS, *request.own]
        if name not in (*valid, *MERGED, NEGATIVE):  # that Korean has none of some is as good as left out
            raise UserError(f"no word bank {name!r} to leave out{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
    # clip-interrogator joins artists to the medium by a word of English
    if "artists" in request.own:
        raise UserError("--words artists: not in Korean. Give your list another name, such as --words 화가=FILE")
    taking_part = ("flavors",) if request.mode == "negative" else ("flavors", "mediums", "movements")
    own = [name for name in request.own if name not in (*BANKS, NEGATIVE)]
    if request.mode == "negative" and NEGATIVE in request.own:
        own.append(NEGATIVE)
    banks = [
        without_banned(read_partners(name, Path(request.own[name]) if name in request.own else None), request)
        for name in (*taking_part, *own)
        if name not in request.without
    ]
    if not banks:
        raise UserError(f"mode {request.mode}: no word bank is left. Leave out fewer, or add one with --words FILE")
    return [own for own in banks if own.english]


def without_banned(partners: Partners, request: Request) -> Partners:
    """A phrase goes by its own words and by its partner's."""
    english = {
        phrase: partner
        for phrase, partner in partners.english.items()
        if len(allowed([phrase, partner or ""], request.banned)) == 2
    }
    return replace(partners, english=english)


def korean_by_bank(request: Request) -> dict[str, dict[str, str]]:
    """By bank the Korean phrase of every English partner, each partner once: the user's own, else that of the first
    bank. Raises UserError where two of the user's share one, as the prompt could say but one of them."""
    banks = partners_of(request)
    own_phrases = {phrase for own in banks if own.name in request.own for phrase in own.english}
    said: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {own.name: {} for own in banks}
    for own in sorted(banks, key=lambda own: own.name not in request.own):
        for phrase, partner in own.english.items():
            if own.name not in request.own and phrase in own_phrases:
                continue  # said already, by the partner that the user gives it
            if partner and partner not in said:
                said[partner] = found[own.name][partner] = phrase
            elif partner and own.name in request.own and phrase != said[partner]:
                raise UserError(
                    f"{request.own[own.name]}: {said[partner]!r} and {phrase!r} share the English partner {partner!r}, "
                    "and its rank would be that of the first alone. Give each its own"
                )
    return {name: korean for name, korean in found.items() if korean}


def korean_of(request: Request) -> dict[str, str]:
    """The Korean phrase of every English partner."""
    return {partner: phrase for own in korean_by_bank(request).values() for partner, phrase in own.items()}


def in_korean(description: dict[str, Any], korean: dict[str, str], caption: str) -> dict[str, Any]:
    """A description of English partners, said in Korean behind the caption; similarities stay those of the partners.

    Example: in_korean({"prompt": "fog, at dusk", "similarity": 0.3, "parts": [{"term": "fog"}]},
    {"fog": "안개", "at dusk": "해 질 녘"}, "") == {"prompt": "안개, 해 질 녘", "similarity": 0.3,
    "parts": [{"term": "안개", "english": "fog"}]}
    """

    def said(own: dict[str, Any]) -> dict[str, Any]:
        terms = [korean[term] for term in own["prompt"].split(", ") if term]
        return {**own, "prompt": ", ".join([caption, *terms] if caption else terms)}

    whole = said(description)
    whole["parts"] = [{**part, "term": korean[part["term"]], "english": part["term"]} for part in description["parts"]]
    if "candidates" in description:
        whole["candidates"] = {name: said(own) for name, own in description["candidates"].items()}
    return whole

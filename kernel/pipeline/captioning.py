"""`describe --write`: prompts into the files beside their pictures."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.interrogator.korean import captioners_for
from kernel.interrogator.request import Request
from kernel.models.clip import CONFIGURATIONS, clip_tokenizer, token_count
from kernel.models.configurations import check_configurations
from kernel.models.weights_folder import loading, open_weights
from kernel.pipeline.decoding import BadImage, decode
from kernel.pipeline.describe import DEFAULT_MEANS, Means, describe_files, meant, recipe_of
from kernel.pipeline.images import is_image
from kernel.sidecars import csv
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.txt import txt_path
from kernel.sidecars.writer import Writer
from kernel.system.terminal.progress import STDERR


def describe_into(
    sidecars: Sidecars,
    images: Sequence[str | Path],
    request: Request,
    weights_folder: Path,
    means: Means = DEFAULT_MEANS,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
    recursive: bool = False,
) -> tuple[list[dict[str, Any]], str]:
    """The records of those pictures that were described now, as `describe` makes them, and what was written, in a line.

    Raises UserError as `describe` does, and before the first image for captions that would be lost.
    """
    given, pictures = [str(name) for name in images], meant(images, recursive)
    if sidecars.kind == "csv" and sidecars.out is None:
        sidecars = replace(sidecars, out=str(default_csv(given)))
    if sidecars.kind == "txt":
        refuse_shared(pictures)
    if sidecars.form == "sentence":
        require_captions(request, means, weights_folder)
    if sidecars.max_tokens is not None and request.language != "en":
        raise UserError("--max-tokens are those of the English CLIP, which read no Korean well. Leave it out")
    command = {
        "mode": request.mode, "language": request.language, "top": request.most,
        "without": request.without, "banned": request.banned,
        "words": {name: str(Path(path).absolute()) for name, path in request.own.items()},
        "captioner": means.captioner, "weights": str(weights_folder.absolute()), "recursive": recursive,
    }  # fmt: skip
    writer = Writer(sidecars, given, pictures, command, token_counter(sidecars, weights_folder))

    def write_and_tell(record: dict[str, Any]) -> None:
        writer.tell(record)
        tell(record)

    records: list[dict[str, Any]] = []
    try:
        if writer.left:
            begun = writer.begun() if means.scratch else ()
            records = describe_files(writer.left, request, weights_folder, means, write_and_tell, begun)
        said = writer.finish()
    except BaseException:
        writer.stop()
        raise
    told(writer.changed, "somebody else changed their captions meanwhile: those stay as they are")
    told(writer.too_long, f"the first part alone takes more than {sidecars.max_tokens} tokens: written as it is")
    return records, said


def require_captions(request: Request, means: Means, weights_folder: Path) -> None:
    """Raises UserError where no captioner says anything of the pictures."""
    if not request.needs_captions:
        raise UserError(f"--form sentence is the captioner's, and mode {request.mode} asks none. Give another of both")
    recipe, weights = recipe_of(request.mode, means.captioner), open_weights(weights_folder, hashes=False)
    if not captioners_for(request, recipe, weights):
        raise UserError(
            f"--form sentence is the captioner's, and {weights_folder} holds none that speaks Korean. Give --form tags"
        )


def told(images: list[Path], what: str) -> None:
    if images:
        more = f" and {len(images) - 3:,} more" if len(images) > 3 else ""
        print(f"{', '.join(map(str, images[:3]))}{more}: {what}", file=STDERR)


def default_csv(given: list[str]) -> Path:
    """In the folder that alone was given, else in the current one."""
    return Path(given[0] if len(given) == 1 and Path(given[0]).is_dir() else ".") / csv.NAME


def token_counter(sidecars: Sidecars, weights_folder: Path) -> Callable[[str], int] | None:
    """By the tokenizer of the weights folder's CLIP. Raises UserError where it does not load."""
    if sidecars.max_tokens is None:
        return None
    folder = open_weights(weights_folder, hashes=False).model_folder("clip")
    check_configurations(folder, CONFIGURATIONS)
    with loading(folder, "open_clip"):
        return partial(token_count, clip_tokenizer(folder))


def refuse_shared(pictures: list[Path]) -> None:
    """Raises UserError for a picture whose .txt would be another one's too, whether that one was given or not."""
    beside: dict[Path, list[str]] = {}
    for folder in {path.parent for path in pictures}:
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_image(path):
                beside.setdefault(txt_path(path), []).append(path.name)
    times = Counter(map(txt_path, pictures))
    for path in pictures:  # a pattern, or a name, takes whatever is a picture by its content
        own = txt_path(path)
        if not is_image(path) and (own in beside or times[own] > 1) and not isinstance(decode(path), BadImage):
            beside.setdefault(own, []).append(path.name)
    shared = {own: sorted(beside[own]) for own in map(txt_path, pictures) if len(beside.get(own, [])) > 1}
    if shared:
        (first, names), more = next(iter(shared.items())), len(shared) - 1
        raise UserError(
            f"{first.parent}: {' and '.join(names)} would share {first.name}"
            f"{f', and {more:,} more are like that' if more else ''}; one caption would be lost, or stand for both. "
            "Rename one of them, or give --write jsonl or csv, which name each picture in full"
        )

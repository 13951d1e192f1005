"""Run folder to report.html: every image beside what was said of it, in one file without any network."""

import base64
import io
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.images import BadImage, decode, list_images
from kernel.store import RunFolder, read_run, write_whole

THUMBNAIL = 160


def write_report(run: Path) -> Path:
    """Writes RUN/report.html and returns its path. Scores are shown where run.json holds them."""
    from jinja2 import Environment, PackageLoader

    content = read_run(run)
    if content is None or "shards" not in content:
        raise UserError(f"{run}: no finished run found; expected a folder that 'python -m kernel run' wrote")
    files = list_images(Path(content["images"]))[: content["counts"]["images"]]
    folder = RunFolder(run, files, content["recipe"]["shard_images"])
    cards = [
        {
            "id": file.id,
            "thumbnail": thumbnail(file.path),
            "bad": content["bad_images"].get(file.id),
            "captions": said,
            "modifiers": phrases,
            "prompt": content.get("prompts", {}).get(file.id),
            "cosine": content.get("per_image", {}).get(file.id),
        }
        for file, said, phrases in zip(files, folder.read_captions()[0], folder.read_modifiers(), strict=True)
    ]
    environment = Environment(loader=PackageLoader("kernel", "templates"), autoescape=True)
    page = environment.get_template("report.html").render(run=content, cards=sorted(cards, key=worst_first))
    write_whole(run / "report.html", page.encode("utf-8", errors="replace"))
    return run / "report.html"


def worst_first(card: dict[str, Any]) -> tuple[float, str]:
    return (card["cosine"] if card["cosine"] is not None else 0.0, card["id"])


def thumbnail(path: Path) -> str | None:
    """The image as a small JPEG in a data URI; None when it cannot be decoded."""
    image = decode(path)
    if isinstance(image, BadImage):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()

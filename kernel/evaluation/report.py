"""Run folder to report.html: every image beside what was said of it, in one file without any network.

Whatever texts hold, they stay text: Jinja2 escapes what stands in the page, the gallery's texts travel as JSON and are
put in by textContent, and a content security policy lets no script run but the page's own, and nothing be fetched.
"""

import base64
import hashlib
import html
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.evaluation.finished import finished_run, images_of, weights_of
from kernel.evaluation.report_content import ablation, best_of, cards, histogram, parts, stages, summary, truth_of
from kernel.evaluation.thumbnails import thumbnails
from kernel.system.files import write_whole, writing

PART = 256  # pictures that a page takes apart at a time
PAGE_BYTES = 55_000_000  # of texts and pictures; beyond about 60 MB mail and browsers get slow
PICTURES = "report_pictures"
NO_REPORT = "there is no report. Free space, or copy the run folder to where you may write"


def write_report(
    run: Path,
    prompts: Path | None = None,
    pictures_beside: bool = False,
    *,
    images: Path | None = None,
    weights: Path | None = None,
) -> Path:
    """Writes RUN/report.html and returns its path.

    `prompts`, a prompts.csv with the true prompts, adds scores. `pictures_beside` puts the pictures into a folder
    beside the page instead of into it. `images` and `weights`: where they lie now, if not where they are looked for.
    Raises UserError for a folder without a finished run, or into which nothing can be written.
    """
    page = page_of(run, prompts, pictures_beside, images=images, weights=weights)
    with writing(run, NO_REPORT):
        write_whole(run / "report.html", page.encode("utf-8", errors="replace"))
    return run / "report.html"


def page_of(
    run: Path,
    prompts: Path | None,
    pictures_beside: bool = False,
    some: tuple[int, str] | None = None,
    *,
    images: Path | None = None,
    weights: Path | None = None,
) -> str:
    """The page as text; of `some` images, their number and an order of ORDERS, where not of all.

    What of the images changed since the run is told on stderr too.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    finished = finished_run(run)
    found, changes = images_of(run, finished.record["images"], finished.ids, images)
    for change in changes:
        print(f"warning: {run}: {change}", file=sys.stderr)
    truth = None
    if prompts:
        truth = truth_of(finished, prompts, weights or weights_of(run, finished.record["weights"]))
    shown = cards(finished, truth)
    if some:
        shown = best_of(shown, *some)
    files = {file.id: file for file in found}
    # base64 makes four bytes of three; beside the page pictures need not be smaller
    left = (PAGE_BYTES - len(json_in_page(shown).encode(errors="replace"))) * 3 // 4
    pictures = list(thumbnails([files[card["id"]] for card in shown], None if pictures_beside else left))
    for index, (card, picture) in enumerate(zip(shown, pictures, strict=True)):
        card |= {"index": index, "picture": picture is not None}
    folder = PICTURES if pictures_beside else None
    if folder:
        with writing(run, NO_REPORT):
            (run / folder).mkdir(exist_ok=True)
            for index, picture in enumerate(pictures):
                if picture is not None:
                    write_whole(run / folder / f"{index:06d}.jpg", picture)
    environment = Environment(loader=PackageLoader("kernel.evaluation", "templates"), autoescape=True)
    loader = environment.loader
    assert loader is not None
    script, style = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("js", "css"))
    return environment.get_template("report.html").render(
        summary=summary(finished, changes),
        score=truth.score if truth else None,
        histogram=histogram(truth),
        stages=stages(finished.record),
        parts=parts(finished, truth),
        ablation=ablation(finished.record),
        settings=Markup(json_in_page({"part": PART, "folder": folder})),
        cards=Markup(json_in_page(shown)),
        pictures=[] if folder else [Markup(part) for part in encoded_parts(pictures)],
        script=Markup(script),
        style=Markup(style),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def json_in_page(content: Any) -> str:
    """JSON that may stand in a script element: no tag can begin or end in it."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def encoded_parts(pictures: list[bytes | None]) -> Iterator[str]:
    """PART pictures a text, each in base64 on a line of its own; "-" where there is none."""
    for start in range(0, len(pictures), PART):
        some = pictures[start : start + PART]
        yield "\n".join("-" if picture is None else base64.b64encode(picture).decode() for picture in some)


def display_page(page: str) -> None:
    """Shows a whole page in a frame of its own, where its styles stay with it."""
    from IPython.display import HTML, display

    display(
        HTML(f'<div><iframe srcdoc="{html.escape(page)}" width="100%" height="800" frameborder="0"></iframe></div>')
    )

"""README's pictures of the demo's report and of the server's page, after `make demo`."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from kernel.config import DEFAULT_DEMO, DEFAULT_WEIGHTS
from tests.browser.conftest import CHROMIUM, opened_browser
from tests.server.started import started

REPORT = DEFAULT_DEMO / "report.html"
IMAGES = DEFAULT_DEMO / "competition" / "images"
PICTURES = Path(__file__).parent / "pictures"
VIEW = {"width": 1280, "height": 1180}
SHORT = {"width": 1100, "height": 900}
# drops a file, by its name and bytes, as a hand does
DROP = """([name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
    document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


def pictures_of(browser: Any, report: Path, folder: Path) -> list[Path]:
    """The first screen of a report, light and dark, as PNG files in `folder`."""
    made = []
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport=VIEW, color_scheme=scheme)
        page.goto(report.resolve().as_uri())
        page.evaluate(
            "Promise.all([...document.images].slice(0, 6).map(i => { i.loading = 'eager'; return i.decode(); }))"
        )
        made.append(folder / f"report_{scheme}.png")
        page.screenshot(path=made[-1])
        page.close()
    return made


def picture_of_page(browser: Any, weights: Path, images: list[Path], folder: Path) -> Path:
    """The server's page after it has described two pictures in mode best, as a PNG file in `folder`."""
    with tempfile.TemporaryDirectory() as scratch, started(weights.resolve(), Path(scratch)) as server:
        page = browser.new_page(viewport=SHORT)
        page.goto(server.address)
        page.locator("#banks label").first.wait_for()
        page.get_by_label("choose pictures").set_input_files(images)
        page.get_by_label("mode").select_option("best")
        page.get_by_label("terms at most").fill("4")
        page.get_by_role("button", name="Describe").click()
        page.locator("#status", has_text="described").wait_for(timeout=120_000)
        page.screenshot(path=folder / "serve.png")
        page.close()
    return folder / "serve.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="default %(default)s")
    parser.add_argument("--images", type=Path, default=IMAGES, help="default %(default)s")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=PICTURES, metavar="DIR", help="default %(default)s")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium is installed: 'make browser' installs one, where it may")
    options.out.mkdir(exist_ok=True)
    with opened_browser() as browser:
        for path in pictures_of(browser, options.report, options.out):
            print(path)
        images = sorted(options.images.iterdir())[:2]
        print(picture_of_page(browser, options.weights, images, options.out))


if __name__ == "__main__":
    main()

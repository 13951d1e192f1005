"""README's pictures of the demo's report: `python -m tests.browser.screenshots` after `make demo`."""

import sys
from pathlib import Path
from typing import Any

from tests.browser.conftest import CHROMIUM, opened_browser

REPORT = Path("build/demo/report.html")
PICTURES = Path(__file__).parent / "pictures"
VIEW = {"width": 1280, "height": 1180}


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


def main() -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium is installed: 'make browser' installs one, where it may")
    PICTURES.mkdir(exist_ok=True)
    with opened_browser() as browser:
        for path in pictures_of(browser, REPORT, PICTURES):
            print(path)


if __name__ == "__main__":
    main()

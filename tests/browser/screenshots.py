"""README's pictures of the demo's report: `python -m tests.browser.screenshots` after `make demo`."""

import argparse
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=PICTURES, metavar="DIR", help="default %(default)s")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium is installed: 'make browser' installs one, where it may")
    options.out.mkdir(exist_ok=True)
    with opened_browser() as browser:
        for path in pictures_of(browser, options.report, options.out):
            print(path)


if __name__ == "__main__":
    main()

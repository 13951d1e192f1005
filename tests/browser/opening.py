"""How long a report takes to open in a real browser: `python -m tests.browser.opening REPORT`."""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.browser.conftest import opened_browser

TIMES = 5


def opening(report: Path, browser: Any) -> None:
    """Prints the page's size and the seconds until its first picture is there, each time in a page of its own."""
    seconds = []
    for _ in range(TIMES):
        page = browser.new_page()
        begun = time.perf_counter()
        page.goto(report.resolve().as_uri())
        page.locator("article img").first.wait_for()
        seconds.append(time.perf_counter() - begun)
        count = page.locator("#count").text_content()
        page.close()
    print(
        f"{count}, {report.stat().st_size / 1e6:.1f} MB: opens in {statistics.median(seconds):.2f} s "
        f"(median of {TIMES}, {min(seconds):.2f} to {max(seconds):.2f})"
    )


if __name__ == "__main__":
    with opened_browser() as browser:
        opening(Path(sys.argv[1]), browser)

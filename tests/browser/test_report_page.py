"""report.html as a person uses it: sorts, searches, filters, follows a link."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel.evaluation.report import write_report
from tests.browser.opening import opening
from tests.browser.screenshots import VIEW, pictures_of
from tests.evaluation.test_report import HOSTILE, finished  # noqa: F401  (the same run)


@pytest.fixture(scope="module")
def report(finished) -> Path:  # noqa: F811
    return write_report(finished / "run", finished / "prompts.csv")


@pytest.fixture
def opened(page, report):
    page.goto(report.as_uri())
    return page


def shown(page) -> list[str]:
    return page.locator("article h3 a").all_text_contents()


def cosines(page) -> list[float]:
    return [float(text.removeprefix("cosine ")) for text in page.locator("article h3 b").all_text_contents()]


def test_the_lowest_cosine_comes_first_and_the_order_can_be_changed(opened):
    assert len(shown(opened)) == 7 and cosines(opened) == sorted(cosines(opened))
    opened.get_by_label("sort").select_option("best")
    assert cosines(opened) == sorted(cosines(opened), reverse=True)
    opened.get_by_label("sort").select_option("id")
    assert shown(opened) == ["<b>bold & broken", *"abcdef"]


def test_search_finds_words_of_any_text(opened):
    caption = opened.locator("article", has=opened.get_by_text("captions")).locator("li").first.text_content()
    opened.get_by_label("search in ids and texts").fill(caption.upper())
    texts = opened.locator("article").all_text_contents()
    assert texts and all(caption in text for text in texts)
    opened.get_by_label("search in ids and texts").fill("no such words anywhere")
    assert shown(opened) == [] and opened.locator("#count").text_content() == "0 of 7 images"


def test_filters_leave_bad_images_and_low_scores(opened):
    opened.get_by_label("show").select_option("bad")
    assert shown(opened) == ["<b>bold & broken"]
    assert opened.locator("article .missing").text_content() == "no picture"
    opened.get_by_label("show").select_option("all")
    middle = sorted(cosines(opened))[3]
    opened.get_by_label("cosine below").fill(str(middle))
    assert len(shown(opened)) == 3 and max(cosines(opened)) < middle


def test_pictures_are_drawn(opened):
    widths = opened.locator("article img").evaluate_all(
        "images => Promise.all(images.map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth) }))"
    )
    assert widths == [160] * 6


def test_hostile_text_stays_text_and_does_not_widen_the_page(opened):
    opened.get_by_label("show").select_option("bad")
    assert opened.locator("article p.true").text_content() == HOSTILE
    assert opened.locator("article script, article p img").count() == 0
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_link_leads_to_one_image(page, report):
    page.goto(f"{report.as_uri()}#image=d")
    assert page.locator("article.chosen h3 a").text_content() == "d"
    page.get_by_role("link", name="a", exact=True).click()
    assert page.locator("article.chosen h3 a").text_content() == "a"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    back, text = opened.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    (dark, light) = sorted(sum(map(int, color[4:-1].split(","))) for color in (back, text))
    assert light - dark > 400 and (sum(map(int, back[4:-1].split(","))) > 382) == (scheme == "light")


def test_what_can_be_set_has_a_name_for_screen_readers(opened):
    unnamed = opened.evaluate(
        """[...document.querySelectorAll('input, select, button, img, section, form, article')]
        .filter(each => !(each.labels?.length || each.ariaLabel || each.alt || each.textContent.trim())).length"""
    )
    assert unnamed == 0


def test_pictures_for_the_readme_are_taken(browser, report, tmp_path):
    light, dark = (Image.open(path).convert("L") for path in pictures_of(browser, report, tmp_path))
    assert light.size == dark.size == (VIEW["width"], VIEW["height"])
    assert np.asarray(light).mean() - np.asarray(dark).mean() > 100


def test_a_report_opens_and_its_size_is_told(report, capsys, browser):
    opening(report, browser)
    assert re.match(r"7 of 7 images, \d\.\d MB: opens in \d+\.\d\d s", capsys.readouterr().out)


def test_many_images_are_drawn_as_they_are_scrolled_to(page, report, tmp_path):
    content = report.read_text(encoding="utf-8")
    begin = content.index('id="cards">') + len('id="cards">')
    end = content.index("</script>", begin)
    (some, *_) = [card for card in json.loads(content[begin:end]) if card["id"] == "a"]
    many = [{**some, "index": index, "id": f"copy {index}", "picture": False} for index in range(2_000)]
    (tmp_path / "many.html").write_text(content[:begin] + json.dumps(many).replace("<", "\\u003c") + content[end:])
    page.goto((tmp_path / "many.html").as_uri())
    first = page.locator("article").count()
    assert 48 <= first < 500
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.locator("article").nth(first).wait_for()
    page.get_by_label("search in ids and texts").fill("copy 1999")
    assert shown(page) == ["copy 1999"]

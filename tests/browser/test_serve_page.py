"""The server's page in a real browser: what people do with it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.pipeline.images import FORMATS
from tests.browser.screenshots import DROP
from tests.conftest import save_pictures
from tests.server.started import Started, started

SECONDS = 60_000  # ms: the first answer loads the models


@pytest.fixture(scope="module")
def server(weights_folder, tmp_path_factory, browser) -> Iterator[Started]:
    with started(weights_folder.resolve(), tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, drawn) -> Path:
    """Six pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures") / "images"
    save_pictures(folder, drawn)
    (folder / "no.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def opened(browser, server):
    """A page of the server; what it prints as errors, and requests to other hosts, fail the test."""
    with opening(browser, server.address) as page:
        yield page


class opening:
    """A page in a context of its own, as of another person."""

    def __init__(self, browser, address: str, **options) -> None:
        self.context = browser.new_context(viewport={"width": 1100, "height": 900}, **options)
        self.context.set_default_timeout(SECONDS)
        self.address, self.trouble = address, []

    def __enter__(self):
        page = self.context.new_page()
        page.trouble = self.trouble
        page.on("console", lambda said: self.trouble.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith((self.address, "blob:", "data:"))
                else self.trouble.append(request.url))  # fmt: skip
        page.goto(self.address)
        page.locator("#banks label").first.wait_for()
        return page

    def __exit__(self, kind, *error) -> None:
        self.context.close()
        assert kind is not None or self.trouble == []


def choose(page, folder: Path, *names: str) -> None:
    page.get_by_label("choose pictures").set_input_files([folder / f"{name}.png" for name in names])


def describe(page) -> None:
    page.get_by_role("button", name="Describe").click()
    page.locator("#status", has_text="described").wait_for()


def card(page, name: str):
    return page.get_by_role("article", name=f"{name}.png")


def downloaded(page, folder: Path) -> dict[str, str]:
    """The texts of the zip, by name."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download prompts").click()
    download.value.save_as(folder / "prompts.zip")
    with zipfile.ZipFile(folder / "prompts.zip") as archive:
        return {name: archive.read(name).decode().strip() for name in archive.namelist()}


def test_pictures_are_dropped_and_described_and_the_prompt_is_copied(opened, folder):
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.evaluate(DROP, ["dropped.png", list((folder / "a.png").read_bytes())])
    describe(opened)
    prompt = card(opened, "dropped").locator(".prompt p").text_content()
    assert opened.locator("#status").text_content() == "1 of 1 described" and prompt
    rows = card(opened, "dropped").get_by_role("table", name="terms").locator("tbody tr")
    cosines = [float(text) for text in rows.locator(".number").all_text_contents()]
    widths = rows.locator(".bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert len(cosines) > 3 and cosines == sorted(cosines, reverse=True)
    assert widths[3] / widths[0] == pytest.approx(cosines[3] / cosines[0], abs=0.02)
    opened.get_by_role("button", name="Copy the prompt of dropped.png").click()
    opened.get_by_role("button", name="Copy the prompt of dropped.png").get_by_text("Copied").wait_for()
    assert opened.evaluate("navigator.clipboard.readText()") == prompt


def test_a_batch_with_a_bad_picture_is_described_and_downloaded(opened, folder, tmp_path):
    choose(opened, folder, *"abcdef", "no")
    assert opened.get_by_role("button", name="Describe 7 pictures").is_enabled()
    describe(opened)
    assert opened.locator("#status").text_content() == "7 of 7 described, 1 of them bad"
    assert "UnidentifiedImageError" in card(opened, "no").locator(".bad").text_content()
    card(opened, "no").scroll_into_view_if_needed()
    assert card(opened, "no").locator("div.picture").text_content() == "not shown by this browser"
    assert downloaded(opened, tmp_path) == {
        f"{name}.txt": card(opened, name).locator(".prompt p").text_content() for name in "abcdef"
    }


def test_a_name_as_long_as_a_disk_takes_it_keeps_no_text_from_the_zip(opened, folder, tmp_path):
    opened.evaluate(DROP, ["n" * 251 + ".png", list((folder / "a.png").read_bytes())])
    for mode in ("fast", "negative"):
        opened.get_by_label("mode").select_option(mode)
        describe(opened)
    assert list(downloaded(opened, tmp_path)) == ["n" * 251 + ".txt", "n" * 200 + ".negative.txt"]


def test_a_file_that_is_gone_since_it_was_chosen_is_told_and_the_others_are_described(opened, folder, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "empty.png").touch()
    opened.get_by_label("choose pictures").set_input_files([copy, tmp_path / "empty.png", folder / "b.png"])
    card(opened, "b").wait_for()
    copy.unlink()
    describe(opened)
    assert opened.locator("#status").text_content() == "3 of 3 described, 2 of them bad"
    for name in ("copy", "empty"):
        assert "moved or changed since: it was not sent" in card(opened, name).locator(".bad").text_content()
    assert card(opened, "b").locator(".prompt p").text_content()
    opened.trouble.clear()  # the browser's own lines on a picture that it cannot show


def test_pictures_are_read_when_they_come_into_view(opened, folder):
    choose(opened, folder, *"abcdef" * 5)
    pictures = opened.get_by_role("img")
    assert pictures.evaluate_all("all => all.map(each => each.loading)") == ["lazy"] * 30
    pictures.last.scroll_into_view_if_needed()
    pictures.last.evaluate("each => each.decode()")  # raises for one that does not come


def test_formats_that_a_browser_may_not_know_can_be_chosen(opened):
    accepted = opened.get_by_label("choose pictures").get_attribute("accept").split(",")
    unknown = {suffix for suffix, name in FORMATS.items() if name in ("HEIF", "JPEG2000", "PPM", "QOI")}
    assert set(accepted) == {"image/*", *unknown}


def test_mode_best_shows_its_candidates_and_the_bank_s_nearest_prompts_and_negative_stands_beside(opened, folder):
    choose(opened, folder, "a")
    opened.get_by_label("mode").select_option("best")
    opened.get_by_label("terms at most").fill("3")
    opened.get_by_label("nearest prompts").fill("2")
    describe(opened)
    candidates = card(opened, "a").get_by_role("table", name="candidates", include_hidden=True)
    assert candidates.locator("tbody .bank").all_text_contents() == ["caption", "classic", "fast", "chain"]
    nearest = card(opened, "a").get_by_role("table", name="nearest prompts of the bank", include_hidden=True)
    assert nearest.locator("tbody tr").count() == 2
    opened.get_by_label("mode").select_option("negative")
    describe(opened)
    titles = card(opened, "a").locator("section > h3").all_text_contents()
    assert titles[0].startswith("prompt, mode best") and any(own.startswith("negative prompt") for own in titles)
    assert opened.get_by_role("button", name="Copy the negative prompt of a.png").count() == 1


def test_a_bank_that_is_left_out_gives_no_term(opened, folder):
    choose(opened, folder, "a")
    opened.get_by_label("flavors").uncheck()
    opened.get_by_label("captioner").select_option("blip")
    describe(opened)
    banks = card(opened, "a").get_by_role("table", name="terms").locator("tbody .bank").all_text_contents()
    assert set(banks) == {"mediums", "movements"}
    assert opened.get_by_role("button", name="Describe").is_disabled()  # nothing is left to do
    opened.get_by_label("flavors").check()
    assert opened.get_by_role("button", name="Describe 1 picture").is_enabled()


def test_what_is_left_of_a_cancelled_batch_is_described_later(opened, folder):
    choose(opened, folder, *"abcdef")
    cancelling = True

    def asked(route) -> None:
        if cancelling:
            opened.get_by_role("button", name="Cancel").click()
        route.continue_()

    opened.route("**/describe", asked)
    opened.get_by_role("button", name="Describe").click()
    opened.locator("#status", has_text="cancelled: 0 of 6 described").wait_for()
    cancelling = False
    assert opened.get_by_role("button", name="Describe 6 pictures").is_enabled()
    describe(opened)
    assert opened.locator("#status").text_content() == "6 of 6 described"


def test_what_the_server_refuses_is_told_and_can_be_asked_otherwise(opened, folder):
    choose(opened, folder, "a")
    for name in ("flavors", "mediums", "movements"):
        opened.get_by_label(name).uncheck()
    with opened.expect_response("**/describe"):
        opened.get_by_role("button", name="Describe").click()
    opened.get_by_role("alert").get_by_text("no word bank is left").wait_for()
    opened.get_by_label("flavors").check()
    describe(opened)
    assert opened.locator("#trouble").text_content() == ""
    assert "422" in opened.trouble.pop()  # the browser's own line on it


def test_two_people_at_once_each_get_their_own(browser, server, folder):
    with opening(browser, server.address) as one, opening(browser, server.address) as other:
        choose(one, folder, *"abc")
        choose(other, folder, *"def")
        for page in (one, other):
            page.get_by_role("button", name="Describe").click()
        for page, names in ((one, "abc"), (other, "def")):
            page.locator("#status", has_text="3 of 3 described").wait_for()
            assert [own.get_attribute("aria-label") for own in page.get_by_role("article").all()] == [
                f"{name}.png" for name in names
            ]
            assert page.locator(".prompt p").count() == 3


def test_the_keyboard_alone_is_enough(opened, folder):
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with opened.expect_file_chooser() as chooser:
        for _ in range(10):
            opened.keyboard.press("Tab")
            if opened.evaluate("document.activeElement.id") == "pictures":
                break
        opened.keyboard.press("Enter")
    chooser.value.set_files(folder / "b.png")
    card(opened, "b").wait_for()
    press_at(opened, "describe")
    opened.locator("#status", has_text="1 of 1 described").wait_for()
    for _ in range(20):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.ariaLabel") == "Copy the prompt of b.png":
            break
    opened.keyboard.press("Enter")
    opened.locator("#said", has_text="Copied").wait_for(state="attached")
    assert opened.evaluate("navigator.clipboard.readText()") == card(opened, "b").locator(".prompt p").text_content()


def press_at(page, name: str) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return page.keyboard.press("Enter")
    raise AssertionError(f"the keyboard does not come to {name}")


def test_everything_has_a_name_for_screen_readers(opened, folder):
    choose(opened, folder, "a")
    describe(opened)
    unnamed = opened.evaluate(
        """[...document.querySelectorAll('input, select, button, img, form, article, table, main, progress, fieldset')]
        .filter(each => !(each.labels?.length || each.ariaLabel || each.alt
            || each.matches('button') && each.textContent.trim()
            || each.querySelector(':scope > legend')?.textContent.trim())).length"""
    )
    assert unnamed == 0
    tree = opened.locator("body").aria_snapshot()
    for said in ('heading "Image to prompts"', 'button "choose pictures"', 'combobox "mode"', 'group "word banks"',
                 'img "picture a.png"', "status: 1 of 1 described", 'table "terms"'):  # fmt: skip
        assert said in tree, tree
    assert opened.get_by_role("heading", name="a.png", exact=True).count() == 1
    rows = opened.get_by_role("table", name="terms").locator("tr")
    cells = rows.evaluate_all(
        "rows => rows.map(row => [...row.children].filter(cell => !cell.ariaHidden).map(cell => cell.className))"
    )
    assert len(cells) > 3 and set(map(len, cells)) == {3}  # text, bank, cosine, each under its own name


def test_screen_readers_are_told_what_is_done_and_not_each_second_what_is_at_work(opened, folder):
    held = []
    opened.route("**/describe", lambda route: held.append(route))
    at = {"said": "captions", "made": 2, "of": 4, "waiting": 1}
    opened.route("**/status", lambda route: route.fulfill(json=at))
    choose(opened, folder, "a")
    opened.get_by_role("button", name="Describe").click()
    opened.locator("#doing", has_text="captions 2 of 4; 1 waiting").wait_for()
    assert [own.text_content() for own in opened.get_by_role("status").all()] == ["0 of 1", ""]
    held.pop().continue_()
    opened.locator("#status", has_text="1 of 1 described").wait_for()
    assert opened.locator("#doing").text_content() == ""


def test_a_copy_that_the_browser_refused_is_not_told_as_one(opened, folder):
    choose(opened, folder, "a")
    describe(opened)
    opened.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error(); }; }")
    opened.evaluate("() => { document.execCommand = () => false; }")
    copy = opened.get_by_role("button", name="Copy the prompt of a.png")
    copy.click()
    assert opened.evaluate("() => String(getSelection())") != ""
    assert copy.text_content() == "Copy" and opened.locator("#said").text_content() == ""
    opened.evaluate("() => { document.execCommand = () => true; }")
    copy.click()
    opened.locator("#said", has_text="Copied").wait_for(state="attached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_and_on_a_phone(browser, server, folder, scheme):
    with opening(browser, server.address, color_scheme=scheme) as page:
        choose(page, folder, "a")
        describe(page)
        back, text = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        (dark, light) = sorted(sum(map(int, color[4:-1].split(","))) for color in (back, text))
        assert light - dark > 400 and (sum(map(int, back[4:-1].split(","))) > 382) == (scheme == "light")
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_hostile_names_and_prompts_stay_text(opened, folder, tmp_path):
    opened.evaluate(DROP, ["<img src=x onerror=alert(1)>.png", list((folder / "a.png").read_bytes())])
    describe(opened)
    assert opened.locator("article h2").text_content() == "<img src=x onerror=alert(1)>.png"
    assert opened.locator("article h2 img").count() == 0


def test_the_api_s_page_is_drawn_without_a_host_elsewhere(browser, server):
    with opening(browser, server.address) as page:
        page.goto(f"{server.address}/docs")
        page.get_by_text("/describe").first.wait_for()
        page.get_by_text("/describe").first.click()
        page.get_by_text("prompts of the prompt bank a picture").wait_for()


def test_a_server_that_was_ended_is_told(browser, weights_folder, folder, tmp_path):
    with started(weights_folder.resolve(), tmp_path) as short:
        with opening(browser, short.address) as page:
            choose(page, folder, "a")
            short.process.kill()
            short.process.wait()
            page.get_by_role("button", name="Describe").click()
            page.get_by_role("alert").get_by_text("the server does not answer").wait_for()
            assert page.get_by_role("button", name="Describe 1 picture").is_enabled()
            page.trouble.clear()  # the browser's own lines on a connection that was refused

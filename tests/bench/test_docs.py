"""The pages' tables: made anew where they stand, and a stale one is found."""

import shutil

import pytest

from tests.bench.docs import BEGIN, DOCS, TABLES, commands, main, renewed, settings


@pytest.fixture
def docs(tmp_path):
    """A copy of the pages."""
    return shutil.copytree(DOCS, tmp_path / "docs")


def test_a_changed_table_is_told_and_made_anew_and_prose_is_left_alone(docs, capsys):
    page = docs / "running.md"
    page.write_text(page.read_text().replace("| `num_beams` | `5` |", "| `num_beams` | `6` |") + "More prose.\n")
    assert main(["--docs", str(docs), "--check"]) == 1
    assert f"{page}: holds other tables" in capsys.readouterr().out
    assert main(["--docs", str(docs)]) == 0
    assert page.read_text() == (DOCS / "running.md").read_text() + "More prose.\n"
    assert main(["--docs", str(docs), "--check"]) == 0


@pytest.mark.parametrize("name", [name for page in TABLES.values() for name in page])
def test_a_page_without_a_table_s_place_is_refused(docs, name):
    (page,) = [docs / page for page, tables in TABLES.items() if name in tables]
    page.write_text(page.read_text().replace(BEGIN.format(name), ""))
    with pytest.raises(ValueError, match=f"{name}: made by make docs"):
        renewed(page)


def test_every_setting_and_every_step_of_publish_is_listed():
    assert "| `estimates` |" in settings() and "| `shard_images` |" in settings()
    assert "| `run` |" in commands() and "| `publish submit` |" in commands() and "| `publish` |" not in commands()

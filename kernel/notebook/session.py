"""What the notebook's cells do, in all three of its uses: by hand, as the committed run, and in the scoring rerun.

First a valid submission is written, the constant one; then everything that can fail runs in a child process, so that
no lack of memory, CUDA abort or kill ends the notebook. What goes wrong is kept in `problems`. The scoring rerun
shows nobody its traceback and must end well once a valid submission stands; every other run raises at its end, so
that trouble shows before a submission is spent.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kernel.errors import UserError
from kernel.evaluation.evaluate import read_prompts
from kernel.evaluation.report import display_page
from kernel.models.encoders.into_weights import add_encoder
from kernel.models.weights_folder import MANIFEST, read_manifest
from kernel.notebook.children import environment_with, install
from kernel.notebook.inputs import find_inputs, restore_weights
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission
from kernel.system.deadline import seconds_of
from kernel.system.files import whole_file
from kernel.system.processes import ending, stream

RERUN = "KAGGLE_IS_COMPETITION_RERUN"
# of the 9 hours that Kaggle gives the whole notebook
DEADLINE = "8h30m"


class Session:
    """One execution of the notebook; `input_root` is /kaggle/input or a folder laid out like it."""

    def __init__(self, input_root: str) -> None:
        """Finds what is mounted and writes the constant submission.csv into the working folder."""
        self.started = time.monotonic()  # a clock that nobody sets
        self.scratch = Path(tempfile.mkdtemp(prefix="image-to-prompts-"))
        self.rerun = os.environ.get(RERUN) is not None
        self.problems: list[str] = []
        self.inputs = find_inputs(Path(input_root))
        self.images = self.inputs.competition / "images"
        self.weights = restore_weights(self.inputs.weights, self.scratch / "weights")
        self.submission = Path("submission.csv")
        self.run_folder = Path("run")
        self.environment = environment_with(self.scratch / "packages")
        print(f"images {self.images}\nweights {self.inputs.weights}\nwheels {self.inputs.wheels}")
        code = self.kernel("constant", self.images, "--weights", self.weights, "--out", self.submission)
        if code:
            raise UserError(f"the constant submission was not written ({ending(code)}): no valid submission stands")
        for name, encoder in self.inputs.encoders.items():
            print(f"encoder {name} {encoder}", flush=True)
            try:
                add_encoder(self.weights, encoder, name)
            except UserError as error:
                self.note(str(error))

    def install_wheels(self) -> None:
        """Puts the dataset's wheels beside the image's packages."""
        if problem := install(self.inputs.wheels, self.scratch / "packages", self.environment):
            self.note(problem)

    def run(self, recipe: str) -> None:
        """Runs the recipe in a child and puts its submission in the constant one's place when it is valid."""
        command = ["run", self.images, "--weights", self.weights, "--out", self.run_folder, "--recipe", recipe]
        left = seconds_of(DEADLINE) - (time.monotonic() - self.started)
        code = self.kernel(*command, "--deadline", f"{max(left, 1):.0f}s")
        if code:
            self.note(f"the run did not end well ({ending(code)})")
        try:
            made = self.run_folder / "submission.csv"
            check_submission(made, [image.id for image in list_images(self.images)])
            with whole_file(self.submission) as unfinished:
                shutil.copy(made, unfinished)
        except (UserError, OSError) as error:
            return self.note(f"{error}; the constant submission stands")
        content = read_run(self.run_folder) or {}
        for problem in content.get("problems", []):
            self.note(problem)
        counts = content.get("counts", {})
        if counts.get("degraded_rows"):
            self.note(f"{counts['degraded_rows']} of {counts['images']} rows are less than asked; see run/run.json")

    def show(self) -> None:
        """Score, pictures and the comparison with the seed deck; not in the scoring rerun, where nobody looks."""
        if self.rerun or self.problems:
            return
        prompts = self.inputs.competition / "prompts.csv"
        images = {image.id for image in list_images(self.images)}
        try:
            known = set(read_prompts(prompts)) == images
        except UserError:
            known = False
        if known:
            # the run's own, beside which its record tells what the prompt bank was built without
            made = self.run_folder / "submission.csv"
            self.need(self.kernel("evaluate", made, prompts, "--weights", self.weights), "the score")
        else:
            print(f"{prompts} does not hold exactly these images' prompts: no score")
        if verify_applies(self.run_folder):
            self.need(self.kernel("verify", self.run_folder), "the comparison with the seed deck")
        self.need(self.kernel("report", self.run_folder, *(["--prompts", prompts] if known else [])), "the report")
        report = self.run_folder / "report.html"
        if report.is_file():
            display_page(report.read_text(encoding="utf-8"))

    def finish(self) -> None:
        """Checks what stands once more; raises for any problem, but in the scoring rerun only without a valid CSV."""
        images = [image.id for image in list_images(self.images)]
        check_submission(self.submission, images)
        print(f"submission.csv is valid for {len(images)} images; weights {models_named(self.weights)}")
        if self.problems and not self.rerun:
            raise UserError("degraded: " + "; ".join(self.problems))

    def kernel(self, *arguments: object) -> int:
        return stream([sys.executable, "-m", "kernel", *map(str, arguments)], self.environment)

    def need(self, code: int, what: str) -> None:
        if code:
            self.note(f"{what} failed ({ending(code)})")

    def note(self, problem: str) -> None:
        self.problems.append(problem)
        print(f"problem: {problem}", flush=True)


def verify_applies(run: Path) -> bool:
    from kernel.evaluation.finished import finished_run
    from kernel.evaluation.seed_deck import reason_against

    return reason_against(finished_run(run)) is None


def models_named(weights: Path) -> str:
    models = read_manifest(weights / MANIFEST).models
    return ", ".join(f"{name} {model['source']}" for name, model in models.items())

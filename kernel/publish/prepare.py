"""What the cells of the `prepare` notebook do: on Kaggle itself, with the internet on, for people without an uplink.

Downloads go to the scratch disk, which is not saved; only the results lie in the working folder, which Kaggle saves
up to 20 GB. Its output, attached to the main notebook, stands in for the weights dataset.
"""

import datetime
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from kernel.banks.cost import bank_bytes, cost_lines
from kernel.banks.into_weights import add_bank
from kernel.errors import UserError
from kernel.notebook import children
from kernel.notebook.children import check_saved
from kernel.system.processes import CODE, ending, stream

# The word lists come with this package, read as data; it is not imported, so what it requires is not needed.
WORD_LISTS = "clip-interrogator==0.6.0"
# What the weights take of the working folder, rounded up.
WEIGHTS_BYTES = 14 * 1000**3


class Preparation:
    """One execution of the notebook: results into `working`, downloads into `scratch`.

    `prompts` is how many public prompts the bank is built from; 0 builds none.
    """

    def __init__(self, working: Path, scratch: Path, prompts: int = 0) -> None:
        self.working, self.scratch, self.count = working, scratch, prompts
        saved = children.SAVED_BYTES
        if self.count < 0 or (self.count and WEIGHTS_BYTES + bank_bytes(self.count) > saved):
            most = (saved - WEIGHTS_BYTES) // bank_bytes(1)
            raise UserError(
                f"PROMPTS is {self.count:,}; expected 0 to {most:,}: Kaggle saves {saved / 1e9:.0f} GB, and the "
                f"weights take {WEIGHTS_BYTES / 1e9:.0f} of them. Build a larger bank on your own machine"
            )
        self.sample = scratch / "prompts.parquet"
        scratch.mkdir(parents=True, exist_ok=True)
        paths = [str(CODE), str(scratch / "packages"), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HOME": str(scratch / "huggingface"),
            "TMPDIR": str(scratch),
            "TQDM_MININTERVAL": "15",
        }

    def wheels(self) -> None:
        """The wheels that the main notebook installs, and here what getting the weights needs."""
        shutil.copytree(CODE / "wheels", self.working / "wheels", dirs_exist_ok=True)
        self.child(["kernel", "publish", "wheels"])
        packages = ["--target", str(self.scratch / "packages"), "--quiet", "--no-deps"]
        self.child(["pip", "install", *packages, WORD_LISTS, *map(str, (self.working / "wheels").glob("*.whl"))])

    def prompts(self) -> None:
        """Says what the bank costs and gets its prompts; nothing where no bank is wanted."""
        if not self.count:
            return print("PROMPTS is 0: no prompt bank, so recipe text will need one from elsewhere")
        print("\n".join(cost_lines(self.count)), flush=True)
        where = ["--out", str(self.sample), "--scratch", str(self.scratch / "downloads")]
        self.child(["kernel", "publish", "prompts", "--count", str(self.count), *where])

    def weights(self) -> None:
        """Gets, converts and checks the weights, and encodes the word banks on the GPU."""
        downloads = str(self.scratch / "downloads")
        self.child(["kernel", "publish", "weights", "--out", "weights", "--scratch", downloads, "--encode"])

    def bank(self) -> None:
        """Builds the bank on the scratch disk, for it takes twice its size meanwhile, and puts it into the weights.

        A build that was cut goes on, a finished one is found again.
        """
        if not self.count:
            return
        built = self.scratch / "prompt_bank"
        self.child(["kernel", "bank", str(self.sample), "--weights", "weights", "--out", str(built)])
        print(add_bank(self.working / "weights", built))

    def finish(self) -> None:
        """Records the image, for wheels/kaggle-image.txt; checks that all results can be saved."""
        freeze = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
        (self.working / "kaggle-image.txt").write_text(image_record(freeze.stdout), encoding="utf-8")
        check_saved(self.working, "Remove what is not needed in weights/")

    def child(self, module: list[str]) -> None:
        """Runs `python -m ...` in the working folder; a failure ends the notebook."""
        code = stream([sys.executable, "-m", *module], self.environment, self.working)
        if code:
            raise UserError(f"python -m {' '.join(module)} failed ({ending(code)}); its words stand above")


def image_record(freeze: str) -> str:
    """wheels/kaggle-image.txt's form: headers, then the lines of `pip freeze`."""
    today = datetime.date.today().isoformat()
    image = os.environ.get("KAGGLE_DOCKER_IMAGE", "unknown")
    return f"# Kaggle's image on {today}\n# image: {image}\n# python: {platform.python_version()}\n{freeze}"

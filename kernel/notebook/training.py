"""What the cells of the `train` notebook do: an image encoder of an attached pair set, left in the working folder.

The training is a child process of torchrun, one for each GPU. A session of Kaggle's ends after 12 hours, so it ends
before, with an encoder that can be used and all that the next one needs: the output of an earlier version, attached as
an input, is gone on with. What goes wrong is told and does not end the notebook as long as there is anything to go on
from, for Kaggle keeps nothing of a notebook that failed.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kernel.errors import UserError
from kernel.models.weights_folder import ENCODER
from kernel.notebook.children import check_saved, copied, environment_with, install
from kernel.notebook.inputs import (
    TRAINED,
    mounted_folders,
    mounted_pairs,
    mounted_weights,
    mounted_wheels,
    restore_pairs,
    restore_weights,
    the_one,
)
from kernel.system.deadline import seconds_of
from kernel.system.devices import find_devices
from kernel.system.processes import ending, stream
from kernel.training.train import WORK

# of the 12 hours that Kaggle gives: what is held out is judged after it, and gigabytes are saved
DEADLINE = "11h30m"
CLIP = "clip"  # the tower of the weights folder


class Training:
    """One execution of the notebook; `input_root` is /kaggle/input or a folder laid out like it."""

    def __init__(self, input_root: str) -> None:
        """Finds what is mounted, and puts what an earlier version left into the working folder, unless the notebook's
        own stands there already."""
        self.started = time.monotonic()  # a clock that nobody sets
        root, self.scratch = Path(input_root), Path(tempfile.mkdtemp(prefix="image-to-prompts-"))
        self.mounts = mounted_folders(root)
        self.wheels = mounted_wheels(self.mounts)
        weights, pairs = mounted_weights(root, self.mounts), mounted_pairs(root, self.mounts)
        self.weights = restore_weights(weights, self.scratch / "weights")
        self.pairs = restore_pairs(pairs, self.scratch / "pairs")
        self.environment = environment_with(self.scratch / "packages")
        self.encoder = Path(TRAINED)
        begun = [folder for mount in self.mounts for folder in (mount, mount / TRAINED) if (folder / WORK).is_dir()]
        print(f"pairs {pairs}\nweights {weights}\nwheels {self.wheels}")
        if begun and not self.encoder.exists():
            earlier = the_one(begun, root, self.mounts, "folder of an unfinished training", "")
            copied(earlier, self.encoder)
            print(f"goes on with {earlier}")

    def install_wheels(self) -> None:
        """Puts the dataset's wheels beside the image's packages; without them nothing is trained."""
        if problem := install(self.wheels, self.scratch / "packages", self.environment):
            raise UserError(problem)

    def train(self, tier: str, tower: str = CLIP, settings: Sequence[str] = ()) -> None:
        """Trains until all is done or the time is over. `tower` is `clip`, or the name of an attached input that holds
        a model of timm as it is saved for a hub; `settings` are those of `train --set`."""
        processes = len([device for device in find_devices() if device.is_gpu]) or 1
        left = seconds_of(DEADLINE) - (time.monotonic() - self.started)
        command = ["train", self.pairs, "--weights", self.weights, "--out", self.encoder, "--tier", tier]
        command += ["--tower", self.tower_folder(tower), "--deadline", f"{max(left, 1):.0f}s"]
        command += [word for setting in settings for word in ("--set", setting)]
        torchrun = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        torchrun += ["--nproc-per-node", str(processes), "-m", "kernel"]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}  # torchrun gives each but one
        code = stream([sys.executable, "-m", *torchrun, *map(str, command)], threads | self.environment)
        if code:
            problem = f"the training did not end well ({ending(code)}); its words stand above"
            if not any((self.encoder / WORK).glob("*.safetensors")):  # no checkpoint
                raise UserError(problem)
            print(f"problem: {problem}. What it made so far is kept: the next version goes on from it", flush=True)

    def tower_folder(self, name: str) -> str | Path:
        if name == CLIP:
            return CLIP
        found = [mount for mount in self.mounts if mount.name == name]
        if not found:
            raise UserError(
                f"TOWER is {name!r}; expected {CLIP!r} or the name of an input: "
                f"{', '.join(mount.name for mount in self.mounts)}. Add the tower's dataset as an input"
            )
        return found[0]

    def finish(self) -> None:
        """Says what there is to attach to the main notebook, and whether all of it can be saved."""
        ready = (self.encoder / ENCODER).is_file()
        print(f"{self.encoder}: {'an encoder, to be attached' if ready else 'no encoder yet: push again'}")
        check_saved(Path(), f"Remove {self.encoder / WORK}: then it can be used, and a training starts over")

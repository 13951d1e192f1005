"""A virtual environment with the exact versions of Kaggle's image, built once and kept."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from kernel.errors import UserError
from kernel.system.kaggle_image import Image, read_image

# Of the image's hundreds of packages, those that the notebooks use, and those that peft finds there and might load.
USED = (
    "torch torchvision transformers sentence-transformers huggingface-hub safetensors pandas numpy pillow "
    "scikit-learn protobuf accelerate timm jinja2 pyarrow pydantic regex tqdm typing-extensions wcwidth "
    "datasets torchdata peft torchao"
).split()
# Kaggle's image executes notebooks too; its versions of these are not on record.
NOTEBOOK_PACKAGES = ["nbconvert", "ipykernel"]
LIST_VERSIONS = (
    "import importlib.metadata as m, json, platform; found = {d.name: d.version for d in m.distributions()}; "
    "print(json.dumps(found | {'python': platform.python_version()}))"
)


def image_python(project: Path, folder: Path) -> Path:
    """The interpreter of an environment in `folder` with every version that wheels/kaggle-image.txt records."""
    image = read_image(project / "wheels" / "kaggle-image.txt")
    base = base_python(image)
    versions = {name: image.packages[name] for name in USED if name in image.packages}
    # the registry has no local version labels, such as torch's +cu128
    wanted = [f"{name}=={version.partition('+')[0]}" if version else name for name, version in versions.items()]
    wanted += NOTEBOOK_PACKAGES
    stamp = folder / "stamp.txt"
    key = hashlib.sha256("\n".join([str(base), *wanted]).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == key:
        return folder / "bin" / "python"
    print(f"{folder}: building the image's environment once ({len(wanted)} packages, gigabytes)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    for command in ([base, "-m", "venv", folder], [folder / "bin" / "python", "-m", "pip", "install", "-q", *wanted]):
        if subprocess.run(list(map(str, command)), stdout=sys.stderr).returncode:
            raise UserError(
                f"{folder}: the environment with the image's versions could not be built (pip's words above). "
                "Run again when the registry answers; --this-python rehearses on this Python's versions meanwhile"
            )
    stamp.write_text(key)
    return folder / "bin" / "python"


def base_python(image: Image) -> Path:
    """An interpreter of the image's minor version where one is found, else the one that runs this."""
    minor = ".".join(image.python.split(".")[:2])
    kept = sorted(Path.home().glob(f".pyenv/versions/{minor}*/bin/python"))
    for candidate in filter(None, [shutil.which(f"python{minor}"), *map(str, kept)]):
        if subprocess.run([candidate, "-c", "import venv, ssl"], capture_output=True).returncode == 0:
            return Path(candidate)
    return Path(sys.executable)


def installed_versions(python: Path) -> dict[str, str]:
    """The version of every package of an interpreter, and its own as "python"."""
    return json.loads(subprocess.run([python, "-c", LIST_VERSIONS], capture_output=True, text=True, check=True).stdout)

"""What of a bank under way lies in OUT/building: shards of prompts, which of them are chosen, and their rows.

Every file is whole or not there, so a killed build goes on with those that are missing.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kernel.system.files import write_json, write_whole

SENTENCES, CLIP = "sentences", "clip"


@dataclass(frozen=True)
class Choice:
    """The places of a shard's prompts that stay, and how many went as `equal` or `near` to a scored prompt.

    `seal` is a sha256 of all that the choice was made of: another one means that it must be made again.
    """

    seal: str
    stays: list[int]
    equal: int
    near: int


def write_prompts(building: Path, shard: int, prompts: list[str]) -> None:
    write_json(building / f"{shard:05d}.json", prompts)


def read_prompts(building: Path, shard: int) -> list[str]:
    return json.loads((building / f"{shard:05d}.json").read_text(encoding="utf-8"))


def chosen_prompts(building: Path, shard: int) -> list[str]:
    prompts = read_prompts(building, shard)
    return [prompts[place] for place in read_choice(building, shard).stays]


def choice_path(building: Path, shard: int) -> Path:
    return building / f"choice-{shard:05d}.json"


def write_choice(building: Path, shard: int, choice: Choice) -> None:
    """The shard's CLIP rows go first: they are of the prompts that were chosen before."""
    rows_path(building, CLIP, shard).unlink(missing_ok=True)
    write_json(choice_path(building, shard), asdict(choice))


def read_choice(building: Path, shard: int) -> Choice:
    return Choice(**json.loads(choice_path(building, shard).read_text(encoding="utf-8")))


def rows_path(building: Path, model: str, shard: int) -> Path:
    return building / f"{model}-{shard:05d}.safetensors"


def write_rows(path: Path, rows: np.ndarray) -> None:
    from safetensors.numpy import save

    write_whole(path, save({"rows": rows.astype(np.float16)}))


def read_rows(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["rows"].astype(np.float32)

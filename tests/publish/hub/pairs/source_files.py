"""Source files of pairs as their publishers write them: tars as `jamarju/sd-4.4M`'s, zips as DiffusionDB's."""

import io
import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.publish.hub.hub_server import Hub
from tests.training.sets import write_tar

SD, DIFFUSIONDB, OWN = "jamarju/sd-4.4M", "poloclub/diffusiondb", "someone/pictures"
OWN_REVISION, SD_REVISION = "0a" * 20, "5d" * 20
DIFFUSIONDB_REVISION = "fb620fbe49fa4420e0734bd9c0df11f51176b61f"

PROMPTS = [f"{start} {thing} {place}" for start in ("a red", "an old wooden", "a drawing of a") for thing in
           ("fish", "castle", "teapot", "robot", "hill", "violin", "tractor", "owl")
           for place in ("in deep fog", "on the moon", "under a bridge in winter")]  # fmt: skip


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def sd_pairs(numbers: range) -> list[tuple[bytes, str, int]]:
    return [
        (encoded(picture(number), lossless=True), PROMPTS[number], number % 6 + 10 * (number // 24))
        for number in numbers
    ]


def encoded(picture: Image.Image, kind: str = "WEBP", **options) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def sd_tar(folder, name: str, pairs: list[tuple[bytes, str, int]]) -> bytes:
    """KEY.webp (or bytes that are none), KEY.txt, KEY.embs.npy, KEY.json with ntokens and cluster."""
    members: dict[str, bytes] = {}
    embedding = io.BytesIO()
    np.save(embedding, np.zeros(384, np.float16))
    for number, (picture, prompt, cluster) in enumerate(pairs):
        members |= {
            f"{number:08d}.webp": picture,
            f"{number:08d}.txt": prompt.encode(),
            f"{number:08d}.embs.npy": embedding.getvalue(),
            f"{number:08d}.json": json.dumps({"ntokens": 9, "cluster": cluster}).encode(),
        }
    return write_tar(folder / name, members).read_bytes()


def diffusiondb_zip(number: int, pairs: list[tuple[str, bytes, str | None]]) -> bytes:
    """Pictures by name, and part-NNNNNN.json of them."""
    content = io.BytesIO()
    told = {name: {"p": prompt, "se": 1, "c": 7.0, "st": 50, "sa": "k_lms"} for name, _, prompt in pairs}
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, picture, _ in pairs:
            archive.writestr(name, picture)
        archive.writestr(f"part-{number:06d}.json", json.dumps(told))
    return content.getvalue()


def scores(rows: list[tuple[str, float | None, float | None]]) -> bytes:
    """metadata.parquet, as far as it is read: image_name, image_nsfw, prompt_nsfw."""
    names, images, prompts = zip(*rows, strict=True)
    content = io.BytesIO()
    columns = {
        "image_name": pyarrow.array(names),
        "prompt": pyarrow.array([""] * len(rows)),
        "image_nsfw": pyarrow.array(images, pyarrow.float32()),
        "prompt_nsfw": pyarrow.array(prompts, pyarrow.float32()),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()


def sd_repository(folder) -> dict[str, bytes]:
    """Three tars of twelve pairs each, in two folders, among other files."""
    return {
        "README.md": b"#",
        "metadata.parquet": b"not asked for",
        "co/sd-4.4M-co-000.tar": sd_tar(folder, "co-000.tar", sd_pairs(range(12))),
        "co/sd-4.4M-co-001.tar": sd_tar(folder, "co-001.tar", sd_pairs(range(12, 24))),
        "mp/sd-4.4M-mp-000.tar": sd_tar(folder, "mp-000.tar", sd_pairs(range(24, 36))),
    }


def pair_hub(files: dict[str, bytes]) -> Hub:
    """With these files of sd-4.4M; a test puts those of the others in."""
    revisions = {SD: SD_REVISION, DIFFUSIONDB: DIFFUSIONDB_REVISION, OWN: OWN_REVISION}
    everything: dict[str, dict[str, bytes]] = {SD: files, DIFFUSIONDB: {}, OWN: {}}
    tags = {SD: ["license:openrail"], OWN: ["region:us"]}
    return Hub(everything, revisions, frozenset(everything), tags)

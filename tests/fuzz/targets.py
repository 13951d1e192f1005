"""What reads files of others, each as a function of a file's bytes: it reads them, or says what is wrong with them."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kernel.banks.prompt_files import SUFFIXES, read_prompts_from
from kernel.errors import UserError
from kernel.models.weights_folder import read_manifest
from kernel.pipeline.decoding import decode_file
from kernel.pipeline.submission import check_submission, read_submission
from kernel.publish.hub.captions import captions_in
from kernel.publish.hub.pairs.stored import stored_in
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.journal import NAME
from kernel.sidecars.writer import Writer
from kernel.system.tensor_files import read_header

SIDECARS = (("a.txt", "txt"), ("metadata.jsonl", "jsonl"), ("batch.csv", "csv"), (NAME, "txt"))
CORPUS = Path(__file__).with_name("corpus")  # by target: files that something was found with, and some that are valid


def header(folder: Path, content: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    with suppress(ValueError):
        read_header(path)


def submission(folder: Path, content: bytes) -> None:
    path = folder / "submission.csv"
    path.write_bytes(content)
    for read in (read_submission, lambda path: check_submission(path, ["a", "b"])):
        with suppress(UserError):
            read(path)


def prompts(folder: Path, content: bytes) -> None:
    """The first byte chooses the kind of file."""
    path = folder / f"prompts{SUFFIXES[content[0] % len(SUFFIXES)] if content else '.txt'}"
    path.write_bytes(content[1:])
    with suppress(UserError):
        for _ in read_prompts_from([path]):
            pass


def manifest(folder: Path, content: bytes) -> None:
    path = folder / "manifest.json"
    path.write_bytes(content)
    with suppress(UserError):
        read_manifest(path)


def pairs(folder: Path, content: bytes) -> None:
    """The first byte chooses between a tar and a zip of pictures with prompts."""
    path = folder / f"pairs{'.zip' if content[:1] > b'm' else '.tar'}"
    path.write_bytes(content[1:])
    with suppress(UserError):
        for own in stored_in(path, Counter()):
            decode_file(own.picture)


def captions(folder: Path, content: bytes) -> None:
    path = folder / "annotations.zip"
    path.write_bytes(content)
    with suppress(OSError, ValueError):
        list(captions_in(path, ("train.json",)))


def sidecars(folder: Path, content: bytes) -> None:
    """The first byte chooses what a picture's captions lie in, or the journal of an interrupted command; a caption is
    put behind what is there."""
    name, kind = SIDECARS[content[0] % len(SIDECARS)] if content else SIDECARS[0]
    (folder / "a.png").touch()
    (folder / name).write_bytes(content[1:])
    asked = Sidecars(kind, "append", out=str(folder / name) if kind == "csv" else None)
    with suppress(UserError):
        writer = Writer(asked, [str(folder)], [folder / "a.png"], {})
        for image in writer.left:
            writer.tell({"image": str(image), "prompt": "a fox, fog"})
        writer.finish()


TARGETS: dict[str, Callable[[Path, bytes], None]] = {
    own.__name__: own for own in (header, submission, prompts, manifest, pairs, captions, sidecars)
}

"""What a prompt bank costs: the search of a run in it, stage by stage as stage_costs.py, and the building of it."""

from kernel.banks.cost import BYTES_A_NUMBER, bank_bytes
from kernel.banks.nearest import BLOCK, IMAGES
from kernel.config import EMBEDDING_DIMENSIONS
from kernel.pipeline.planning.gpus import GB, Gpu
from kernel.pipeline.planning.model_costs import Clip
from kernel.pipeline.planning.stage_costs import ASSUMED, Case, Stage, compute_seconds

WORKING_FOLDER, DATASET = 20 * GB, 200 * GB  # the most that Kaggle's hold


def neighbours_stage(case: Case, prompts: int) -> Stage:
    """All images past the bank, block by block, in float32, on one device; then the neighbours' embeddings from the
    disk, each part of that file at most once: kernel/banks/nearest.py."""
    gpu, sentences, images, width = case.gpu, case.sentences, case.images, case.clip.dimensions
    block, found = min(prompts, BLOCK), images * case.recipe.neighbours
    fixed = images * width * 4 + block * width * (4 + BYTES_A_NUMBER) + min(images, IMAGES) * block * 4
    fixed += found * 12  # a cosine and an index each
    operations = 2 * images * prompts * width
    features, embeddings = prompts * width * BYTES_A_NUMBER, prompts * EMBEDDING_DIMENSIONS * BYTES_A_NUMBER
    read = features + min(found * ASSUMED.around_bytes, embeddings)
    # products are written, then read twice to find the best
    moved = 3 * 4 * images * prompts
    computing = operations / gpu.single_speed + moved / gpu.read_speed
    copying = 0.0 if gpu.is_cpu else features / ASSUMED.copied_bytes_a_second
    reading = read / ASSUMED.dataset_bytes_a_second
    bound_by = "disk" if reading > computing + copying else "device"
    seconds = computing + copying + reading  # one after the other
    return Stage("neighbours", "", sentences.bytes, fixed, 0, 0, 0, operations, read, seconds, bound_by,
                 sentences.mapped_bytes)  # fmt: skip


def bank_cost(gpu: Gpu, clip: Clip, prompts: int) -> dict[str, float]:
    """Building a bank of `prompts` prompts on one of these devices: CLIP's text tower is nearly all of it."""
    return {
        "prompts": prompts,
        "operations_per_prompt": clip.text.operations,
        "operations": prompts * clip.text.operations,
        "seconds": compute_seconds(gpu, clip.text, prompts),
        "bytes": bank_bytes(prompts),
    }


def room_note(prompts: int) -> str | None:
    """Where on Kaggle a bank of so many prompts has room; None where anywhere."""
    size = bank_bytes(prompts, prompts * ASSUMED.prompt_file_bytes)
    takes = f"the bank takes {size / GB:.0f} GB, Kaggle's working folder holds {WORKING_FOLDER / GB:.0f}"
    if size > DATASET:
        return f"{takes} and a dataset {DATASET / GB:.0f}: it has no room there"
    if size > WORKING_FOLDER:
        return f"{takes}: it has to come as a dataset, which holds {DATASET / GB:.0f}"
    return None

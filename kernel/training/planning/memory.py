"""The memory of a training, in one formula."""


def planned_training_memory(
    parameters: int,
    trained: int,
    batch: int,
    activation_bytes: int,
    value_bytes: int = 4,
    half: bool = False,
    processes: int = 1,
) -> int:
    """Peak bytes of one device: weights and their average (ModelEmaV3 copies all of them); of what is trained the
    gradients and AdamW's two moments; for each picture of a `batch` that goes through at once, what the backward pass
    needs of the forward one.

    `half` says that autocast keeps a copy in half precision of what is trained; with several `processes` DDP sums the
    gradients in buckets of their size.

    Example: planned_training_memory(10, 5, 2, 100) == 2 * 10 * 4 + 3 * 5 * 4 + 2 * 100
    """
    of_each = 3 * value_bytes + 2 * half + value_bytes * (processes > 1)
    return 2 * parameters * value_bytes + trained * of_each + batch * activation_bytes

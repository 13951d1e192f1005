"""What libraries warn of, counted for a run's record: between the progress bars nobody could read it."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KINDS = (UserWarning, FutureWarning, RuntimeWarning)  # deprecations are for the library's own developers
MOST_TEXTS = 50  # some texts name a file or a number, and there may be 16,000 of them
OTHERS = "others"
OWN_HANDLERS = ("transformers", "huggingface_hub")  # these write to stderr beside whatever handlers the root has
# what is so on purpose: a BLIP-2's T5 has a head of its own, whatever transformers makes of its configuration
EXPECTED = ("transformers.modeling_utils: The tied weights mapping and config for this model specifies to tie",)


class Counting(logging.Handler):
    """Counts the first lines of log records, and of warnings."""

    def __init__(self, counted: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self.counted = counted

    def emit(self, record: logging.LogRecord) -> None:
        self.count(record.name, record.getMessage())

    def show(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        """In place of warnings.showwarning."""
        self.count(category.__name__, str(message))

    def count(self, kind: str, said: str) -> None:
        text = f"{kind}: {(said.strip().splitlines() or [''])[0].strip()}"
        if text.startswith(EXPECTED):
            return
        self.acquire()  # decoding threads warn too
        try:
            known = text in self.counted or len(self.counted) < MOST_TEXTS
            self.counted[text if known else OTHERS] += 1
        finally:
            self.release()


@contextmanager
def counted_warnings() -> Iterator[Counter[str]]:
    """{text: count} of whatever libraries warn of meanwhile, by Python's warnings or by logging, in any thread."""
    import transformers.utils.logging  # noqa: F401 - sets up its handler and its hub's, which are replaced here

    counted: Counter[str] = Counter()
    counting = Counting(counted)
    root, own = logging.getLogger(), [logging.getLogger(name) for name in OWN_HANDLERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in own]
    with warnings.catch_warnings():
        for kind in KINDS:
            warnings.filterwarnings("always", category=kind)
        warnings.showwarning = counting.show
        root.addHandler(counting)
        for logger in own:
            logger.handlers, logger.propagate = [counting], False  # transformers' passes on where CI is set
            logger.setLevel(logging.WARNING)  # set to errors alone, so that a terminal stays quiet
        try:
            yield counted
        finally:
            root.removeHandler(counting)
            for logger, (handlers, level, propagate) in zip(own, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)

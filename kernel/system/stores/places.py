"""What a command does with places that may be URLs: it works on paths of this machine, and what is read and written by
URLs is mirrored there, each URL in a folder of its own."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernel.errors import UserError
from kernel.system.stores.inputs import fetched
from kernel.system.stores.outputs import Order, mirrored
from kernel.system.stores.urls import Place, Url


@dataclass(frozen=True)
class Places:
    """Where on this machine the mirrors lie."""

    mirror: Path

    def read(self, place: Place) -> Path:
        """The path itself, or of what was fetched. Raises UserError where that cannot be."""
        return fetched(place, self.home(place, "read")) if isinstance(place, Url) else place

    @contextmanager
    def written(self, place: Place, order: Order) -> Iterator[Path]:
        """The path itself, or a folder whose files go to the URL in this order."""
        if not isinstance(place, Url):
            yield place
            return
        with mirrored(place, self.home(place, "written"), order) as folder:
            yield folder

    def home(self, url: Url, kind: str) -> Path:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(
                f"{url}: several processes were started, as by torchrun, and each would read and write it for itself; "
                "expected one. Nothing was begun. Give paths on a disk that all of them see, or --engine ray"
            )
        name = hashlib.sha256(str(url).encode()).hexdigest()[:16]
        return self.mirror.absolute() / kind / name

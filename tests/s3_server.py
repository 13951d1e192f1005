"""moto's server, which speaks S3, on the loopback interface in a process of its own: `python -m tests.s3_server`.

It answers with its port, and ends with its stdin.
"""

import os
import subprocess
import sys
import urllib.request
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "own", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server:
    """The process; `environment` is what a command needs to find it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server"], cwd=Path(__file__).parents[1], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.bucket = ""  # of the test that runs
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.address}

    def __enter__(self) -> "S3Server":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.communicate()

    def ask_rights(self, free_requests: float) -> None:
        """After so many requests it asks each for the keys of a user that it knows, of which there is none."""
        asked, kind = f"{self.address}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(asked, str(free_requests).encode(), kind, method="POST")
        urllib.request.urlopen(request).close()

    @cached_property
    def files(self) -> Any:
        """What s3fs makes of it, past all that is tested."""
        import fsspec

        return fsspec.filesystem(
            "s3", key="own", secret="own", endpoint_url=self.address, use_listings_cache=False, skip_instance_cache=True
        )


def main() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()

"""The requests, one after the other, before the one worker process, which is started anew when it dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.system.processes import child_environment, ending
from kernel.system.terminal.progress import STDERR

TRIES = 2  # a request on which two workers died is not given to a third
MOST_BYTES = 2**27  # of one answer
ENDS_SECONDS = 5


class Unavailable(UserError):
    """Nothing is wrong with the request, but it cannot be answered now."""


@dataclass(eq=False)
class Request:
    """{file: name} of its pictures, what is asked of them, and a folder that is there as long as it is."""

    images: dict[str, str]
    asked: dict[str, Any]
    scratch: Path
    answer: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    gone: bool = False  # nobody waits for the answer any more


@dataclass(frozen=True)
class At:
    """What the worker is at: words, and how many of how many pictures, or phrases, are made; `waiting` requests."""

    said: str = ""
    made: int = 0
    of: int = 0
    waiting: int = 0


class Describing:
    """Requests wait here; `run` is the only one that talks to the worker, so no two are ever mixed up."""

    def __init__(self, weights: Path, device: str, features: Path, scratch: Path) -> None:
        self.first = {"weights": str(weights), "device": device, "features": str(features)}
        self.scratch = scratch
        self.one_at_a_time = False
        self.waiting: asyncio.Queue[Request] = asyncio.Queue()
        self.awaited: set[Request] = set()  # somebody waits for its answer, or it is at the worker still
        self.asked = 0
        self.current: Request | None = None
        self.worker: asyncio.subprocess.Process | None = None
        self.at = At()

    async def describe(self, images: dict[str, str], asked: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        """The records of the pictures. Raises UserError with the words of whatever stands against it, Unavailable where
        that is no fault of the request; cancelled, the worker stops at it after the step that it is at."""
        request = Request(images, asked, scratch)
        self.waiting.put_nowait(request)
        self.awaited.add(request)
        try:
            return await asyncio.shield(request.answer)
        except asyncio.CancelledError:
            request.gone = True
            if request is self.current:
                await self.send(cancel=self.asked)
                with suppress(UserError):  # its pictures stay until the worker has let go of them
                    await asyncio.shield(request.answer)  # `run` answers it, even where this is cancelled once more
            raise
        finally:
            self.awaited.discard(request)

    def now(self) -> At:
        return At(self.at.said, self.at.made, self.at.of, len(self.awaited - {self.current}))

    async def run(self) -> None:
        """Answers request after request, for ever; cancelled, it ends the worker."""
        try:
            while True:
                request = self.current = await self.waiting.get()
                try:
                    request.answer.set_result(await self.made(request))
                except Exception as error:
                    request.answer.set_exception(error)
                self.current, self.at = None, At()
        finally:
            left = [self.current] if self.current else []
            while not self.waiting.empty():
                left.append(self.waiting.get_nowait())
            self.current = None
            ended = "the server is ending: nothing was described. Start it again"
            for request in left:
                if request.gone:  # nobody would retrieve it
                    request.answer.cancel()
                else:
                    request.answer.set_exception(Unavailable(ended))
            await self.end()

    async def made(self, request: Request) -> list[dict[str, Any]]:
        died = ""
        for _ in range(TRIES):
            if request.gone:
                return []
            self.at = At()
            self.asked += 1
            await self.started()
            order = {"number": self.asked, "images": request.images, "asked": request.asked}
            await self.send(**order, scratch=str(request.scratch))
            if request.gone:  # while the worker began
                await self.send(cancel=self.asked)
            reply = await self.reply()
            if "records" in reply:
                return reply["records"]
            if "refused" in reply:
                raise UserError(reply["refused"])
            if "unusable" in reply:
                raise Unavailable(reply["unusable"])
            if "failed" in reply:
                raise Unavailable(
                    f"the models failed ({reply['failed']}): nothing was described. Send it again, or fewer pictures"
                )
            if "cancelled" in reply:
                return []
            died = reply["died"]
            print(f"the process with the models ended ({died}); it is started again", file=STDERR)
            # what ended it may have been that both models were in memory
            self.one_at_a_time = True
        raise Unavailable(
            f"the process with the models ended twice over this request ({died}): nothing was described. Send fewer or "
            "smaller pictures, choose a smaller captioner, or start the server on a machine with more memory"
        )

    async def started(self) -> None:
        if self.worker is None:
            self.worker = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "kernel.server.worker", str(self.scratch),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=MOST_BYTES, env=child_environment(),
                start_new_session=True,  # what a terminal sends to all, even its own end, is the parent's to decide
            )  # fmt: skip
            await self.send(**self.first, one_at_a_time=self.one_at_a_time)

    async def send(self, **order: Any) -> None:
        """Nothing is said to a process that has ended: that is seen where it should answer."""
        if self.worker is not None and self.worker.stdin is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self.worker.stdin.write(json.dumps(order).encode() + b"\n")
                await self.worker.stdin.drain()

    async def reply(self) -> dict[str, Any]:
        """The worker's last word on a request; `died` where it has ended."""
        assert self.worker is not None and self.worker.stdout is not None
        with suppress(ValueError):  # a killed one may leave half a line
            async for line in self.worker.stdout:
                reply = json.loads(line)
                if "said" not in reply:
                    return reply
                self.at = At(**reply)
        code = await self.end()
        return {"died": ending(code)}

    async def end(self) -> int:
        """Ends the worker, which may have ended by itself, and returns its exit code."""
        worker, self.worker = self.worker, None
        if worker is None:
            return 0
        if worker.returncode is None:  # else its number may be another process's by now
            with suppress(ProcessLookupError):  # not worker.kill(), which may take the exit code from who waits for it
                os.kill(worker.pid, signal.SIGKILL)
        return await worker.wait()

"""Processes that begin with the large libraries imported: forked from one that has, each saves five seconds.

All else of them is a fresh process's: arguments, environment, streams, exit code, a pid that can be killed, children of
their own. What is preloaded reads nothing that a test sets; transformers and the hub's client do, so they are not.
"""

import array
import ctypes
import gc
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import types
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PRELOADED = ("torch", "torch._dynamo", "torchvision.ops", "sklearn.metrics", "pandas", "pyarrow", "scipy.optimize")
SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MOST_BYTES = 2**20
# the command line, whose workers are forked too; after it as arguments what follows `python -m kernel`
WITH_WORKERS = """
import subprocess, sys
from tests import warm
subprocess.Popen = warm.Popen
from kernel.__main__ import main
from kernel.system.interrupts import end_when_interrupted
end_when_interrupted()
sys.exit(main(sys.argv[1:]))
"""


def run(command: list[Any], check: bool = False, capture_output: bool = False, **options: Any):
    """As subprocess.run."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        output, errors = process.communicate()
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    assert done.returncode == 0 or not check, errors
    return done


FRESH = subprocess.Popen  # whose name in its module tests replace by what follows


class Popen(FRESH):
    """As subprocess.Popen; only where a process [sys.executable, "-m" or "-c", ...] comes from is another."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                       shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid,
                       umask, start_new_session, *others):  # fmt: skip
        if args[0] != sys.executable or args[1] not in ("-m", "-c"):
            return super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid,
                umask, start_new_session, *others,
            )  # fmt: skip
        request = {
            "arguments": [os.fspath(argument) for argument in args[1:]],
            "folder": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "session": bool(start_new_session),
        }
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
        prctl, server = ctypes.CDLL(None).prctl, server_of_this_process()
        prctl(SET_CHILD_SUBREAPER, 1)  # what the server's fork leaves behind becomes a child of this process
        try:
            server.sendmsg([json.dumps(request).encode()], rights)
            self.pid = int(server.recv(MOST_BYTES))
            server.recv(MOST_BYTES)  # what was between them is gone
        finally:
            prctl(SET_CHILD_SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


@cache
def server_of_this_process() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
    command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
    FRESH(command, cwd=Path(__file__).parent.parent, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks a process for every request. Returns in each of these, with its request, and at the end without one."""
    while True:
        content, streams, _, _ = socket.recv_fds(requests, MOST_BYTES, 3)
        if not content:
            return None
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                requests.close()
                for own, given in enumerate(streams):
                    os.dup2(given, own)
                return json.loads(content)
            requests.send(str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        requests.send(b"gone")
        for stream in streams:
            os.close(stream)


def begin(arguments: list[str], folder: str, environment: dict[str, str], session: bool) -> None:
    """What `python ARGUMENTS` does, in a process that has forgotten whose child it is."""
    if session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    import_module("numpy").random.seed()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    how, what, *sys.argv[1:] = arguments
    sys.path[0] = "" if how == "-c" else folder
    sys.orig_argv = [sys.executable, *arguments]
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        import_module("sitecustomize")
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    for library in PRELOADED:
        import_module(library)
    gc.freeze()  # pages of what never changes stay shared
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked:
        begin(**asked)

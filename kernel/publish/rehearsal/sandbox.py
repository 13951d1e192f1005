"""Takes the network away from a command and makes a folder read-only to it.

Where the system allows it, by a network and a mount namespace of its own: nothing in them can reach another machine
or write there, whatever language it is written in. Everywhere, and only this elsewhere: every Python process of the
command refuses connections beyond this machine, and writes each attempt to a file that fails the rehearsal.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import kernel.system.offline

ATTEMPTS = "REHEARSAL_NETWORK_ATTEMPTS"
# In a fresh network namespace even the loopback is down, and Jupyter talks to its kernel through it.
PREPARATION = (
    "ip link set lo up && mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} {folder} && exec "
)
# What every Python runs at its start, sitecustomize.py: it imports a copy of system/offline.py under another name, for
# `kernel` itself must be found where the notebook looks for it, in what is mounted.
HOOK = f"""import os
from refused_network import refuse_network
refuse_network(os.environ["{ATTEMPTS}"])
"""


class Sandbox:
    """`folder` holds the sandbox's own files; `read_only` is what the command may not write to."""

    def __init__(self, folder: Path, read_only: Path) -> None:
        self.read_only = read_only
        self.attempts = folder / "network-attempts.txt"
        self.hook = folder / "hook"
        shutil.rmtree(self.hook, ignore_errors=True)
        self.hook.mkdir(parents=True)
        shutil.copy(kernel.system.offline.__file__, self.hook / "refused_network.py")
        (self.hook / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        self.attempts.unlink(missing_ok=True)
        as_user = [] if os.geteuid() == 0 else ["--map-root-user"]  # who is root inside only
        prefix = ["unshare", *as_user, "--net", "--mount"]
        try:
            works = subprocess.run(self.wrapped(prefix, ["true"]), capture_output=True).returncode == 0
        except FileNotFoundError:
            works = False
        self.namespaces = prefix if works else None

    @property
    def network(self) -> str:
        return "network namespace and refused sockets" if self.namespaces else "refused sockets"

    def wrapped(self, prefix: list[str], command: list[str]) -> list[str]:
        folder = shlex.quote(str(self.read_only.resolve()))
        return [*prefix, "sh", "-c", PREPARATION.format(folder=folder) + shlex.join(command)]

    def command(self, command: list[str]) -> list[str]:
        return self.wrapped(self.namespaces, command) if self.namespaces else command

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.hook.resolve()), ATTEMPTS: str(self.attempts.resolve())}

    def attempted(self) -> list[str]:
        return self.attempts.read_text().splitlines() if self.attempts.is_file() else []

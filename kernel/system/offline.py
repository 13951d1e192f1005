"""Keeps the process off the network: the models' libraries would otherwise look for newer files."""

import ipaddress
import os
import sys
from functools import partial
from typing import Any

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# The loaders' own bars and advice are noise between ours; what they warn of is checked in models/captioners/.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


def refuse_network(attempts: str | None = None) -> None:
    """From now on every connection or name lookup beyond this machine raises OSError.

    attempts: a file to which each of them is written too, as the rehearsal asks. Must run before huggingface_hub is
    first imported, which reads its variables only then.
    """
    stay_offline()
    sys.addaudithook(refuse if attempts is None else partial(record_and_refuse, attempts))


def stay_offline() -> None:
    """Tells the models' libraries not to look for newer files. Must run before huggingface_hub is first imported."""
    os.environ.update(OFFLINE | QUIET)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in CONNECTIONS:
        address = arguments[1]
        if isinstance(address, tuple) and not is_loopback(str(address[0])):
            raise OSError(f"connection to {address[0]} refused: this command works offline")
    if event in LOOKUPS and arguments[0]:
        host = os.fsdecode(arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0])
        if not is_loopback(host):
            raise OSError(f"lookup of {host} refused: this command works offline")


def record_and_refuse(attempts: str, event: str, arguments: tuple[Any, ...]) -> None:
    """As `refuse`, and one line in the file `attempts` for each."""
    try:
        refuse(event, arguments)
    except OSError as error:
        # a process asks for its own machine's name (Jupyter does): refused, but no attempt to reach another
        if event in CONNECTIONS or os.uname().nodename not in str(error):
            with open(attempts, "a") as file:
                print(os.getpid(), error, file=file)
        raise


def is_loopback(host: str) -> bool:
    """Example: is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("192.0.2.1")"""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"

"""Keeps the process off the network: the models' libraries would otherwise look for newer files."""

import ipaddress
import os
import sys
from typing import Any

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# The loaders' own bars and advice are noise between ours; what they warn of is checked in models/captioners/.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


def refuse_network() -> None:
    """From now on every connection or name lookup beyond this machine raises OSError.

    Must run before huggingface_hub is first imported, which reads its variables only then.
    """
    os.environ.update(OFFLINE | QUIET)
    sys.addaudithook(refuse)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in CONNECTIONS:
        address = arguments[1]
        if isinstance(address, tuple) and not is_loopback(str(address[0])):
            raise OSError(f"connection to {address[0]} refused: this command works offline")
    if event in LOOKUPS and arguments[0]:
        host = os.fsdecode(arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0])
        if not is_loopback(host):
            raise OSError(f"lookup of {host} refused: this command works offline")


def is_loopback(host: str) -> bool:
    """Example: is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("192.0.2.1")"""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"

"""Where the service's client would find the user's credentials; their content is neither kept nor shown."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.system.records import read_record


def credentials_at() -> str | None:
    """The place that `client.connect()` would take them from, in the client's own order; None where there are none.

    Nothing is asked of the service, so they may have expired. The client is not imported, for that alone makes a folder
    and reads them.
    """
    home = Path("~/.kaggle").expanduser()
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the variable KAGGLE_API_TOKEN"
    for path in (home / "access_token", home / "access_token.txt"):
        if is_filled(path):
            return str(path)
    file = client_folder(home) / "kaggle.json"
    in_file: dict[str, Any] = {}
    with suppress(UserError):  # what cannot be read counts as empty, for the client passes over it too
        in_file = read_record(file, dict[str, Any], "the client's credentials", "Make a new token")
    places = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    if all(name in in_file or variable in os.environ for name, variable in places.items()):
        # the variables count before the file
        used = [variable for variable in places.values() if variable in os.environ]
        return " and ".join(used if len(used) == 2 else [*used, str(file)])
    signed_in = home / "credentials.json"
    return str(signed_in) if is_filled(signed_in) else None


def client_folder(home: Path) -> Path:
    """Where the client keeps kaggle.json: the folder it is given, ~/.kaggle where that exists, else XDG's."""
    given = os.environ.get("KAGGLE_CONFIG_DIR")
    if given:
        return Path(given)
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return home if home.exists() else Path(configuration) / "kaggle"


def is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False

"""`python -m kernel serve`: its options."""

import argparse
from pathlib import Path

from kernel.commands.options import add_command, device_option, weights_option
from kernel.config import DEFAULT_FEATURES, DEFAULT_PORT


def add_serve(commands: argparse._SubParsersAction) -> None:
    serve = add_command(commands, serve_command, "prompts in a browser on this machine, and an HTTP API")
    weights_option(serve)
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="N",
                       help="0 takes any that is free (default %(default)s)")  # fmt: skip
    serve.add_argument("--host", metavar="ADDRESS", help="the IP address on which other machines may ask too, 0.0.0.0 "
                       "for all of this machine's; needs a password")  # fmt: skip
    serve.add_argument("--password-file", type=Path, metavar="FILE",
                       help="its first line is the password (default: IMAGE_TO_PROMPTS_PASSWORD)")  # fmt: skip
    serve.add_argument("--name", action="append", default=[], metavar="NAME",
                       help="a name under which browsers reach it, as behind a proxy; repeatable")  # fmt: skip
    serve.add_argument("--features", type=Path, default=DEFAULT_FEATURES, metavar="DIR",
                       help="keeps the features of phrases that the weights lack (default %(default)s)")  # fmt: skip
    device_option(serve, "auto (the first GPU, else the CPU), cpu or cuda:N")


def serve_command(options: argparse.Namespace) -> int:
    from kernel.server.serving import Address, Serving, read_password

    at = Address(options.port, options.host, read_password(options.password_file), tuple(options.name))
    serving = Serving(at, options.weights, options.device, options.features)
    print(serving.address, flush=True)
    try:
        serving.run()
    except KeyboardInterrupt:  # how it is ended
        pass
    return 0

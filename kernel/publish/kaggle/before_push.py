"""What the service says before a push: of the notebooks' runs, of the inputs, and of the GPU hours that are left."""

import sys
from contextlib import suppress
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.publish.kaggle.client import Unknown, asking, fitting
from kernel.publish.kaggle.datasets import wait_ready
from kernel.publish.kaggle.metadata import Metadata


class Failure(TypedDict):
    failure_message: str | None


class Latest(TypedDict):
    current_version_number: int


def check_inputs_ready(client: Any, metadata: Metadata, train: bool) -> None:
    """What a notebook needs and does not find it does without, or ends: all of it must be there before it starts."""
    outputs = {metadata.prepare_id: ("weights", "--prepare")} if metadata.weights_from_prepare else {}
    if train:
        wait_ready(client, metadata.pairs_id)
    elif metadata.trained:
        outputs[metadata.train_id] = ("its encoder", "--train")
    for notebook, (what, option) in outputs.items():
        status, _ = kernel_status(client, notebook)
        if status != "COMPLETE":
            raise UserError(
                f"{notebook}: its run is {status}, so the notebook would start without {what}. "
                f"Run 'python -m kernel publish push {option} --wait'"
            )
    if not metadata.weights_from_prepare:
        wait_ready(client, metadata.weights_id)


def goes_on_from(client: Any, notebook: str) -> bool:
    """Whether the last version left an output; one that runs must not be pushed over."""
    if latest_version(client, notebook) == 0:
        return False
    status, _ = kernel_status(client, notebook)
    if status in ("QUEUED", "RUNNING"):
        raise UserError(
            f"{notebook}: its latest version is {status}, and what it trains would be trained twice. Wait for its end "
            f"on https://www.kaggle.com/code/{notebook}, or stop it there, then run the same command again"
        )
    if status == "COMPLETE":
        print(f"{notebook}: the output of its latest version is an input of the new one, which goes on from it")
    return status == "COMPLETE"


def print_gpu_hours(client: Any) -> None:
    """What the week still allows; a push does not hang on knowing it."""
    try:
        with asking("asking for the GPU hours"):
            answer = client.quota_view()
            gpu = answer.gpu_quota
            if gpu is None or gpu.time_used is None or gpu.total_time_allowed is None:
                raise UserError("the service names none")
    except UserError as error:
        return print(f"GPU hours left this week: unknown ({error})", file=sys.stderr)
    allowed, used = (time.total_seconds() / 3600 for time in (gpu.total_time_allowed, gpu.time_used))
    refresh = (
        f", all of them again on {answer.quota_refresh_time:%Y-%m-%d %H:%M} UTC" if answer.quota_refresh_time else ""
    )
    print(f"GPU hours left this week: {max(0.0, allowed - used):.1f} of {allowed:.1f}{refresh}", file=sys.stderr)


def check_nothing_runs(client: Any, kernel: str) -> None:
    """Where the record of the last push is lost: a run that goes on may be of this very content."""
    running = None
    with suppress(Unknown):
        running, _ = kernel_status(client, kernel)
    if running in ("QUEUED", "RUNNING"):
        raise UserError(
            f"{kernel}: its latest version is {running}, and what was pushed last is not on record any more, so it may "
            f"be this very content. Nothing was pushed: look at https://www.kaggle.com/code/{kernel}, and when that "
            "run has ended, or you stopped it, run the same command again"
        )


def kernel_status(client: Any, kernel: str) -> tuple[str, str | None]:
    """The status of a notebook's latest run, such as RUNNING or COMPLETE, and what it failed of."""
    with asking(f"looking at the run of {kernel}"):
        response = client.kernels_status(kernel)
        return response.status.name, fitting(Failure, response)["failure_message"]


def latest_version(client: Any, kernel: str) -> int | None:
    """The newest version's number, 0 where there is no such notebook yet; None where the service does not say."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    with suppress(Unknown), asking(f"looking at the versions of {kernel}"), client.build_kaggle_client() as service:
        # the client says 0 where the service says nothing
        metadata = service.kernels.kernels_api_client.get_kernel(request).metadata
        return fitting(Latest, metadata)["current_version_number"] or None
    return 0

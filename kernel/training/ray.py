"""`train` on the machines of a Ray cluster: Ray Train starts it on each, as torchrun does, and again on those that are
left where one is lost, or on more where some joined.

Nothing of the training is Ray's: whoever is started goes on from the checkpoint in ENCODER/training/, which all
machines see. There Ray Train keeps its own files too, in ray/, beside what the first worker says, which is shown here.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from kernel.config import RAY, TIERS, TrainingSettings
from kernel.errors import UserError
from kernel.pipeline.workers.engines import engine_named
from kernel.pipeline.workers.ray import ending_of
from kernel.system import files
from kernel.system.deadline import NEVER, Deadline
from kernel.system.devices import Device
from kernel.system.offline import stay_offline
from kernel.system.terminal.progress import STDERR
from kernel.system.versions import code_sha256, installed, within_range
from kernel.system.work import Engine

NEEDED = ">=2.60"  # whose Ray Train goes on with another number of workers, and returns what the first one does
NAME, SAID = "ray", "said.txt"  # Ray Train's folder, and in it what the first worker says
LOSSES = 3  # so many may come without anything more being kept
JOIN_SECONDS = 60.0  # for a first machine to join
LOOK_SECONDS = 1.0
SOONEST_SECONDS = 10.0  # after a start, that machines which joined are taken in
# Ray Train's newer half, without a folder for each worker to be in, nor libraries' every word in its logs
SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
# for machines that were there a moment ago, one of which may be the lost one: then fewer are tried
START_SECONDS = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
WAITING = (
    "no worker has begun yet: too few machines have joined, others work on them, or Ray keeps their places for a "
    "command that was killed, for three minutes"
)


def train_by_ray(
    asked: Mapping[str, Any],
    address: str | None = None,
    workers: tuple[int, int] | None = None,
    deadline: Deadline = NEVER,
) -> dict[str, Any]:
    """What `train` returns, with the arguments `asked`, from the GPUs of a cluster, or its machines' CPUs. These make
    the features, and then train together; a head is fitted here.

    workers: the fewest that go on and the most that train; by default one, and what the cluster has at the start.
    Folders have to be the same on all machines. Raises UserError where no cluster answers within half a minute, for
    what `train` raises it for, and where workers are lost again and again before anything more is kept.
    """
    head = asked["tier"] == TIERS[0]
    if head and workers:
        raise UserError("--workers: a head is fitted by one process. Leave it out, or train a tower by another --tier")
    require_version()
    with engine_named(RAY, asked["device"], address) as cluster:
        from kernel.training.train import train

        if head:
            return train(**asked, deadline=deadline, engine=cluster)
        order = order_of(asked, deadline)
        make_features(order["asked"], cluster)
        work = work_folder(order["asked"]["out"])
        with shown(work / NAME / SAID):
            return trained_by_workers(order, work, workers)


def require_version() -> None:
    found = installed("ray")
    if found is not None and within_range(found, NEEDED) is False:
        raise UserError(
            f"Ray {found} is installed, and a training by Ray expects {NEEDED}: older ones cannot go on with fewer "
            "workers. Install that on all machines, or start the training by torchrun"
        )


def order_of(asked: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """What a worker needs to know; the time by the clocks on the walls, which are all that machines have in common."""
    from kernel.training.tower.opened import BLIP2, CLIP

    folders = {name: Path(asked[name]).absolute() for name in ("pairs", "weights", "out")}
    towers = [own if own in (CLIP, BLIP2) else str(Path(own).absolute()) for own in asked["towers"]]
    ends = None if deadline is NEVER else time.time() + deadline.left()
    return {"asked": {**asked, **folders, "towers": towers}, "ends": ends, "code": code_sha256()}


def make_features(asked: Mapping[str, Any], engine: Engine) -> None:
    """Before any worker trains: the first of them alone would make what all can."""
    from kernel.training.pairs import open_pairs
    from kernel.training.train import kept_features, opened_towers, require_own_folder, require_trainable, weights_for

    require_trainable(asked["tier"], asked["towers"])
    weights, pairs = weights_for(asked["towers"], asked["weights"]), open_pairs(asked["pairs"])
    require_own_folder(asked["out"])
    with files.writing(asked["out"], "free space there or give --out another folder, then run again"):
        kept_features(pairs, opened_towers(asked["towers"], weights, Device("cpu")), asked["out"], engine)


def work_folder(out: Path) -> Path:
    """ENCODER/training/, in which nothing was said yet."""
    from kernel.training.train import WORK

    with files.writing(out, "free space there or give --out another folder, then run again"):
        (out / WORK / NAME).mkdir(parents=True, exist_ok=True)
        (out / WORK / NAME / SAID).write_text("")
    return out / WORK


def trained_by_workers(order: dict[str, Any], work: Path, workers: tuple[int, int] | None) -> dict[str, Any]:
    """What the first worker returns; they are started as often as they get on meanwhile."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from kernel.training.tower.processes import WAIT

    os.environ.update(SETTINGS)
    os.environ.setdefault(*START_SECONDS)
    resources, there = worker_resources(order["asked"]["device"])
    order["asked"]["device"] = "auto" if "GPU" in resources else "cpu"
    # machines that joined are taken in by a new start, which costs what was done since the last checkpoint
    minutes = (order["asked"]["settings"] or TrainingSettings()).checkpoint_minutes
    scaling = ScalingConfig(
        num_workers=workers or (1, there),
        use_gpu="GPU" in resources,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=max(SOONEST_SECONDS, 2 * 60 * minutes),
    )
    while True:
        kept = what_is_kept(work)
        trainer = TorchTrainer(
            work_of,
            train_loop_config=order,
            torch_config=TorchConfig(timeout_s=int(WAIT.total_seconds())),
            scaling_config=scaling,
            run_config=RunConfig(
                name=NAME,
                storage_path=str(work),
                failure_config=FailureConfig(max_failures=LOSSES - 1, controller_failure_limit=LOSSES - 1),
                callbacks=[ends_at_user_errors()],
            ),
        )
        try:
            with interrupted_as_ever():
                return trainer.fit().return_value
        except TrainingFailedError as error:
            cause = getattr(error, "controller_failure", error)
            if isinstance(cause, UserError):
                raise cause from error
            if what_is_kept(work) == kept:
                raise UserError(
                    f"{work.parent}: workers ended {LOSSES} times before anything more was kept "
                    f"({reason_of(error)}). See the logs of their machines; the same command goes on"
                ) from error


def worker_resources(device: str) -> tuple[dict[str, float], int]:
    """What one worker has of its machine, a GPU or as many CPUs as the smallest machine, and for how many there is room
    now. Raises UserError where no machine with either joins the cluster."""
    import ray

    begun = time.monotonic()
    while True:
        machines = [own["Resources"] for own in ray.nodes() if own["Alive"]]
        gpus = 0 if device == "cpu" else sum(int(own.get("GPU", 0)) for own in machines)
        cpus = [int(own["CPU"]) for own in machines if own.get("CPU", 0) >= 1]
        if gpus:
            return {"GPU": 1}, gpus
        if cpus:
            return {"CPU": min(cpus)}, sum(own // min(cpus) for own in cpus)
        if time.monotonic() - begun > JOIN_SECONDS:
            raise UserError("the cluster has no machine with a GPU or CPU to train on. Add one, then run again")
        time.sleep(LOOK_SECONDS)


def what_is_kept(work: Path) -> tuple[int, int]:
    """Another one once there is more: how many files, and when the checkpoint was written."""
    from kernel.training.tower.loop import CHECKPOINT

    checkpoint = work / CHECKPOINT
    return sum(1 for _ in work.rglob("*.safetensors")), checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0


def reason_of(error: Exception) -> str:
    """What the first of the workers that ended says."""
    failures = getattr(error, "worker_failures", {})
    return ending_of(failures[min(failures)] if failures else getattr(error, "controller_failure", error))


def ends_at_user_errors() -> Any:
    """What a user has to mend is no loss: another start would end in the same way."""
    from ray.train import UserCallback

    class EndsAtUserErrors(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, UserError):
                    raise error

    return EndsAtUserErrors()


@contextmanager
def interrupted_as_ever() -> Iterator[None]:
    """Ray Train takes over Ctrl-C: it gives the workers' places back at once, and then ends as if all were done."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        signal.signal(signal.SIGINT, handler)


def work_of(order: dict[str, Any]) -> dict[str, Any]:
    """One worker's part, in a process that Ray Train has joined to the others."""
    stay_offline()  # before anything imports the models' libraries
    from ray.train import get_context

    from kernel.training.train import WORK, train

    files.write_as(f"{socket.gethostname()}-{os.getpid()}")
    if code_sha256() != order["code"]:
        raise UserError(f"{socket.gethostname()} has another version of this package. Install the same one everywhere")
    asked, ends, context = order["asked"], order["ends"], get_context()
    deadline = NEVER if ends is None else Deadline(time.monotonic() + ends - time.time())
    if context.get_world_rank():
        return train(**asked, deadline=deadline)
    work = asked["out"] / WORK
    files.drop_unfinished(work)  # of the first worker of another start
    with (work / NAME / SAID).open("a", buffering=1) as said, redirect_stderr(said):
        print(f"workers that train: {context.get_world_size()}", file=STDERR)
        return train(**asked, deadline=deadline)


@contextmanager
def shown(said: Path) -> Iterator[None]:
    """While the block runs, what is written to the file `said` goes to stderr."""
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(said, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def show(said: Path, ended: threading.Event) -> None:
    waited: float | None = 0.0
    with said.open() as lines:
        while True:
            last = ended.wait(LOOK_SECONDS)
            if text := lines.read():
                STDERR.write(text)
                waited = None
            if waited is not None and (waited := waited + LOOK_SECONDS) >= JOIN_SECONDS:
                print(WAITING, file=STDERR)
                waited = None
            if last:
                return

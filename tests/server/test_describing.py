"""The one worker: it dies and is started again, and leaves what nobody waits for."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from kernel.errors import UserError
from kernel.models.captioners.captioner import Captioner
from kernel.models.clip import ClipEncoder
from kernel.pipeline.stages import captions
from kernel.server.describing import Describing, Unavailable
from kernel.server.resident import Cancelled, Resident
from kernel.system.devices import Device
from tests.conftest import ROOT
from tests.server.started import run_alone

pytestmark = pytest.mark.usefixtures("warm_processes")

ASKED = {"mode": "fast", "top": 2, "without": [], "captioner": "auto", "neighbours": 0}


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def images(on_disk) -> dict[str, str]:
    return {str(path): path.name for path in sorted(on_disk.iterdir())}


def talking(describing, conversation):
    """What a conversation with a running Describing comes to."""

    async def both():
        run = asyncio.create_task(describing.run())
        try:
            return await conversation(describing)
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            assert describing.worker is None

    return run_alone(both())


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def describing(place, scratch):
    return Describing(place.weights, "cpu", place.features, scratch)


def test_a_worker_that_is_killed_is_told_and_started_again_with_one_model_at_a_time(
    describing, images, scratch, capsys
):
    async def conversation(describing):
        first = await describing.describe(images, ASKED, scratch)
        os.kill(describing.worker.pid, signal.SIGKILL)
        return first, await describing.describe(images, ASKED, scratch), describing.asked

    first, again, asked = talking(describing, conversation)
    assert first == again and all(record["prompt"] for record in first) and asked == 3
    assert "killed by SIGKILL; out of memory does that" in capsys.readouterr().err
    assert describing.one_at_a_time


def test_a_worker_that_has_ended_is_not_killed_by_its_number(describing, images, scratch, monkeypatch):
    killed = []

    async def conversation(describing):
        await describing.describe(images, ASKED, scratch)
        pid = describing.worker.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: describing.worker.returncode is not None)
        monkeypatch.setattr(os, "kill", lambda *own: killed.append(own))
        code = await describing.end()
        monkeypatch.undo()
        return code

    assert talking(describing, conversation) == -signal.SIGKILL and killed == []


def test_a_request_over_which_workers_die_twice_is_refused_with_words_and_the_next_is_answered(
    describing, images, scratch
):
    async def conversation(describing):
        asking = asyncio.create_task(describing.describe(images, ASKED, scratch))
        for number in (1, 2):
            await until(lambda n=number: describing.asked == n and describing.worker is not None)
            os.kill(describing.worker.pid, signal.SIGKILL)
            await until(lambda n=number: describing.asked > n or asking.done())
        with pytest.raises(Unavailable, match="ended twice over this request .killed by SIGKILL.*Send fewer"):
            await asking
        return await describing.describe(images, ASKED, scratch)

    assert len(talking(describing, conversation)) == 6


def test_who_leaves_is_not_answered_and_who_waits_is(describing, images, scratch):
    async def conversation(describing):
        first, second, third = (
            asyncio.create_task(describing.describe(images, ASKED, scratch)) for _ in range(3)
        )  # fmt: skip
        await until(lambda: describing.current is not None)
        assert describing.now().waiting == 2
        for leaving in (first, second):
            leaving.cancel()
        await asyncio.wait([second])
        assert describing.now().waiting == 1  # who left waits no more
        records = await third
        assert first.cancelled() and second.cancelled()
        return records, describing.asked

    records, asked = talking(describing, conversation)
    assert len(records) == 6 and asked == 2  # the second never reached the worker


@pytest.fixture
def replies(monkeypatch):
    """The kind of each last word of a worker."""
    found, reply = [], Describing.reply

    async def kept(self):
        said = await reply(self)
        found.extend(said)
        return said

    monkeypatch.setattr(Describing, "reply", kept)
    return found


def test_the_worker_is_told_of_who_leaves_and_stops_at_the_next_step(describing, images, scratch, replies):
    async def conversation(describing):
        first = await describing.describe(images, ASKED, scratch)
        os.kill(describing.worker.pid, signal.SIGSTOP)  # it reads what is asked and that it is left together
        leaving = asyncio.create_task(describing.describe(images, ASKED, scratch))
        await until(lambda: describing.asked == 2)  # written in the same step
        leaving.cancel()
        await until(lambda: describing.current.gone)  # so is what is told of it
        os.kill(describing.worker.pid, signal.SIGCONT)
        await asyncio.gather(leaving, return_exceptions=True)
        return first, await describing.describe(images, ASKED, scratch)

    first, last = talking(describing, conversation)
    assert replies == ["records", "cancelled", "records"] and first == last


def test_who_leaves_while_the_worker_begins_is_not_described(describing, images, scratch, replies):
    async def conversation(describing):
        leaving = asyncio.create_task(describing.describe(images, ASKED, scratch))
        await until(lambda: describing.current is not None)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        return await describing.describe(images, ASKED, scratch)

    assert len(talking(describing, conversation)) == 6 and replies == ["cancelled", "records"]


def test_what_was_left_is_not_tried_again_when_the_worker_dies_at_it(describing, images, scratch, replies):
    async def conversation(describing):
        leaving = asyncio.create_task(describing.describe(images, ASKED, scratch))
        await until(lambda: describing.worker is not None)
        leaving.cancel()
        await until(lambda: describing.current.gone)
        os.kill(describing.worker.pid, signal.SIGKILL)
        await asyncio.gather(leaving, return_exceptions=True)
        return await describing.describe(images, ASKED, scratch)

    assert len(talking(describing, conversation)) == 6 and replies == ["died", "records"]


def test_two_at_once_each_get_the_records_of_their_own(describing, images, scratch):
    own = list(images.items())
    parts = [dict(own[:3]), dict(own[3:])]

    async def conversation(describing):
        alone = [await describing.describe(part, ASKED, scratch) for part in parts]
        return alone, await asyncio.gather(*(describing.describe(part, ASKED, scratch) for part in parts))

    alone, both = talking(describing, conversation)
    assert both == alone
    assert [[record["image"] for record in records] for records in both] == [list(part.values()) for part in parts]


def test_the_worker_ends_though_it_is_at_a_request_that_was_left(describing, images, scratch):
    async def conversation(describing):
        await describing.describe(images, ASKED, scratch)
        os.kill(describing.worker.pid, signal.SIGSTOP)  # it does not let go of the next one
        leaving = asyncio.create_task(describing.describe(images, ASKED, scratch))
        await until(lambda: describing.current is not None)
        leaving.cancel()
        await until(lambda: describing.current.gone)
        leaving.cancel()  # as of what is still at work when the server is ended
        await asyncio.gather(leaving, return_exceptions=True)
        return describing.worker

    assert talking(describing, conversation) is not None  # which is no more, as `talking` sees


def test_a_model_that_fails_on_a_request_does_not_end_the_worker(place, images, scratch, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.touch()
    describing = Describing(place.weights, "cpu", blocked / "features", scratch)

    async def conversation(describing):
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be written .*give --features a folder"):
                await describing.describe(images, ASKED, scratch)
        return describing.asked

    assert talking(describing, conversation) == 2


def test_a_device_that_is_not_there_is_no_fault_of_the_request(place, images, scratch):
    describing = Describing(place.weights, "cuda:99", place.features, scratch)

    async def conversation(describing):
        with pytest.raises(Unavailable, match="--device cuda:99: a first operation failed"):
            await describing.describe(images, ASKED, scratch)
        return describing.asked

    assert talking(describing, conversation) == 1


def test_what_nobody_foresaw_is_told_and_the_same_worker_answers_the_next(describing, images, scratch, capfd):
    async def conversation(describing):
        with pytest.raises(Unavailable, match="the models failed .KeyError: 'mode'.: nothing was described"):
            await describing.describe(images, {}, scratch)
        return await describing.describe(images, ASKED, scratch), describing.asked

    records, asked = talking(describing, conversation)
    assert len(records) == 6 and asked == 2 and "Traceback" in capfd.readouterr().err


def test_a_worker_whose_parent_ended_before_it_said_anything_leaves_no_upload(scratch):
    (scratch / "0").write_bytes(b"a picture")
    command = [sys.executable, "-m", "kernel.server.worker", str(scratch)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT).returncode == 1
    assert not scratch.exists()


@pytest.fixture
def resident(place):
    return Resident(place.weights, Device("cpu"), place.features)


def nothing(*told) -> None:
    pass


def test_models_are_loaded_once_and_kept(resident, images, scratch, monkeypatch):
    first = resident.describe(images, ASKED, scratch, nothing, lambda: False)
    clip, captioner = resident.clip, resident.captioners["blip2"].captioner
    (described,) = resident.described.values()
    assert resident.describe(images, ASKED | {"mode": "best"}, scratch, nothing, lambda: False)
    assert resident.clip is clip and resident.captioners["blip2"].captioner is captioner
    assert list(resident.described.values()) == [described]
    assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == first
    resident.describe(images, ASKED | {"captioner": "blip", "without": ["flavors"]}, scratch, nothing, lambda: False)
    assert list(resident.captioners) == ["blip"] and described not in resident.described.values()


def test_one_model_makes_room_for_the_other_where_memory_is_full(resident, images, scratch, monkeypatch):
    expected = resident.describe(images, ASKED, scratch, nothing, lambda: False)
    load = captions.load_captioner

    def loaded(weights, name, device):
        if resident.clip is not None:
            raise MemoryError
        return load(weights, name, device)

    monkeypatch.setattr(captions, "load_captioner", loaded)
    resident.captioners.clear()
    assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == expected
    assert resident.one_at_a_time and resident.captioners == {} and resident.clip is not None
    assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == expected


@pytest.mark.parametrize(
    "model, computing, other",
    [(ClipEncoder, "encode_images", "captioners"), (Captioner, "captions", "clip")],
)
def test_one_model_makes_room_for_the_other_where_memory_is_full_of_both_and_neither_can_compute(
    resident, images, scratch, monkeypatch, model, computing, other
):
    expected = resident.describe(images, ASKED, scratch, nothing, lambda: False)
    compute = getattr(model, computing)

    def computed(*given):
        if getattr(resident, other):
            raise MemoryError
        return compute(*given)

    monkeypatch.setattr(model, computing, computed)
    assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == expected
    assert resident.one_at_a_time and resident.captioners == {}
    assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == expected


@pytest.mark.parametrize("error", [UserError("damaged"), MemoryError()])
def test_a_captioner_that_cannot_be_loaded_is_tried_once_and_the_one_that_answers_stays(
    resident, images, scratch, monkeypatch, capsys, error
):
    alone = ASKED | {"captioner": "blip"}
    expected = resident.describe(images, alone, scratch, nothing, lambda: False)
    load, tried = captions.load_captioner, []

    def loaded(weights, name, device):
        tried.append(name)
        if name == "blip2":
            raise error
        return load(weights, name, device)

    monkeypatch.setattr(captions, "load_captioner", loaded)
    for _ in range(2):
        assert resident.describe(images, ASKED, scratch, nothing, lambda: False) == expected
    # by a lack of memory it is tried alone too, and each model then takes the other's place
    assert tried == (["blip2", "blip"] if isinstance(error, UserError) else ["blip2", "blip2", "blip", "blip"])
    assert "given up until the server is started again" in capsys.readouterr().err


def test_steps_are_told_and_between_two_of_them_it_can_be_left(resident, images, scratch):
    told = []
    resident.describe(images, ASKED, scratch, lambda *step: told.append(step), lambda: False)
    assert ("captions", 0, 6) in told and ("captions", 6, 6) in told and told[-1] == ("fast", 6, 6)
    with pytest.raises(Cancelled):
        resident.describe(images, ASKED, scratch, nothing, lambda: True)
    assert list(scratch.iterdir()) == []


def test_of_several_captioners_each_says_its_own_and_one_is_in_memory(resident, images, scratch):
    several = ASKED | {"captioner": "blip2,blip"}
    for record in resident.describe(images, several, scratch, nothing, lambda: False):
        assert list(record["captions"]) == ["blip2", "blip"] and record["caption"] in record["captions"].values()
    assert list(resident.captioners) == ["blip"]
    for record in resident.describe(images, ASKED, scratch, nothing, lambda: False):
        assert "captions" not in record

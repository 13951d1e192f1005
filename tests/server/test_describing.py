"""The one worker: it dies and is started again, and leaves what nobody waits for."""

import asyncio
import os
import signal

import pytest

from kernel.errors import UserError
from kernel.pipeline.stages import captions
from kernel.server.describing import Describing, Unavailable
from kernel.server.resident import Cancelled, Resident
from kernel.system.devices import Device

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

    return asyncio.run(both())


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


def test_a_request_over_which_workers_die_twice_is_refused_with_words_and_the_next_is_answered(
    describing, images, scratch
):
    async def conversation(describing):
        asking = asyncio.create_task(describing.describe(images, ASKED, scratch))
        for number in (1, 2):
            await until(lambda n=number: describing.asked == n and describing.at.said == "loading the models")
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
        await until(lambda: describing.at.said == "loading the models")
        assert describing.now().waiting == 2
        for leaving in (first, second):
            leaving.cancel()
        records = await third
        assert first.cancelled() and second.cancelled()
        return records, describing.asked

    records, asked = talking(describing, conversation)
    assert len(records) == 6 and asked == 2  # the second never reached the worker


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

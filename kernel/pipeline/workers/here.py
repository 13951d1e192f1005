"""Work in this very process, where a CPU is all there is, or one loaded model is at hand."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from kernel.system.devices import Device
from kernel.system.memory import release_memory
from kernel.system.work import Ends, Outcome, Share, Work, reason_of, steps


@dataclass(frozen=True)
class Here:
    """An Engine of one device."""

    device: Device

    @property
    def title(self) -> str:
        return self.device.name

    @property
    def devices(self) -> list[Device]:
        return [self.device]

    def work(self, work: Work, items: Mapping[int, int], ends: Ends, outcome: Outcome) -> Generator[int]:
        outcome.left += items
        if not items:
            return
        try:
            maker = work.load(self.device)
        except Exception as error:
            outcome.reasons.append(reason_of(error))
            return
        while outcome.left:
            item, images = outcome.left[0], sum(items[own] for own in outcome.left)
            for step in steps(maker, item, Share(images, ends.begins)):
                if "progress" in step:
                    yield step["progress"]
                elif "made" in step:
                    outcome.left.remove(item)
                elif "disk" in step:
                    raise OSError(*step["disk"])
                elif "given_up" in step:
                    outcome.reasons.append(step["given_up"])
                else:
                    outcome.out_of_time = True
            if item in outcome.left:
                break
        del maker  # its model goes before the next one loads
        release_memory()

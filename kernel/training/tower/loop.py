"""The training loop: every tier but `head`, from the head that was fitted on the frozen tower (LP-FT, Kumar et al.
2022). It reads from top to bottom, on one process or on several that see parts of each batch.

Batch normalisation and dropout stay as at inference, so that a step depends on its pictures alone: however a training
is cut and goes on, and over however many processes before and after, its steps are the same.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from kernel.config import TrainingSettings
from kernel.errors import UserError
from kernel.models.encoders.record import Pixels
from kernel.pipeline.images import ImageFile
from kernel.system.deadline import Deadline
from kernel.system.terminal.progress import progress_bar
from kernel.training.split import Parts
from kernel.training.tower.checkpoint import (
    Progress,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from kernel.training.tower.pictures import Batches, Order, Pictures
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained, parameter_groups

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
LOOKS, LOOK_SECONDS = 60, 1.0  # NFS may show a machine for a minute what it knew of a folder before


@dataclass(frozen=True)
class Pictured:
    """What is trained on: the set's pictures, the rows (n, 384) that they should become, and which are for what."""

    files: list[ImageFile]
    rows: np.ndarray
    parts: Parts
    pixels: Pixels


class Loop:
    """One training. `folder` keeps its checkpoint, `identity` says of which training that must be."""

    def __init__(
        self,
        model: Trained,
        material: Pictured,
        settings: TrainingSettings,
        own: Processes,
        folder: Path,
        identity: dict[str, Any],
        deadline: Deadline,
    ) -> None:
        self.settings, self.material, self.own, self.deadline = settings, material, own, deadline
        self.folder, self.identity = folder, {**identity, "settings": asdict(settings)}
        batch = min(settings.batch, len(material.parts.train))
        if batch < own.count:
            raise UserError(
                f"a batch of {batch} pictures cannot be shared out to {own.count} processes: some would have none. Set "
                f"batch to {own.count} or more, or train on {batch} at most"
            )
        self.order = Order(material.parts.train, batch, settings.seed)
        self.steps = settings.epochs * self.order.steps
        self.model = model.to(own.device.name).eval()
        # what the first process begins with, all do
        self.shared: Any = torch.nn.parallel.DistributedDataParallel(model) if own.count > 1 else model
        if settings.recompute and hasattr(model.tower, "set_grad_checkpointing"):
            model.tower.set_grad_checkpointing(True)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)
        self.schedule = CosineLRScheduler(
            self.optimizer, self.steps, warmup_t=round(settings.warmup * self.steps), warmup_prefix=True,
            t_in_epochs=False,
        )  # fmt: skip
        self.average = ModelEmaV3(model, decay=settings.average, use_warmup=True)
        self.half = half_precision(own)
        self.scaler = torch.amp.GradScaler(enabled=self.half == torch.float16)
        self.truth = torch.from_numpy(material.rows)
        self.progress = Progress()

    def run(self) -> Progress:
        """Trains until all steps are done or the time is over; afterwards the model is the best that was seen, the one
        it began with included. Raises UserError where the loss is no number."""
        self.resume()
        if not self.progress.validations:
            self.validate()
        saved = time.monotonic()
        batches = self.batches()
        batch = self.order.batch
        with progress_bar(total=self.steps * batch, initial=self.progress.step * batch, desc="training",
                          unit="picture", disable=not self.own.first) as bar:  # fmt: skip
            while self.progress.step < self.steps and self.has_time():
                begun = time.monotonic()
                loss = self.step(*next(batches))
                self.progress.seconds += time.monotonic() - begun
                bar.update(batch)
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{self.progress.validations[self.progress.best]:.4f}")
                if self.progress.step % self.order.steps == 0:
                    self.progress.losses[self.progress.step] = self.progress.lost / self.order.steps
                    self.progress.lost = 0.0
                    self.validate()
                    self.save()
                    saved = time.monotonic()
                elif time.monotonic() - saved > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        if self.progress.step < self.steps:
            self.save()  # at once: a session that is over may end while what was trained is judged
            self.validate()
            self.save()
        self.take_best()
        return self.progress

    def step(self, pixels: torch.Tensor, places: torch.Tensor) -> float:
        """One step of all processes; the loss of their pictures."""
        device, count = self.own.device.name, self.own.count
        self.schedule.step_update(self.progress.step)
        total = torch.zeros(1, dtype=torch.float64)
        parts = pixels.chunk(self.settings.accumulate)
        truths = self.truth[places].chunk(self.settings.accumulate)
        for number, (own, truth) in enumerate(zip(parts, truths, strict=True), start=1):
            waits = count > 1 and number < len(parts)  # the last part's gradients are averaged with all before
            with self.shared.no_sync() if waits else nullcontext():
                with torch.autocast(self.own.device.name.partition(":")[0], self.half, enabled=self.half is not None):
                    answers = self.shared(own.to(device))
                # every picture counts alike, however many this process has: the gradients' mean is over processes
                loss = loss_of(answers.float(), truth.to(device), self.settings.loss)
                loss = loss * (len(own) * count / self.order.batch)
                self.scaler.scale(loss).backward()
            total += loss.item()
        mean = self.own.sum(total.to(device)).item() / count
        if not np.isfinite(mean):
            raise UserError(
                f"the loss of step {self.progress.step + 1} of {self.steps} is {mean}: no step follows from it. "
                f"The best encoder so far is kept in {self.folder}. Lower --set learning_rate, or train on a CPU"
            )
        self.scaler.unscale_(self.optimizer)
        learning = self.model.learning().values()
        torch.nn.utils.clip_grad_norm_(learning, self.settings.largest_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.lost += mean
        self.average.update(self.model, step=self.progress.step)
        return mean

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        settings, material = self.settings, self.material
        pictures = Pictures(material.files, material.pixels, settings.augment, settings.seed)
        steps = Batches(self.order, self.progress.step, self.steps, self.own.rank, self.own.count)
        return iter(self.loader(pictures, steps))

    @cached_property
    def judging(self) -> Any:
        """The validation pictures of this process, as they are, again and again by the same workers."""
        places = self.material.parts.validation[self.own.rank :: self.own.count]
        pictures = Pictures(self.material.files, self.material.pixels, augment=False, seed=0)
        batch = max(1, self.order.batch // (self.own.count * self.settings.accumulate))
        asked = [[(0, int(place)) for place in part] for part in np.split(places, range(batch, len(places), batch))]
        return self.loader(pictures, asked)

    def loader(self, pictures: Pictures, batches: Any) -> Any:
        """Worker processes decode ahead; they begin anew, as a process with threads must not be forked."""
        workers = self.settings.workers
        return torch.utils.data.DataLoader(
            pictures, batch_sampler=batches, num_workers=workers, pin_memory=self.own.device.is_gpu,
            multiprocessing_context="spawn" if workers else None, persistent_workers=workers > 0,
        )  # fmt: skip

    @torch.inference_mode()
    def validate(self) -> None:
        """The mean cosine of the averaged weights on the validation pairs; the best weights are kept."""
        total = torch.zeros(2, dtype=torch.float64)
        for pixels, own in self.judging:
            with torch.autocast(self.own.device.name.partition(":")[0], self.half, enabled=self.half is not None):
                answers = self.average.module(pixels.to(self.own.device.name)).float().cpu()
            total += torch.tensor([(answers * self.truth[own]).sum(), len(own)], dtype=torch.float64)
        found, count = self.own.sum(total.to(self.own.device.name)).tolist()
        progress = self.progress
        progress.validations[progress.step] = found / count
        if progress.best == progress.step and self.own.first:
            save_checkpoint(self.folder / BEST, {"average": self.averaged()}, progress, self.identity)
        self.own.wait()

    def averaged(self) -> dict[str, torch.Tensor]:
        weights = dict(self.average.module.named_parameters())
        return {name: weights[name] for name in self.model.learning()}

    def save(self) -> None:
        if self.own.first:
            states = {
                "model": self.model.learning(),
                "average": self.averaged(),
                "optimizer": optimizer_tensors(self.optimizer),
                "scaler": {name: torch.as_tensor(own) for name, own in self.scaler.state_dict().items()},
            }
            save_checkpoint(self.folder / CHECKPOINT, states, self.progress, self.identity)
        self.own.wait()

    def resume(self) -> None:
        """Goes on where the last checkpoint of this very training stands; without one nothing is changed."""
        found = self.last_checkpoint()
        if found is None:
            return
        parts, self.progress = found
        self.model.load_state_dict(parts["model"], strict=False)
        self.average.module.load_state_dict(parts["average"], strict=False)
        load_optimizer(self.optimizer, parts.get("optimizer", {}))
        if scaler := parts.get("scaler"):
            self.scaler.load_state_dict({name: own.item() for name, own in scaler.items()})

    def last_checkpoint(self) -> tuple[dict[str, dict[str, Any]], Progress] | None:
        """Raises UserError where the processes do not see the same one, for as long as a shared disk may need to show
        what another machine wrote."""
        for _ in range(LOOKS):
            found = load_checkpoint(self.folder / CHECKPOINT, self.identity)
            if found and found[1].validations and load_checkpoint(self.folder / BEST, self.identity) is None:
                found = None  # what was best so far is lost: from the beginning
            if self.own.alike(found[1].step if found else -1):
                return found
            time.sleep(LOOK_SECONDS)
        raise UserError(
            f"{self.folder / CHECKPOINT}: this machine sees {f'step {found[1].step}' if found else 'none'}, others see "
            "another: no training goes on from both. Give --out a folder on a disk that all machines share"
        )

    def take_best(self) -> None:
        found = load_checkpoint(self.folder / BEST, self.identity)
        assert found is not None  # written at the first validation
        self.model.load_state_dict(found[0]["average"], strict=False)

    def has_time(self) -> bool:
        """The processes decide together: one that stopped alone would leave the others waiting for it."""
        left = torch.tensor([float(self.deadline.left() > 0)], device=self.own.device.name)
        return bool(self.own.sum(left).item() == self.own.count)


def half_precision(own: Processes) -> torch.dtype | None:
    """bfloat16 where the GPU computes in it, float16 elsewhere (T4); None on a CPU, whose half is emulated."""
    if not own.device.is_gpu:
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(own.device.name)[0] >= 8 else torch.float16


def loss_of(answers: torch.Tensor, truth: torch.Tensor, kind: str) -> torch.Tensor:
    """Of unit rows (n, d): 1 - cosine, or the angle between them as a share of a half turn (the 33rd place's)."""
    cosines = (answers * truth).sum(dim=-1)
    if kind == "cosine":
        return (1 - cosines).mean()
    return (torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6)) / torch.pi).mean()

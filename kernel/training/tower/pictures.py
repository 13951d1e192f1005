"""Pictures of a pair set as a tower wants them, in an order that a seed, an epoch and a step alone decide."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import InterpolationMode

from kernel.models.encoders.encoder import preprocessing
from kernel.models.encoders.record import Pixels
from kernel.pipeline.decoding import BadImage, decode_file
from kernel.pipeline.images import ImageFile


@dataclass(frozen=True)
class Order:
    """Which pictures each step takes: `batch` of all processes together, whole batches only, each epoch anew.

    `places` are the pictures that are trained on, among all of the set. Rank r of n takes every n-th of a batch, so
    that n processes see together what one would.
    """

    places: np.ndarray
    batch: int
    seed: int

    @property
    def steps(self) -> int:
        """An epoch's."""
        return max(1, len(self.places) // self.batch)

    def of(self, step: int, rank: int = 0, processes: int = 1) -> list[tuple[int, int]]:
        """(epoch, place) of each picture of a step, counted from the first epoch's first."""
        epoch, number = divmod(step, self.steps)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.places)
        return [(epoch, int(place)) for place in order[number * self.batch :][: self.batch][rank::processes]]


@dataclass(frozen=True)
class Batches:
    """The steps from `start` to `end` of one process, each as `Order.of` says, for a DataLoader."""

    order: Order
    start: int
    end: int
    rank: int
    processes: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.order.of(step, self.rank, self.processes) for step in range(self.start, self.end))

    def __len__(self) -> int:
        return self.end - self.start


class Pictures(torch.utils.data.Dataset):
    """(epoch, place) -> the picture's pixels (3, size, size) and the place.

    What augmentation does is drawn by seed, epoch and place alone: whichever process, worker or resumed training asks
    gets the same pixels. A picture that cannot be decoded is grey: it was told before, when features were made.
    """

    def __init__(self, files: list[ImageFile], pixels: Pixels, augment: bool, seed: int) -> None:
        self.files, self.pixels, self.augment, self.seed = files, pixels, augment, seed
        self.plain = preprocessing(pixels)
        resample = InterpolationMode(pixels.interpolation)
        self.drawn = transforms.Compose(
            [
                transforms.RandomResizedCrop(pixels.size, scale=(0.5, 1.0), interpolation=resample, antialias=True),
                transforms.ColorJitter(0.05, 0.05, 0.05),
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize(pixels.mean, pixels.std),
            ]
        )

    def __getitem__(self, asked: tuple[int, int]) -> tuple[Any, int]:
        epoch, place = asked
        picture = decode_file(self.files[place])
        if isinstance(picture, BadImage):
            picture = Image.new("RGB", (self.pixels.size, self.pixels.size), "grey")
        if not self.augment:
            return self.plain(picture), place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, epoch, place]).generate_state(1)[0]))
            return self.drawn(picture), place

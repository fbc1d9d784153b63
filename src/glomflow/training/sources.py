"""Where a model's inputs come from while it is trained.

All random draws are derived from the seed, the epoch, the step and the patient: none depends on how many
readers there are, on what was drawn before, or on whether the training was resumed.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.imaging.stain.augment import augment_batch
from glomflow.models.batch import Batch, Instances, Pooled, concatenate
from glomflow.models.outputs import Outputs
from glomflow.models.patient_model import PatientModel
from glomflow.training.data import STAINED, FoldData, chunks
from glomflow.training.seeds import derive_seed

_POOL_AT_ONCE = 32
_GIB = 1024**3


@dataclass(frozen=True)
class Draws:
    """The random draws of one part of a step.

    Attributes:
        seed: Seed of the training.
        epoch: Epoch, from 0.
        step: Step of the epoch, from 0.
        start: Place of the part's first patient in the step.
        device: Where the model is.
    """

    seed: int
    epoch: int
    step: int
    start: int
    device: torch.device

    def seed_torch(self, purpose: str) -> None:
        """Seeds torch's generators for what the model draws, such as dropout."""
        number = derive_seed(self.seed, purpose, self.epoch, self.step, self.start)
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def of_patient(self, place: int) -> torch.Generator:
        """Returns a CPU generator of the changes of one patient's images in this epoch."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "images", self.epoch, place))


class Source(Protocol):
    """Runs a model on patients, who are numbered from 0."""

    def plan(self, parts: Sequence[Tensor]) -> None:
        """Tells which patients will be asked for, part by part, so that they can be read ahead."""

    def outputs(self, places: Tensor, draws: Draws | None) -> Outputs:
        """Runs the model.

        Args:
            places: (B,) int64 on the CPU.
            draws: Random draws of training, or None for none.
        """

    def outline(self, places: Tensor, draws: Draws) -> Outputs:
        """Returns outputs whose ``present`` is that of :meth:`outputs`, for less work; no logits."""

    def close(self) -> None:
        """Ends reading."""


@contextlib.contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Runs a block in which torch may compile a network, at its first use of a shape.

    Args:
        on: ``diagnosis.training.compile``; without it nothing is looked at.

    Raises:
        GlomflowError: torch cannot compile the network; the message says what to set.
    """
    if not on:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise GlomflowError(
            f"diagnosis.training.compile: torch cannot compile the network here ({reason}); "
            "set diagnosis.training.compile: false"
        ) from error


class PooledSource:
    """Patients pooled once: for frozen features, where pooling has nothing to learn.

    Args:
        module: The model.
        data: Bags of features.
        device: Where the pooled maps are kept.
        compiled: Compile what is run.
    """

    def __init__(
        self, module: PatientModel, data: FoldData, device: torch.device, *, compiled: bool = False
    ) -> None:
        net = module.net
        parts: list[Pooled] = []
        with torch.no_grad():
            for places in chunks(torch.arange(len(data.patients)), _POOL_AT_ONCE):
                parts.append(net.pool(module.batch(data.instances(places.numpy()).to(device))))
        self._pooled = concatenate(parts)
        self._device = device
        self._compiled = compiled
        self._classify = torch.compile(net.classify) if compiled else net.classify

    def plan(self, parts: Sequence[Tensor]) -> None:
        """Does nothing: all is in memory."""

    def outputs(self, places: Tensor, draws: Draws | None) -> Outputs:
        """Runs attention and heads on some patients; cached features cannot be changed at random."""
        if draws is not None:
            draws.seed_torch("network")
        with compiling(self._compiled):
            return self._classify(self._pooled.select(places.to(self._device)))

    @torch.no_grad()
    def outline(self, places: Tensor, draws: Draws) -> Outputs:
        """Runs the same without gradients."""
        return self.outputs(places, draws)

    def close(self) -> None:
        """Does nothing."""


class BagSource:
    """Bags read, and where they are crops encoded, at every step.

    Instances are laid out one after the other, so that no padding is ever encoded; only feature maps are
    padded, to the longest bag of the step.

    Args:
        module: The model.
        data: Bags of features or crops.
        device: Where the model is.
        training: How crops are changed at random while training, and how many threads read ahead.
    """

    def __init__(
        self, module: PatientModel, data: FoldData, device: torch.device, training: config.Training
    ) -> None:
        self._module = module
        self._device = device
        self._training = training
        self._data = data
        self._reader = Reader(data, training.workers, pin=device.type == "cuda")
        self._grids: dict[str, tuple[int, int]] = {}
        if training.compile:
            module.net.compile()
            for encoder in module.bank.encoders.values() if module.bank is not None else ():
                encoder.compile()

    def plan(self, parts: Sequence[Tensor]) -> None:
        """Starts reading the parts, a few ahead."""
        self._reader.plan(parts)

    def outputs(self, places: Tensor, draws: Draws | None) -> Outputs:
        """Runs the whole model on some patients, crops changed at random if ``draws`` is given."""
        read = self._reader.read(places)
        instances = read.to(self._device)
        if draws is not None:
            if self._module.bank is not None:
                counts = {name: (slots >= 0).sum(1).tolist() for name, slots in read.slots.items()}
                instances = changed(instances, counts, places, draws, self._training)
            draws.seed_torch("encoder")
        with compiling(self._training.compile):
            batch = self._module.batch(instances)
        if draws is not None:
            draws.seed_torch("network")
        return self._run(batch)

    @torch.no_grad()
    def outline(self, places: Tensor, draws: Draws) -> Outputs:
        """Runs the network behind the encoders on feature maps of zeros, with the same draws."""
        maps, masks = {}, {}
        for name in self._module.net.modalities:
            slots = self._data.slots(name, places.numpy())
            masks[name] = torch.from_numpy(slots >= 0).to(self._device)
            shape = (*slots.shape, *self._grid(name), self._module.net.channels[name])
            maps[name] = torch.zeros(shape, device=self._device)
        draws.seed_torch("network")
        return self._run(Batch(maps, masks))

    def _run(self, batch: Batch) -> Outputs:
        with compiling(self._training.compile):
            outputs: Outputs = self._module.net(batch)
        return outputs

    def close(self) -> None:
        """Stops the readers."""
        self._reader.close()

    def _grid(self, modality: str) -> tuple[int, int]:
        if modality not in self._grids:
            shape = self._data.bags[modality].shape
            bank = self._module.bank
            if bank is not None:
                with torch.no_grad():
                    empty = torch.zeros((0, *shape), dtype=torch.uint8, device=self._device)
                    shape = tuple(bank(modality, empty).shape[1:])
            self._grids[modality] = shape[0], shape[1]
        return self._grids[modality]


class Reader:
    """Reads bags ahead of the training, in the order that was planned.

    Args:
        data: The bags.
        workers: Threads; with 0, or where nothing was planned, bags are read when they are asked for.
        pin: Put what is read into pinned memory.
    """

    def __init__(self, data: FoldData, workers: int, *, pin: bool) -> None:
        self._data = data
        self._pin = pin
        self._ahead = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reader") if workers else None
        self._waiting: deque[Tensor] = deque()
        self._reading: deque[tuple[Tensor, Future[Instances]]] = deque()

    def plan(self, parts: Sequence[Tensor]) -> None:
        """Forgets what was planned and starts reading ``parts``."""
        for _, future in self._reading:
            future.cancel()
        self._reading.clear()
        self._waiting = deque(parts)
        self._advance()

    def read(self, places: Tensor) -> Instances:
        """Returns the bags of some patients.

        Args:
            places: (B,) int64.

        Raises:
            GlomflowError: They cannot be read; the message names the patients.
        """
        if self._reading and torch.equal(self._reading[0][0], places):
            _, future = self._reading.popleft()
            self._advance()
            return future.result()
        return self._read(places)

    def close(self) -> None:
        """Stops the threads."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _advance(self) -> None:
        while self._pool is not None and self._waiting and len(self._reading) < self._ahead:
            places = self._waiting.popleft()
            self._reading.append((places, self._pool.submit(self._read, places)))

    def _read(self, places: Tensor) -> Instances:
        try:
            return self._data.instances(places.numpy(), pin=self._pin)
        except (OSError, ValueError, IndexError) as error:
            names = ", ".join(self._data.patients[place] for place in places.tolist()[:5])
            raise GlomflowError(
                f"the crops or features of {names} cannot be read ({error}); look at the disk, or delete "
                "the stores and run again"
            ) from error


def make_source(
    module: PatientModel, data: FoldData, device: torch.device, training: config.Training
) -> PooledSource | BagSource:
    """Chooses how patients are read.

    Where the encoder is frozen and pooling has nothing to learn, patients are pooled once, if the pooled
    maps fit ``cache_gb``. Other frozen features are kept in memory if they fit it, else streamed from their
    files, as crops always are.
    """
    limit = training.cache_gb * _GIB
    if module.bank is None:
        pooled = sum(4 * len(data.patients) * math.prod(bags.shape) for bags in data.bags.values())
        if module.net.static_pooling and pooled <= limit:
            return PooledSource(module, data, device, compiled=training.compile)
        if sum(bags.nbytes for bags in data.bags.values()) <= limit:
            for bags in data.bags.values():
                bags.hold()
    return BagSource(module, data, device, training)


def changed(
    instances: Instances,
    counts: Mapping[str, list[int]],
    places: Tensor,
    draws: Draws,
    training: config.Training,
) -> Instances:
    """Flips and recolours crops at random, patient by patient.

    Args:
        instances: Bags of crops on any device.
        counts: Per modality, how many crops each patient has.
        places: (B,) int64, the patients.
        draws: The draws; a patient's are the same in whatever company.
        training: ``flips`` and ``stain_augmentation``.

    Returns:
        The changed bags.
    """
    generators = [draws.of_patient(place) for place in places.tolist()]
    rows = {}
    for name in sorted(instances.rows):
        images = instances.rows[name]
        pieces = list(zip(torch.split(images, counts[name]), generators, strict=True))
        if name == STAINED and training.stain_augmentation > 0.0 and len(images):
            images = torch.cat([augment_batch(one, own, training.stain_augmentation) for one, own in pieces])
        if training.flips and len(images):
            choices = [torch.rand(2, len(one), generator=own) < 0.5 for one, own in pieces]
            images = flipped(images, torch.cat(choices, 1).to(images.device, non_blocking=True))
        rows[name] = images
    return Instances(rows, instances.slots)


def flipped(images: Tensor, choices: Tensor) -> Tensor:
    """Flips images.

    Args:
        images: (N, H, W, C).
        choices: (2, N) bool: left to right in the second direction, top to bottom in the first.

    Returns:
        (N, H, W, C).
    """
    rows, columns = choices[:, :, None, None, None]
    images = torch.where(rows, images.flip(1), images)
    return torch.where(columns, images.flip(2), images)

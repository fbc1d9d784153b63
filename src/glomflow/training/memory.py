"""How much memory a training needs, before it needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glomflow import config
from glomflow.training.data import FoldData
from glomflow.training.optimisation import autocast, running_statistics, trained_parameters
from glomflow.training.sources import Draws
from glomflow.training.step import Task

_GIB = 1024**3
_MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class Estimate:
    """What a training holds in the device's memory at its peak, bytes.

    Attributes:
        weights: Parameters and buffers, their moving average, and the weights of the best epoch.
        gradients: Gradients.
        optimiser: The optimiser's state.
        activations: What the backward pass needs of one part of a step, and its inputs.
        passing: Gradients of the input and the output of the widest layer while it runs backwards.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    passing: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.passing


def estimate(task: Task, largest: int, patients: int) -> Estimate:
    """Predicts the peak from a trial run of one patient.

    The patient with the most instances runs forward once, and what autograd keeps for the way back is
    added up; a part of a step is reckoned as so many such patients. With gradient checkpointing what a
    recomputed block keeps for a while is not seen.

    Args:
        task: What is trained; its state is left as it was.
        largest: Place of the patient with the most instances.
        patients: Patients that run at once.
    """
    training = task.training
    trained = sum(p.numel() * p.element_size() for p in trained_parameters(task.module, task.criterion))
    held = [*task.module.parameters(), *task.module.buffers()]
    weights = sum(each.numel() * each.element_size() for each in held)
    copies = (trained if training.ema is not None else 0) + weights
    moments = _MOMENTS[training.optimiser] + (training.amsgrad and training.optimiser != "sgd")
    saved, widest = saved_bytes(task, largest)
    return Estimate(weights + copies, trained, moments * trained, patients * saved, 2 * patients * widest)


def saved_bytes(task: Task, place: int) -> tuple[int, int]:
    """Runs a patient forward and looks at what autograd keeps for the way back, parameters aside.

    The patient runs twice at once, since batch normalisation cannot learn from a single value.

    Args:
        task: What is trained; its state is left as it was, and no part of the pass stays in memory.
        place: The patient.

    Returns:
        The bytes kept of the patient, and those of the largest tensor among them.
    """
    task.module.train()
    statistics = running_statistics(task.module)
    before = [each.clone() for each in statistics]
    own = {each.untyped_storage().data_ptr() for each in task.module.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> None:
        # The storages are held here, not by the graph: a graph that holds what it has made is never freed.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage

    def unpack(_: Any) -> Tensor:
        raise AssertionError("the trial run has no backward pass")

    draws = Draws(task.seed, 0, 0, 0, task.device)
    with (
        torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []),
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
        autocast(task.device, task.training.precision),
    ):
        outputs = task.source.outputs(torch.tensor([place, place]), draws)
        sizes = [storage.nbytes() // 2 for storage in seen.values()]
    del outputs
    if statistics:
        torch._foreach_copy_(statistics, before)
    return sum(sizes), max(sizes, default=0)


def bag_sizes(data: FoldData, places: np.ndarray) -> np.ndarray:
    """Returns (n,) the number of instances of some patients, all modalities together."""
    sizes = np.zeros(len(places), np.int64)
    for bags in data.bags.values():
        sizes += (bags.slots[places] >= 0).sum(1)
    return sizes


def at_once(training: config.Training, patients: int, devices: int) -> int:
    """Returns how many patients run at once on a device."""
    parts = training.accumulate * devices
    return -(-min(training.batch_size, patients) // parts)


def available(device: torch.device) -> tuple[int, int]:
    """Returns the free and the whole memory of a device, or of the computer for the CPU, bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def statement(task: Task, sizes: np.ndarray) -> str:
    """Says how much memory a training is going to need.

    Args:
        task: What is trained.
        sizes: (n,) instances of each training patient.
    """
    patients = at_once(task.training, len(task.train), task.world.size)
    free, whole = available(task.device)
    try:
        needed = estimate(task, int(task.train[int(sizes.argmax())]), patients).total
    except torch.OutOfMemoryError:
        return f"{task.name}: the largest patient alone runs out of the {free / _GIB:.1f} GiB that are free"
    line = (
        f"{task.name}: needs about {needed / _GIB:.2f} GiB of memory with {patients} patients at once, the "
        f"device has {whole / _GIB:.1f} GiB, of which {free / _GIB:.1f} are free"
    )
    if needed > free:
        line += "; raise diagnosis.training.accumulate if it does not suffice"
    return line

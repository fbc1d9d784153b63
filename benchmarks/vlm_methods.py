"""Few-shot adaptation from cached features and activations against the loop that papers publish.

The loop is written anew from what the papers and their code do: for every run and number of shots the model
is loaded again; in every epoch every image is read from its file, decoded, resized and sent through the whole
image tower, every caption is tokenised and sent through the whole text tower (contrastive methods), the
validation images likewise after each epoch; training stops early on validation AUC. Both sides train the same
layers with the same settings on the same shots, and differ in the order of images: scores agree within the
noise of seeds. Our time holds everything from the files on: loading the model, decoding each image once,
caching, training, predicting.

    python benchmarks/vlm_methods.py --tiny                          # does it run? (a minute)
    python benchmarks/vlm_methods.py --architecture phantom --runs 10 --published-runs 1
    python benchmarks/vlm_methods.py --architecture ViT-B-16 --shots 1 2 4 8 --runs 2 --epochs 20
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from glomflow.config_vlm import VlmBackbone, VlmPretraining
from glomflow.evaluation.metrics import macro_auc
from glomflow.models.vlm.backbone import Backbone, load_backbone
from glomflow.models.vlm.losses import contrastive_loss
from glomflow.models.vlm.methods.base import Problem, Rows, Shots, State, TrainedMethod, class_text
from glomflow.models.vlm.methods.registry import FEATURE_METHODS, feature_method, tuned_method
from glomflow.models.vlm.methods.tuned import TunedMethod
from glomflow.models.vlm.open_clip_backbone import build_model, import_open_clip
from glomflow.models.vlm.prompts import Prompts
from glomflow.training.vlm_batched import fit
from glomflow.training.vlm_cache import ActivationCache
from glomflow.training.vlm_finetune import Precision, tune
from glomflow.training.vlm_optimiser import learning_rate
from glomflow.training.vlm_pretrain import describe

CLASSES = ("atubular", "globally_sclerotic", "ischaemic", "segmentally_sclerotic", "viable")
PROMPTS = Prompts(
    CLASSES,
    tuple(name.replace("_", " ") for name in CLASSES),
    tuple((f"A pathology image of {name.replace('_', ' ')} glomerulus",) for name in CLASSES),
)
WANTED = {"vanilla": 6.0, "lora": 15.0, "adapter": 2.5}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4},
}
PHANTOM = "phantom"
"""The small model that the workflow pretrains on two cores."""
Loader = Callable[[], Backbone]


@dataclasses.dataclass(frozen=True)
class Files:
    """Images in files, read like an array (n, H, W, 3) uint8."""

    paths: list[Path]
    labels: NDArray[np.int64]
    edge: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""
        return (len(self.paths), self.edge, self.edge, 3)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([np.asarray(Image.open(self.paths[row]).convert("RGB")) for row in rows])


def write_images(folder: Path, per_class: int, edge: int) -> Files:
    """Writes discs on a pink ground, whose size, colour and grain overlap between classes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:edge, :edge] / edge - 0.5
    paths, labels = [], []
    for number in range(per_class * len(CLASSES)):
        label = number % len(CLASSES)
        radius = 0.2 + 0.03 * label + 0.03 * rng.normal()
        waves = np.sin((20 + 8 * label + 6 * rng.normal()) * (x * np.cos(label) + y * np.sin(label)))
        disc = (np.hypot(x, y) < radius) * (0.6 + 0.4 * waves)
        colour = np.array([-60.0, -110.0 + 12 * label, -50.0]) + 8 * rng.normal(size=3)
        image = np.array([235, 205, 225]) + disc[..., None] * colour + 6 * rng.normal(size=(edge, edge, 3))
        paths.append(folder / f"{number}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(paths[-1], compress_level=1)
        labels.append(label)
    return Files(paths, np.array(labels), edge)


def draw(files: Files, shots: list[int], runs: int, held: int) -> tuple[Shots, NDArray[np.int64]]:
    """Draws shots and validation images of each run; returns them and the test images, common to all."""
    members = [np.flatnonzero(files.labels == k) for k in range(len(CLASSES))]
    most = max(shots)
    rows: list[list[int]] = []
    validation: list[list[int]] = []
    names, seeds = [], []
    for run in range(runs):
        orders = [
            np.random.default_rng([run, k]).permutation(own[: most + held]) for k, own in enumerate(members)
        ]
        for count in shots:
            rows.append([int(row) for own in orders for row in own[:count]])
            validation.append([int(row) for own in orders for row in own[most:]])
            names.append(f"run {run}, {count} shots")
            seeds.append(1000 * run + count)
    parts = [Rows.of(part, [files.labels[own].tolist() for own in part]) for part in (rows, validation)]
    test = np.concatenate([own[most + held :] for own in members])
    return Shots(CLASSES, parts[0], parts[1], tuple(names), tuple(seeds)), test


def rows_of(rows: Rows) -> NDArray[np.int64]:
    return rows.rows[0][rows.mask[0]].numpy()


class Published:
    """The published loop of one run, number of shots and method."""

    def __init__(
        self, method: Any, files: Files, shots: Shots, test: NDArray[np.int64], load: Loader
    ) -> None:
        self.method, self.files, self.shots, self.test = method, files, shots, test
        self.recipe = method.settings.recipe
        self.rng = np.random.default_rng([7, shots.seeds[0]])
        self.backbone = load()
        self.text = class_text(PROMPTS, self.backbone)

    def batches(
        self, rows: NDArray[np.int64], size: int, *, shuffle: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Reads, decodes and prepares images batch by batch, as a data loader does in every epoch."""
        order = self.rng.permutation(rows) if shuffle else rows
        starts = list(range(0, len(order), size))
        if len(starts) > 1 and len(order) - starts[-1] == 1:
            starts.pop()
        device = self.backbone.logit_scale.device
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
            own = order[start:stop]
            pixels = torch.cat([self.backbone.preprocess(torch.from_numpy(self.files[[row]])) for row in own])
            yield pixels.to(device), torch.from_numpy(self.files.labels[own]).to(device)

    def scores(self) -> NDArray[np.float64]:
        """Trains and returns the test images' probabilities."""
        if isinstance(self.method, TunedMethod):
            with self.method.attached(self.backbone, self.shots.seeds[0]) as named:
                return self._trained(list(named.values()), self._contrastive, self._by_text)
        head = self._head()
        return self._trained(list(head.trained.values()), self._headed(head), self._by_head(head), head)

    def _trained(
        self, parameters: list[Tensor], loss: Any, logits: Any, head: State | None = None
    ) -> NDArray[np.float64]:
        recipe = self.recipe
        optimiser = torch.optim.AdamW(
            parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, eps=recipe.eps
        )
        rows, taken, best, waited = rows_of(self.shots.train), 0, -1.0, 0
        kept: list[Tensor] = []
        for epoch in range(recipe.epochs):
            steps = max(1, round(len(rows) / recipe.batch_size))
            with self._training():
                for pixels, labels in self.batches(rows, recipe.batch_size, shuffle=True):
                    for group in optimiser.param_groups:
                        group["lr"] = learning_rate(recipe, taken, steps, epoch)
                    optimiser.zero_grad()
                    loss(pixels, labels).backward()
                    optimiser.step()
                    taken += 1
            assert self.shots.validation is not None
            held = rows_of(self.shots.validation)
            area = float(macro_auc(self.files.labels[held], self._predicted(held, logits)))
            if area > best + recipe.min_delta:
                best, waited = area, 0
                kept = [value.detach().clone() for value in self._kept(parameters, head)]
            else:
                waited += 1
                if waited >= recipe.patience:
                    break
        with torch.no_grad():
            for value, good in zip(self._kept(parameters, head), kept, strict=True):
                value.copy_(good)
        return self._predicted(self.test, logits)

    @staticmethod
    def _kept(parameters: list[Tensor], head: State | None) -> list[Tensor]:
        return [*parameters, *(head.fixed.values() if head else [])]

    def _training(self) -> Any:
        if isinstance(self.method, TunedMethod):
            return self.method.training(self.backbone)
        return torch.enable_grad()

    @torch.no_grad()
    def _predicted(self, rows: NDArray[np.int64], logits: Any) -> NDArray[np.float64]:
        parts = [logits(pixels) for pixels, _ in self.batches(rows, 16, shuffle=False)]
        return torch.cat(parts).double().softmax(dim=1).cpu().numpy()

    def _contrastive(self, pixels: Tensor, labels: Tensor) -> Tensor:
        sentences = [PROMPTS.prompts[label][0] for label in labels.tolist()]
        texts = self.backbone.text_features(self.backbone.tokenise(sentences))
        images = self.backbone.image_features(pixels)
        return contrastive_loss(images, texts, labels, self.backbone.logit_scale.exp(), "arange")

    def _by_text(self, pixels: Tensor) -> Tensor:
        texts = self.backbone.text_features(self.backbone.tokenise(PROMPTS.texts))
        return self.backbone.logit_scale.exp() * self.backbone.image_features(pixels) @ texts.T

    def _head(self) -> State:
        rows = rows_of(self.shots.train)
        table = torch.zeros(len(self.files.labels), self.backbone.dim)
        with torch.no_grad():
            for row in rows:
                table[row] = self.backbone.image_features(
                    next(self.batches(rows[rows == row], 1, shuffle=False))[0]
                )[0].cpu()
        state = self.method.start(Problem(table.to(self.backbone.logit_scale.device), self.shots, self.text))
        state.trained = {name: nn.Parameter(value) for name, value in state.trained.items()}
        return state

    def _headed(self, state: State) -> Any:
        def loss(pixels: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone.image_features(pixels)[None]
            mask = torch.ones_like(labels, dtype=torch.bool)[None]
            width = self.method.noise_width
            noise = torch.rand(1, len(labels), width, device=labels.device) if width else None
            logits = self.method.training_logits(state, features, self.text, mask, noise)
            return functional.cross_entropy(logits[0], labels)

        return loss

    def _by_head(self, state: State) -> Any:
        return lambda pixels: self.method.logits(
            state, self.backbone.image_features(pixels)[None], self.text
        )[0]


def ours(
    method: Any,
    files: Files,
    shots: Shots,
    test: NDArray[np.int64],
    load: Loader,
    folder: Path,
    precision: Precision,
) -> list[NDArray[np.float64]]:
    """Trains all runs; returns the test images' probabilities of each."""
    backbone = load()
    used = [rows.rows[rows.mask] for rows in (shots.train, shots.validation) if rows is not None]
    wanted = np.unique(np.concatenate([*(rows.numpy() for rows in used), test]))
    place = np.zeros(len(files.labels), dtype=np.int64)
    place[wanted] = np.arange(len(wanted))
    moved = torch.from_numpy(place)
    own = dataclasses.replace(
        shots,
        train=dataclasses.replace(shots.train, rows=moved[shots.train.rows]),
        validation=dataclasses.replace(shots.validation, rows=moved[shots.validation.rows]),
    )
    cache = ActivationCache(folder)
    if isinstance(method, TunedMethod):
        block = method.cut(backbone).vision
        assert block is not None
        hidden = cache.hidden(backbone, files, block, wanted)
        runs = tune(method, backbone, hidden, own, PROMPTS, selection="validation", precision=precision)
        return [run.predict(hidden, place[test])[0].double().softmax(dim=1).numpy() for run in runs]
    table = cache.features(backbone, files, wanted).to(backbone.logit_scale.device)
    fitted = fit(method, table, own, class_text(PROMPTS, backbone), selection="validation")
    return list(fitted.logits(table[moved[torch.from_numpy(test)]]).softmax(dim=-1).cpu().numpy())


def method_of(name: str, preset: str, epochs: int | None, depth: int) -> Any:
    """Returns the method with its published settings, fitted to a backbone with fewer blocks."""
    if name in FEATURE_METHODS:
        method: Any = feature_method(name, preset if name == "classifier" else "default")
        if not isinstance(method, TrainedMethod):
            raise SystemExit(f"{name} is not trained: there is no loop to compare with")
        build: Any = feature_method
    else:
        method, build = tuned_method(name, preset), tuned_method
    recipe = method.settings.recipe
    changes: dict[str, Any] = {
        "recipe": dataclasses.replace(recipe, epochs=min(epochs or recipe.epochs, recipe.epochs))
    }
    if name == "lora" and depth < 12:
        changes |= {"vision_blocks": (-1,), "text_blocks": (-1,)}
    if name == "vanilla" and depth < 12:
        changes |= {"vision_blocks": 1, "text_blocks": 1}
    if isinstance(method, TunedMethod) and name == "clip_lora":
        changes["loss"] = "arange"
    return build(name, **{**copy.copy(method.settings).__dict__, **changes})


def write_weights(folder: Path, architecture: str, tiny: bool) -> VlmBackbone:
    """Writes random weights of an architecture once, so that both sides read a file."""
    if tiny or architecture == PHANTOM:
        path = folder / "architecture.json"
        described = {"model_cfg": TINY, "preprocess_cfg": {}} if tiny else describe(VlmPretraining())
        path.write_text(json.dumps(described))
        architecture, description = str(path), described["model_cfg"]
    else:
        description = import_open_clip().get_model_config(architecture)
    state = {
        name: value.contiguous().clone() for name, value in build_model(description).state_dict().items()
    }
    save_file(state, folder / "weights.safetensors")
    return VlmBackbone(architecture=architecture, weights=f"file:{folder / 'weights.safetensors'}")


def timed(run: Callable[[], Any]) -> tuple[Any, NDArray[np.float64]]:
    """Returns a result, and the seconds by the clock and of the processor that it took."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = run()
    return result, np.array([time.perf_counter(), time.process_time()]) - start


def line(name: str, slow: NDArray[np.float64], fast: NDArray[np.float64], wanted: float) -> str:
    ratio, busy = slow / fast
    return f"{name:14} {slow[0]:12.1f} {fast[0]:8.1f} {ratio:7.1f} {busy:9.1f} {wanted:7.1f}"


def compare(
    name: str,
    method: Any,
    files: Files,
    shots: Shots,
    test: NDArray[np.int64],
    load: Loader,
    cache: Path,
    precision: Precision,
    timed_runs: int,
) -> NDArray[np.float64]:
    """Times one method both ways and prints it; the published loop's time is that of the first runs.

    Returns:
        (2, 2) seconds by the clock and of the processor, of the published loop and of ours.
    """
    mine, fast = timed(lambda: ours(method, files, shots, test, load, cache, precision))
    theirs, slow = timed(
        lambda: [
            Published(method, files, shots.take([run]), test, load).scores() for run in range(timed_runs)
        ]
    )
    slow *= shots.runs / timed_runs
    areas = [[float(macro_auc(files.labels[test], p)) for p in side[:timed_runs]] for side in (theirs, mine)]
    told = ", ".join(f"{np.mean(area):.3f} ({np.std(area):.3f})" for area in areas)
    print(f"{line(name, slow, fast, WANTED.get(name, 100.0))}   {told}", flush=True)
    return np.array([slow, fast])


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument(
        "--methods", nargs="+", default=["classifier", "clip_adapter", "lora", "vanilla", "adapter"]
    )
    options.add_argument("--architecture", default="ViT-B-16", help="of open_clip, or phantom")
    options.add_argument("--preset", default="clip")
    options.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--runs", type=int, default=2)
    options.add_argument(
        "--published-runs",
        type=int,
        help="time the published loop in the first so many runs only; its time is multiplied up",
    )
    options.add_argument("--epochs", type=int, help="at most so many; the published number if not given")
    options.add_argument("--validation", type=int, default=8, help="validation images per class")
    options.add_argument("--test", type=int, default=12, help="test images per class")
    options.add_argument("--edge", type=int, default=1024, help="edge of the images, px")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours")
    options.add_argument("--tiny", action="store_true", help="a tiny model, small images, few epochs")
    return options


def main() -> None:
    arguments = parser().parse_args()
    if arguments.tiny:
        arguments.edge, arguments.shots, arguments.epochs = 256, [1, 4], arguments.epochs or 4
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = write_weights(folder, arguments.architecture, arguments.tiny)
        (folder / "images").mkdir()
        per_class = max(arguments.shots) + arguments.validation + arguments.test
        files = write_images(folder / "images", per_class, arguments.edge)
        shots, test = draw(files, arguments.shots, arguments.runs, arguments.validation)

        def load() -> Backbone:
            return load_backbone("benchmark", settings, offline=True, device=arguments.device)

        depth = len(load().vision.blocks)
        machine = (
            torch.cuda.get_device_name()
            if arguments.device == "cuda"
            else platform.processor() or platform.machine()
        )
        # Runs come first in the order, so that the first runs have all numbers of shots.
        timed_runs = min(arguments.published_runs or arguments.runs, arguments.runs) * len(arguments.shots)
        total = np.zeros((2, 2))
        model = "tiny" if arguments.tiny else arguments.architecture
        print(
            f"{model}, {arguments.edge} px, shots {arguments.shots}, {arguments.runs} runs, {machine}, "
            f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}"
        )
        print(
            f"{'method':14} {'published s':>12} {'ours s':>8} {'ratio':>7} {'CPU ratio':>9} {'wanted':>7}   "
            "test AUC: published, ours (mean, SD)"
        )
        for name in arguments.methods:
            method = method_of(name, arguments.preset, arguments.epochs, depth)
            cache = folder / f"cache_{name}"
            total += compare(name, method, files, shots, test, load, cache, arguments.precision, timed_runs)
        print(line("all", total[0], total[1], 5.0))
        if timed_runs < shots.runs:
            print(f"published: {timed_runs} of {shots.runs} timed, multiplied by {shots.runs / timed_runs:g}")


if __name__ == "__main__":
    main()

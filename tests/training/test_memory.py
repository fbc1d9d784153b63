"""What a training is said to need, and what it takes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from glomflow.training import memory
from glomflow.training.distributed import World
from glomflow.training.fit import prepare
from glomflow.training.step import Stepper, Task
from training.synthetic import make_stores, settings, train_table

CPU = torch.device("cpu")


def task_of(folder: Path, **training: object) -> Task:
    stores = make_stores(folder, 6, size=32)
    configuration = settings(encoder={"name": "resnet10t", "trainable": "all"}, **training)
    return prepare(train_table(6, 2), stores, configuration, "net", 0, CPU, world=World())[1]


def test_the_trial_run_leaves_nothing_in_memory(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    made: list[weakref.ref[torch.Tensor]] = []

    def notice(module: torch.nn.Module, given: object, made_now: object) -> None:
        if isinstance(made_now, torch.Tensor):
            made.append(weakref.ref(made_now))

    handles = [each.register_forward_hook(notice) for each in task.module.modules()]
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    state = torch.get_rng_state()
    gc.collect()
    gc.disable()
    try:
        memory.saved_bytes(task, 3)
    finally:
        gc.enable()
    assert len(made) > 50
    assert [ref for ref in made if ref() is not None] == []
    for handle in handles:
        handle.remove()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())


def test_what_is_kept_is_counted(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    saved, widest = memory.saved_bytes(task, 3)  # 1 OM, 1 IM, 5 TEM images, float32
    images = 7 * 3 * 32 * 32 * 4
    assert widest <= 5 * 64 * 16 * 16 * 4
    assert images < saved < 60 * images
    needed = memory.estimate(task, 3, 4)
    trained = sum(p.numel() for p in task.module.parameters())
    buffers = sum(b.numel() * b.element_size() for b in task.module.buffers())
    assert needed.weights == 2 * (4 * trained + buffers)
    assert (needed.gradients, needed.optimiser) == (4 * trained, 3 * 4 * trained)
    assert (needed.activations, needed.passing) == (4 * saved, 8 * widest)
    assert needed.total == sum(vars(needed).values())


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(tmp_path: Path) -> None:
    gradients, kept = [], []
    for on in (False, True):
        task = task_of(tmp_path, gradient_checkpointing=on)
        kept.append(memory.saved_bytes(task, 3)[0])
        Stepper(task).take([task.train], 0, 0)
        gradients.append([p.grad for p in task.module.parameters()])
        task.source.close()
    assert kept[1] < 0.7 * kept[0]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_a_trial_run_without_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path)

    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("fake")

    monkeypatch.setattr(memory, "estimate", fail)
    line = memory.statement(task, memory.np.array([1, 2, 3, 4]))
    assert line.startswith("net: the largest patient alone runs out of the")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of memory")
def test_the_prediction_is_near_the_peak(repo: Path) -> None:
    case = {"patients": 12, "bag": 6, "size": 96, "encoder": "resnet10t", "steps": 2, "threads": 1}
    script = repo / "benchmarks" / "training_memory.py"
    paths = os.pathsep.join([str(repo / "src"), str(repo / "tests")])
    done = subprocess.run(
        [sys.executable, str(script), "--case", json.dumps(case)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["predicted"] > 100
    assert 0.6 < found["measured"] / found["predicted"] < 1.3

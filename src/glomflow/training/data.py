"""Bags of crops or features for a list of patients, read from the stores.

Nothing here knows a label.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from glomflow.errors import GlomflowError
from glomflow.models.batch import Instances


@dataclass(frozen=True)
class StoreRef:
    """The files of one shard of one modality.

    Attributes:
        npy: Crops, uint8 (N, H, W, C).
        index: CROPS table, one row per crop.
        features: Feature maps, float16 (N, h, w, C), if they are cached.
    """

    npy: Path
    index: Path
    features: Path | None = None


Stores = Mapping[str, Sequence[StoreRef]]
"""Shards per modality (OM, IM, TEM)."""

_SELECTION = pa.schema(
    {
        "crop": pa.string(),
        "row": pa.int64(),
        "information": pa.float64(),
        "place": pa.int64(),
        "shard": pa.int64(),
    }
)
_NONE_SELECTED = _SELECTION.empty_table()
_ORDER = [("place", "ascending"), ("information", "descending"), ("crop", "ascending")]

STAINED = "OM"
"""The modality whose crops show stains."""


def chunks(places: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Cuts (n,) places into pieces of ``size``, the last one as long as what is left."""
    return [places[start : start + size] for start in range(0, len(places), size)]


class Bags:
    """One modality's selected crops of given patients, most informative first.

    Args:
        stores: The modality's shards.
        patients: Patients, in the order that their bags are numbered.
        features: Read cached features instead of crops.

    Attributes:
        slots: (P, n) int64: the row of each instance, -1 where there is none; n at least 1.
        crops: Crop identifier of each row.

    Raises:
        GlomflowError: A store lacks its features, or its files do not fit each other.
    """

    def __init__(self, stores: Sequence[StoreRef], patients: Sequence[str], *, features: bool) -> None:
        self._arrays = [_open(store, features) for store in stores]
        names = pa.array(list(patients), pa.string())
        chosen = [_selected(store, shard, names) for shard, store in enumerate(stores)]
        rows = pa.concat_tables([_NONE_SELECTED, *chosen])
        rows = rows.take(pc.sort_indices(rows, sort_keys=_ORDER))
        self.crops: list[str] = rows["crop"].to_pylist()
        self._shard = rows["shard"].to_numpy()
        self._row = rows["row"].to_numpy()
        counts = np.bincount(rows["place"].to_numpy(), minlength=len(patients))
        ends = np.cumsum(counts)
        steps = np.arange(max(1, int(counts.max(initial=0))))
        self.slots = np.where(steps < counts[:, None], (ends - counts)[:, None] + steps, -1)
        del chosen, rows
        pa.default_memory_pool().release_unused()  # else it keeps what reading took

        self._held: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one instance; (1, 1, 1) if there is no shard."""
        return tuple(self._arrays[0].shape[1:]) if self._arrays else (1, 1, 1)

    @property
    def nbytes(self) -> int:
        """Size of all instances, bytes."""
        itemsize = self._arrays[0].dtype.itemsize if self._arrays else 0
        return len(self._row) * math.prod(self.shape) * itemsize

    def hold(self) -> None:
        """Reads all instances into memory, where :meth:`read` then finds them."""
        if self._held is None:
            self._held = self.read(np.arange(len(self._row)))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Reads instances.

        Args:
            rows: (R,) int64.

        Returns:
            (R, ...) in the store's dtype.
        """
        if self._held is not None:
            held: np.ndarray = self._held[rows]
            return held
        dtype = self._arrays[0].dtype if self._arrays else np.dtype(np.float16)
        out = np.empty((len(rows), *self.shape), dtype)
        for shard in np.unique(self._shard[rows]):
            here = self._shard[rows] == shard
            out[here] = self._arrays[shard][self._row[rows[here]]]
        return out


class Shelf:
    """What several trainings or predictions of a job read of the same stores, read once."""

    def __init__(self) -> None:
        self._bags: dict[Any, Bags] = {}
        self._statistics: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def bags(self, stores: Sequence[StoreRef], patients: Sequence[str], *, features: bool) -> Bags:
        """Returns the bags of some patients, see :class:`Bags`."""
        key = (tuple(stores), tuple(patients), features)
        if key not in self._bags:
            self._bags[key] = Bags(stores, patients, features=features)
        return self._bags[key]

    def statistics(
        self, bags: Bags, places: np.ndarray, compute: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the statistics of some patients' bags, computed if they are not known yet."""
        key = (id(bags), places.tobytes())
        if key not in self._statistics:
            self._statistics[key] = compute()
        return self._statistics[key]


class FoldData:
    """The bags of a list of patients, modality by modality.

    Args:
        stores: Shards per modality.
        modalities: Modalities to read.
        patients: Patients, each once.
        features: Read cached features instead of crops.
        shelf: Where what is read is shared with others.

    Raises:
        GlomflowError: A patient is listed twice, a modality has no store, or files do not fit.
    """

    def __init__(
        self,
        stores: Stores,
        modalities: Sequence[str],
        patients: Sequence[str],
        *,
        features: bool,
        shelf: Shelf | None = None,
    ) -> None:
        self.shelf = shelf or Shelf()
        self.patients = list(patients)
        if len(set(self.patients)) != len(self.patients):
            twice = sorted({patient for patient in self.patients if self.patients.count(patient) > 1})
            raise GlomflowError(f"patients listed twice: {', '.join(twice[:5])}; list each once")
        missing = [name for name in modalities if not stores.get(name)]
        if missing:
            raise GlomflowError(
                f"no crop store for {', '.join(missing)}: the cohort has no such images; "
                "take the modality out of diagnosis.models.<name>.modalities"
            )
        self.bags = {
            name: self.shelf.bags(stores[name], self.patients, features=features) for name in modalities
        }

    def present(self, modality: str) -> np.ndarray:
        """Returns (P,) bool, True for patients who have the modality."""
        found: np.ndarray = self.bags[modality].slots[:, 0] >= 0
        return found

    def slots(self, modality: str, places: np.ndarray) -> np.ndarray:
        """Returns (B, n) int64: the row of each instance in :meth:`instances`, -1 where there is none."""
        mask = self.bags[modality].slots[places] >= 0
        local = np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, -1)
        return np.ascontiguousarray(local[:, : max(1, int(mask.sum(1).max(initial=0)))])

    def instances(self, places: np.ndarray, *, pin: bool = False) -> Instances:
        """Reads the bags of some patients.

        Args:
            places: (B,) int64, places in :attr:`patients`.
            pin: Put the rows into pinned memory, for copies to a GPU.

        Returns:
            Their instances; bags are as long as the longest of these patients.
        """
        rows, slots = {}, {}
        for name, bags in self.bags.items():
            wanted = bags.slots[places]
            read = torch.from_numpy(bags.read(wanted[wanted >= 0]))
            local = torch.from_numpy(self.slots(name, places))
            rows[name] = read.pin_memory() if pin else read
            slots[name] = local.pin_memory() if pin else local
        return Instances(rows, slots)


def channel_statistics(data: FoldData, places: np.ndarray) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Computes each channel's mean and SD over all feature maps of some patients.

    Args:
        data: Bags of features.
        places: Patients to take (the training patients of a fold, no others).

    Returns:
        Per modality, mean (C,) and SD (C,) float32; zeros and ones where there is no instance.

    Raises:
        GlomflowError: A feature map holds NaN or infinity; the message names the patients.
    """
    return {
        name: data.shelf.statistics(bags, places, functools.partial(_statistics, data, name, places))
        for name, bags in data.bags.items()
    }


def _statistics(data: FoldData, name: str, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    bags = data.bags[name]
    channels = bags.shape[-1]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(places), 32):
        slots = bags.slots[places[start : start + 32]]
        maps = bags.read(slots[slots >= 0]).astype(np.float32)
        _check_finite(data, name, maps, np.nonzero(slots >= 0)[0], places[start : start + 32])
        flat = maps.reshape(-1, channels)
        count += len(flat)
        total += flat.sum(0, dtype=np.float64)
        squares += np.einsum("nc,nc->c", flat, flat, dtype=np.float64)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0)) if count else np.ones(channels)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _check_finite(
    data: FoldData, modality: str, maps: np.ndarray, owners: np.ndarray, places: np.ndarray
) -> None:
    bad = ~np.isfinite(maps).all(axis=(1, 2, 3))
    if bad.any():
        names = sorted({data.patients[places[owner]] for owner in owners[bad]})
        raise GlomflowError(
            f"{modality} features of {', '.join(names[:5])} hold NaN or infinity; "
            "delete the features and run again, or look at these patients' images"
        )


def _open(store: StoreRef, features: bool) -> np.ndarray:
    path = store.features if features else store.npy
    if path is None:
        raise GlomflowError(
            f"store {store.npy} has no cached features; cache them first (encoder.trainable: none)"
        )
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        count = pyarrow.parquet.read_metadata(store.index).num_rows
    except (OSError, ValueError) as error:
        raise GlomflowError(f"store {path} cannot be read ({error}); delete it and run again") from error
    if count != len(array):
        raise GlomflowError(
            f"store {path} has {len(array)} rows, its index {store.index} has {count}; "
            "delete both and run again"
        )
    return array


def _selected(store: StoreRef, shard: int, patients: pa.Array) -> pa.Table:
    """Reads the selected rows of some patients; no more of the table is ever in memory."""
    wanted = pc.field("selected") & pc.field("patient").isin(patients)
    columns = ["crop", "row", "information", "patient"]
    try:
        table = pyarrow.parquet.read_table(store.index, columns=columns, filters=wanted, use_threads=False)
    except (OSError, ValueError) as error:
        raise GlomflowError(
            f"table {store.index}: cannot be read ({error}); delete it and run again"
        ) from error
    places = pc.index_in(table["patient"], value_set=patients).cast(pa.int64())
    information = pc.fill_null(table["information"], math.nan)
    shards = pa.array(np.full(len(table), shard))
    return pa.table([table["crop"], table["row"], information, places, shards], schema=_SELECTION)

"""Brightness of immunofluorescence by site, fitted on training patients.

Microscopes and exposure differ between sites, and with them how bright the same deposit is. Within a
site brightness is the finding, so that no image is ever scaled by itself: a site's channel is scaled as
a whole, and only as far as its signal-bearing crops tell.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.imaging.im import DARK_LEVEL, marker_of
from glomflow.tables import SITE_LEVELS

Bytes = npt.NDArray[np.uint8]

CHANNELS = ("red", "green", "blue")
UNTOUCHED = 0.1
"""Brightness, as a share of full, up to which nothing changes: a negative stays what it is."""
MOST_GAIN = 2.0
"""Gains lie between the inverse of this and this."""
PRIOR_CROPS = 5.0
"""A site of so many crops is drawn halfway towards the level of all sites."""


def fit_site_levels(
    crops: Bytes, index: pd.DataFrame, sites: pd.Series, patients: Collection[str]
) -> pd.DataFrame:
    """Fits how bright the signal of each channel is at each site.

    The channels of a composite are its colours; a crop of one marker has one channel, its marker.

    The brightness of a channel of a crop is its 99th percentile; it bears signal if that exceeds the
    5th by at least :data:`DARK_LEVEL` of full brightness. A site's level is the median over its
    signal-bearing crops, on a logarithmic scale, drawn towards the level of all sites by
    n / (n + ``PRIOR_CROPS``); the level of all sites is the mean of theirs with the same weights. So
    one or two crops move little, and dark negatives have no say.

    Where the diagnoses differ between sites, so do their levels, and part of that is taken for the
    site's: levels are meant for sites that see the same diseases.

    Args:
        crops: (N, H, W, 3) uint8, also a memory map; read crop by crop.
        index: N rows as ``CROPS``, in the order of ``crops``.
        sites: Site by patient; a missing site is passed over.
        patients: The training patients; no other crop is looked at.

    Returns:
        Rows as ``SITE_LEVELS``, by site and channel, for every site with a training crop. ``level`` is
        missing where no training crop bears signal in the channel; then the gain is 1.

    Raises:
        GlomflowError: Crops and index do not fit each other.
    """
    _check(crops, index)
    of_crop = _sites_of(index, sites)
    used = index["patient"].isin(set(patients)).to_numpy() & (of_crop != "")
    signals: dict[str, dict[str, list[float]]] = {}
    channels = _channels_of(index)
    for place in np.flatnonzero(used):
        # A marker is in all three colours: the first will do.
        for channel, signal in zip(channels[place], _signal(crops[place]), strict=False):
            signals.setdefault(channel, {}).setdefault(of_crop[place], []).append(float(signal))
    rows = []
    for channel in sorted(signals, key=_rank):
        found: dict[str, npt.NDArray[np.float64]] = {}
        for site, of_site in sorted(signals[channel].items()):
            values = np.array(of_site)
            found[site] = np.log(values[np.isfinite(values)])
        rows += _levels(found, channel)
    return pd.DataFrame(rows, columns=list(SITE_LEVELS)).sort_values("site", kind="stable", ignore_index=True)


def apply_site_levels(crops: Bytes, index: pd.DataFrame, sites: pd.Series, levels: pd.DataFrame) -> Bytes:
    """Brings crops to the level of all sites.

    A channel keeps its values up to :data:`UNTOUCHED`; beyond, they are stretched in proportion so
    that the site's level becomes that of all sites. The order of brightness never changes, and a dark
    negative stays exactly as it is. Crops of sites that the levels do not know are returned unchanged.

    Args:
        crops: (N, H, W, 3) uint8, also a memory map; read crop by crop.
        index: N rows as ``CROPS``, in the order of ``crops``.
        sites: Site by patient.
        levels: Rows as ``SITE_LEVELS``, by :func:`fit_site_levels`.

    Returns:
        A new array, (N, H, W, 3) uint8.

    Raises:
        GlomflowError: Crops and index do not fit each other.
    """
    _check(crops, index)
    curves = {
        (str(row["site"]), str(row["channel"])): _curve(float(row["level"]), float(row["gain"]))
        for row in levels.to_dict("records")
    }
    changed = np.empty(crops.shape, np.uint8)
    channels = _channels_of(index)
    for place, site in enumerate(_sites_of(index, sites)):
        names = channels[place] if len(channels[place]) > 1 else channels[place] * len(CHANNELS)
        for number, channel in enumerate(names):
            curve = curves.get((site, channel))
            plane = crops[place, :, :, number]
            changed[place, :, :, number] = plane if curve is None else curve[plane]
    return changed


def _channels_of(index: pd.DataFrame) -> list[tuple[str, ...]]:
    """Returns the channels of each crop: three colours, or one marker."""
    markers = [marker_of(crop) for crop in index["crop"]]
    return [CHANNELS if marker is None else (marker,) for marker in markers]


def _rank(channel: str) -> tuple[int, str]:
    return (CHANNELS.index(channel) if channel in CHANNELS else len(CHANNELS), channel)


def _levels(found: dict[str, npt.NDArray[np.float64]], channel: str) -> list[dict[str, object]]:
    """Returns the rows of a channel; ``found``: logarithms of the signals of each site."""
    medians = {site: float(np.median(logs)) for site, logs in found.items() if logs.size}
    weights = {site: found[site].size / (found[site].size + PRIOR_CROPS) for site in medians}
    total = sum(weights.values())
    overall = sum(weights[site] * medians[site] for site in medians) / total if medians else np.nan
    rows: list[dict[str, object]] = []
    for site, logs in found.items():
        level = overall
        if site in medians:
            level += weights[site] * (medians[site] - overall)
        gain = 1.0 if np.isnan(level) else float(np.clip(np.exp(overall - level), 1 / MOST_GAIN, MOST_GAIN))
        rows.append(
            {
                "site": site,
                "channel": channel,
                "crops": logs.size,
                "level": float(np.exp(level)),
                "gain": gain,
            }
        )
    return rows


def _signal(crop: Bytes) -> npt.NDArray[np.float64]:
    """Returns the brightness of each channel's signal, 0 to 1; NaN for a channel without."""
    low, high = np.percentile(crop, (5, 99), axis=(0, 1)) / 255.0
    signal: npt.NDArray[np.float64] = np.where(high - low >= DARK_LEVEL, high, np.nan)
    return signal


def _curve(level: float, gain: float) -> Bytes:
    """Returns the new value of each of the 256 old ones."""
    values = np.arange(256)
    if not np.isfinite(level) or gain == 1.0:
        return values.astype(np.uint8)
    knee, at = 255.0 * UNTOUCHED, 255.0 * level
    slope = (at * gain - knee) / (at - knee)
    curved = np.where(values <= knee, values, knee + (values - knee) * slope)
    return np.clip(np.rint(curved), 0, 255).astype(np.uint8)


def _sites_of(index: pd.DataFrame, sites: pd.Series) -> npt.NDArray[np.object_]:
    found = index["patient"].map(sites).astype(object)
    return found.where(found.notna(), "").astype(str).to_numpy(dtype=object)


def _check(crops: Bytes, index: pd.DataFrame) -> None:
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != len(CHANNELS):
        raise GlomflowError(
            f"IM crops are {crops.dtype} of shape {crops.shape}, not uint8 (N, H, W, 3); make them again"
        )
    if len(crops) != len(index):
        raise GlomflowError(f"there are {len(crops)} IM crops but {len(index)} rows of them; make them again")

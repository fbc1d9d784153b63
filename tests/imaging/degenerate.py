"""Damage that the tests do to images, and what may come of it."""

import json
import struct

import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from glomflow.errors import ImageError
from glomflow.imaging.readers import open_image
from glomflow.tables import IMAGE_STATUSES

SIDES = st.integers(1, 40)
DTYPES = st.sampled_from(
    ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "bool", "c8"],
)


def survives(path):
    """Reads as ingestion does; returns whether the image was read, after checking what came."""
    refusal = None
    try:
        with open_image(path) as reader:
            reader.check()
            shown = [reader.thumbnail(16)]
            sizes = [(max(1, round(s * min(1, 16 / max(reader.levels[0])))) for s in reader.levels[0])]
            shown.append(reader.read_region(-3.5, -2.25, 9, 7, 6, 5))
            sizes.append((6, 5))
            width, height = min(reader.width, 24), min(reader.height, 24)
            shown.append(reader.read_region(0, 0, width, height, width, height))
            sizes.append((width, height))
    except ImageError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status in IMAGE_STATUSES
        assert refusal.status != "ok"
        assert path.name in refusal.reason
        return False
    for samples, (across, down) in zip(shown, sizes, strict=True):
        assert samples.shape == (down, across, len(reader.channels))
        assert samples.dtype == reader.dtype
        assert samples.dtype.kind in "uif"
        assert np.isfinite(samples.astype(np.float64)).all()
    return True


@st.composite
def damages(draw):
    """Returns a function of bytes: left alone, cut, bits flipped, or a run overwritten."""
    kind = draw(st.sampled_from(["none", "cut", "flip", "flip", "run", "longer"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
    early = draw(st.booleans())
    value = draw(st.integers(0, 255))

    def apply(data):
        changed = bytearray(data)
        at = [int(place * (min(len(data), 400) if early else len(data))) for place in places]
        if kind == "cut":
            return bytes(changed[: int(places[0] * len(data))])
        if kind == "longer":
            return data + bytes([value]) * 100
        for place in at if kind != "none" else []:
            if kind == "flip":
                changed[place] ^= 1 << (value & 7)
            else:
                changed[place : place + 16] = bytes([value]) * len(changed[place : place + 16])
        return bytes(changed)

    return apply


def samples_of(dtype, shape, seed):
    """Returns samples with the extremes of their type among them, and NaN for some seeds."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind in "ui":
        limits = np.iinfo(kind)
        array = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
        if seed % 3 == 0:
            array[...] = limits.max
    elif kind.kind == "b":
        array = rng.integers(0, 2, shape).astype(bool)
    else:
        array = rng.normal(size=shape).astype(kind)
        if seed % 3 == 1:
            array.flat[0] = [np.nan, np.inf, -np.inf][seed % 9 // 3]
        if seed % 5 == 0:
            array.flat[-1] = np.finfo(kind).max
    return array


@st.composite
def rasters(draw):
    """Returns a function that writes a PNG, JPEG, BMP or WebP of some mode."""
    mode = draw(st.sampled_from(["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "CMYK"]))
    format_name = draw(st.sampled_from(["PNG", "JPEG", "BMP", "WEBP", "PNG"]))
    width, height, seed = draw(SIDES), draw(SIDES), draw(st.integers(0, 999))

    def write(path):
        array = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
        image = Image.fromarray(array, "RGBA")
        if mode == "I;16":
            image = Image.fromarray(array.view(np.uint16)[:, :, 0])
        elif mode != "RGBA":
            image = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
        try:
            image.save(path, format=format_name, dpi=(seed, seed))
        except (OSError, ValueError):  # a mode that the format does not have
            image.convert("RGB").save(path, format=format_name)

    return write


@st.composite
def tiffs(draw):
    """Returns a function that writes a TIFF of some layout."""
    dtype, seed = draw(DTYPES), draw(st.integers(0, 999))
    shape = (draw(SIDES), draw(SIDES))
    layout = draw(st.sampled_from(["gray", "rgb", "rgba", "planar", "stack", "white", "palette"]))
    options = draw(
        st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 3}, {"bigtiff": True}, {"byteorder": ">"}])
    )
    compression = draw(st.sampled_from([None, None, "zlib", "lzw", "jpeg", "packbits", "zstd"]))

    def write(path):
        shapes = {"rgb": (*shape, 3), "rgba": (*shape, 4), "planar": (3, *shape), "stack": (3, *shape)}
        photometric = {"white": "miniswhite", "palette": "palette", "gray": "minisblack"}
        chosen = dict(options, photometric=photometric.get(layout, "rgb"), compression=compression)
        kind = "u1" if layout == "palette" else dtype
        if layout == "palette":
            chosen["colormap"] = samples_of("u2", (3, 256), seed)
        if layout == "planar":
            chosen["planarconfig"] = "separate"
        if layout == "stack":
            chosen.update(photometric="minisblack", metadata={"axes": "ZYX"})
        array = samples_of(kind, shapes.get(layout, shape), seed)
        try:
            tifffile.imwrite(path, array, **chosen)
        except (ValueError, TypeError, NotImplementedError, RuntimeError):  # no such samples in this codec
            tifffile.imwrite(path, array, photometric=chosen["photometric"], **_planar(chosen))

    return write


def _planar(options):
    return {key: options[key] for key in ("planarconfig", "colormap") if key in options}


@st.composite
def mrcs(draw):
    """Returns the bytes of an MRC whose header may say anything."""
    mode = draw(st.sampled_from([0, 1, 2, 6, 12, 2, 0, 3, 4, 16, 101, -1, 7]))
    columns, rows = draw(SIDES), draw(SIDES)
    claimed = draw(st.sampled_from([0, 0, 0, 1, -1, -50, 2**31 - 50]))
    sections = draw(st.sampled_from([1, 1, 1, 0, 2, -1]))
    order = draw(st.sampled_from("<<>"))
    extended = draw(st.sampled_from([0, 0, 64, -5, 2**30]))
    cell = draw(st.floats(width=32))
    dtype = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}.get(mode, "u1")
    header = bytearray(1024)
    struct.pack_into(
        f"{order}10i", header, 0, columns + claimed, rows, sections, mode, 0, 0, 0, columns, rows, 1
    )
    struct.pack_into(f"{order}3f", header, 40, cell, cell, 1.0)
    struct.pack_into(f"{order}3i", header, 64, 1, 2, 3)
    struct.pack_into(f"{order}i", header, 92, extended)
    header[208:212] = b"MAP "
    array = samples_of(dtype, (rows, columns), draw(st.integers(0, 99)))
    return bytes(header) + bytes(max(0, min(extended, 64))) + array.astype(order + dtype).tobytes()


def dm3(array, scale=2.0, unit="nm", kind=None, size=None):
    """Returns the bytes of a DM3 that holds one picture."""
    codes = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}
    encoded = {"i2": 2, "f4": 6, "u1": 8, "i4": 3, "i1": 9, "u2": 4, "u4": 5, "f8": 7}
    dtype = array.dtype.str[1:]
    wide = size or array.shape[::-1]

    def tag(name, body):
        return struct.pack(">BH", body[0], len(name)) + name.encode() + body[1]

    def group(*tags):
        return 20, struct.pack(">BBi", 1, 0, len(tags)) + b"".join(tags)

    def number(code, text, value):
        return 21, b"%%%%" + struct.pack(">ii", 1, code) + struct.pack(f"<{text}", value)

    def values(code, data, count):
        return 21, b"%%%%" + struct.pack(">iiii", 3, 20, code, count) + data

    scales = [
        tag(
            "",
            group(
                tag("Origin", number(6, "f", 0)),
                tag("Scale", number(6, "f", scale)),
                tag("Units", values(4, unit.encode("utf-16-le"), len(unit))),
            ),
        )
        for _ in wide
    ]
    data = group(
        tag("Calibrations", group(tag("Dimension", group(*scales)))),
        tag("Data", values(encoded[dtype], array.astype("<" + dtype).tobytes(), array.size)),
        tag("DataType", number(5, "I", codes[dtype] if kind is None else kind)),
        tag("Dimensions", group(*(tag("", number(5, "I", edge)) for edge in wide))),
        tag("PixelDepth", number(5, "I", array.dtype.itemsize)),
    )
    root = group(tag("ImageList", group(tag("", group(tag("ImageData", data))))))[1]
    return struct.pack(">iii", 3, len(root) + 4, 1) + root + bytes(8)


@st.composite
def dm3s(draw):
    """Returns the bytes of a DM3 of some type and of claims that may be wrong."""
    dtype = draw(st.sampled_from(["i2", "f4", "u1", "i4", "i1", "u2", "u4", "f8"]))
    rows, columns, seed = draw(SIDES), draw(SIDES), draw(st.integers(0, 99))
    size = draw(st.sampled_from([None, None, None, (columns, 10**6), (0, rows), (columns, rows, 2)]))
    kind = draw(st.sampled_from([None, None, None, 3, 23, 99]))
    unit = draw(st.sampled_from(["nm", "µm", "1/nm", "", "pm"]))
    array = samples_of(dtype, (rows, columns), seed)
    return dm3(array, draw(st.floats(width=32)), unit, kind, size)


def write_ome_zarr(folder, arrays, *, version="0.4", axes="cyx", scale=None, **attributes):
    """Writes an OME-Zarr of the given levels."""
    import zarr

    kinds = {"t": "time", "c": "channel"}
    group = zarr.open_group(str(folder), mode="w", zarr_format=2 if version == "0.4" else 3)
    steps = [arrays[0].shape[-1] / array.shape[-1] for array in arrays]
    for index, array in enumerate(arrays):
        chunks = tuple(min(edge, 16) for edge in array.shape)
        made = group.create_array(str(index), shape=array.shape, dtype=array.dtype, chunks=chunks)
        made[...] = array
    described = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": "micrometer"} if axis in "zyx" else {})
        for axis in axes
    ]
    sets = [
        {"path": str(index)}
        | (
            {
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale * step if axis in "yx" else 1.0 for axis in axes]}
                ]
            }
            if scale
            else {}
        )
        for index, step in enumerate(steps)
    ]
    image = {"axes": described, "datasets": sets}
    values = {"multiscales": [image | ({"version": "0.4"} if version == "0.4" else {})], **attributes}
    group.attrs.update(values if version == "0.4" else {"ome": {"version": "0.5", **values}})


@st.composite
def ome_zarrs(draw):
    """Returns a function that writes an OME-Zarr and damages its metadata or a chunk."""
    dtype, seed = draw(st.sampled_from(["u1", "u2", "i4", "f4", "f8", "bool", "c8", "u8"])), draw(SIDES)
    axes = draw(st.sampled_from(["cyx", "yx", "tczyx", "czyx", "xyz", "tyx"]))
    shape = tuple(draw(st.integers(1, 3)) if axis in "tcz" else draw(SIDES) for axis in axes)
    version = draw(st.sampled_from(["0.4", "0.5"]))
    target = draw(st.sampled_from(["none", "attributes", "array", "chunk", "remove"]))
    damage = draw(damages())
    pick = draw(st.integers(0, 10))
    scale = draw(st.sampled_from([None, 0.5, -1.0, 0.0]))

    def write(folder):
        write_ome_zarr(folder, [samples_of(dtype, shape, seed)], version=version, axes=axes, scale=scale)
        metadata = {
            "attributes": folder / (".zattrs" if version == "0.4" else "zarr.json"),
            "array": folder / "0" / (".zarray" if version == "0.4" else "zarr.json"),
        }
        files = sorted(path for path in (folder / "0").rglob("*") if path.is_file())
        if target in ("chunk", "remove"):
            file = files[pick % len(files)]
        elif target in metadata:
            file = metadata[target]
        else:
            return
        if target == "remove":
            file.unlink()
        elif target == "array" and pick % 2:
            header = json.loads(file.read_text())
            told = header["shape"]
            # Along one axis only: reading a claim of many chunks that are not there takes minutes.
            claims = (told, [*told[:-1], told[-1] * 10], [edge * 100 for edge in told][1:])
            header["shape"] = claims[pick % 3]
            file.write_text(json.dumps(header))
        else:
            file.write_bytes(damage(file.read_bytes()))

    return write

"""The table of formats: what each reader reads, with which library, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass

from glomflow.imaging.readers.optional import is_installed

FEATURES = {
    "pyramid": "levels of resolution are used",
    "lazy": "a region is read without decoding the whole image",
    "channels": "images of any number of channels",
    "calibration": "the pixel size is taken from the file",
}


@dataclass(frozen=True)
class ReaderInfo:
    """What a reader reads.

    Attributes:
        name: Name of the reader, as in the inventory's column ``reader``.
        title: The formats, by the names that people use.
        suffixes: Suffixes of their files, in small letters; they decide only where content does not.
        library: The library that decodes them, as pip names it.
        module: Its module.
        extra: Extra of this package that installs it, None if it is always there.
        features: Some of :data:`FEATURES`.
        starts: Bytes at certain places that tell the format, any of them.
        note: What is done with stacks, series and the like.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    library: str
    module: str
    extra: str | None
    features: frozenset[str]
    starts: tuple[tuple[int, bytes], ...] = ()
    note: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the library is there."""
        return is_installed(self.module)

    def matches(self, start: bytes) -> bool:
        """Returns whether a file's first bytes are those of this format."""
        return any(start[at : at + len(magic)] == magic for at, magic in self.starts)


_Z_AND_T = "z projected by its maximum (colour: the first), of a time series the first time"

READERS: tuple[ReaderInfo, ...] = (
    ReaderInfo(
        "openslide",
        "SVS, NDPI, SCN, MRXS, BIF, VMS",
        (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide"),
        "openslide-python",
        "openslide",
        None,
        frozenset({"pyramid", "lazy", "calibration"}),
        note="what the scanner left out is white; the folder of an MRXS belongs to the image",
    ),
    ReaderInfo(
        "tiff",
        "TIFF, OME-TIFF, QPTIFF",
        (".tif", ".tiff", ".qptiff", ".btf", ".tf2", ".tf8", ".lsm"),
        "tifffile",
        "tifffile",
        None,
        frozenset({"pyramid", "lazy", "channels", "calibration"}),
        tuple((0, magic) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        f"also BigTIFF, ImageJ, Olympus SIS and FEI; the first series; {_Z_AND_T}; pages of a plain grey "
        "stack are channels",
    ),
    ReaderInfo(
        "raster",
        "PNG, JPEG, BMP, WebP",
        (".png", ".jpg", ".jpeg", ".bmp", ".webp"),
        "pillow",
        "PIL",
        None,
        frozenset({"calibration"}),
        tuple((0, magic) for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")),
        "decoded whole, up to 178 megapixels; resolutions coarser than 5 µm are print resolutions",
    ),
    ReaderInfo(
        "jpeg2000",
        "JPEG 2000",
        (".jp2", ".j2k", ".jpx", ".jpc"),
        "imagecodecs",
        "imagecodecs",
        None,
        frozenset({"channels"}),
        ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51")),
        "decoded whole, up to 178 megapixels",
    ),
    ReaderInfo(
        "ome_zarr",
        "OME-Zarr",
        (".zarr",),
        "zarr",
        "zarr",
        None,
        frozenset({"pyramid", "lazy", "channels", "calibration"}),
        note=f"a folder, versions 0.4 and 0.5; {_Z_AND_T}; plates are refused",
    ),
    ReaderInfo(
        "czi",
        "Zeiss CZI",
        (".czi",),
        "pylibCZIrw",
        "pylibCZIrw",
        "czi",
        frozenset({"pyramid", "lazy", "channels", "calibration"}),
        ((0, b"ZISRAWFILE"),),
        f"the mosaic of all tiles and scenes; {_Z_AND_T}",
    ),
    ReaderInfo(
        "lif",
        "Leica LIF",
        (".lif",),
        "readlif",
        "readlif",
        "lif",
        frozenset({"lazy", "channels", "calibration"}),
        ((0, b"\x70\0\0\0"),),
        f"the first image of the file; the third spatial axis is the stack: {_Z_AND_T}; mosaics that are "
        "not merged are refused",
    ),
    ReaderInfo(
        "dm",
        "Gatan DM3, DM4",
        (".dm3", ".dm4"),
        "ncempy",
        "ncempy",
        "electron",
        frozenset({"lazy", "calibration"}),
        ((0, b"\0\0\0\3\0"), (0, b"\0\0\0\4\0")),
        "the first picture of the file; stacks and spectra are refused; 1/nm is no calibration",
    ),
    ReaderInfo(
        "mrc",
        "MRC",
        (".mrc", ".mrcs", ".rec", ".st", ".ali", ".map"),
        "numpy",
        "numpy",
        None,
        frozenset({"lazy", "calibration"}),
        ((208, b"MAP"),),
        "stacks of several sections are refused; exactly 1 Å is no calibration",
    ),
    ReaderInfo(
        "dicom",
        "DICOM (whole slides)",
        (".dcm", ".dicom"),
        "wsidicom",
        "wsidicom",
        "dicom",
        frozenset({"pyramid", "lazy", "calibration"}),
        ((128, b"DICM"),),
        "a folder with the files of one slide, or one file, read as one level; 8-bit colour",
    ),
)
"""Every reader, in the order in which they are asked."""

READABLE = ", ".join(info.title for info in READERS) + " can be read ('glomflow formats' says more)"


def reader_info(name: str) -> ReaderInfo:
    """Returns the entry of a reader.

    Raises:
        KeyError: There is no reader of this name.
    """
    for info in READERS:
        if info.name == name:
            return info
    raise KeyError(name)


def format_rows() -> list[tuple[str, ...]]:
    """Returns the table of formats for people: a header and a row per reader."""
    header = ("format", "suffixes", "reader", "library", "extra", "installed", "features")
    rows = [
        (
            info.title,
            " ".join(info.suffixes),
            info.name,
            info.library,
            info.extra or "-",
            "yes" if info.is_installed else f'no: pip install "glomflow[{info.extra}]"',
            " ".join(feature for feature in FEATURES if feature in info.features),
        )
        for info in READERS
    ]
    return [header, *rows]


def format_table() -> str:
    """Returns the table of formats as text in columns."""
    rows = format_rows()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)

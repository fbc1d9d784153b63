"""A whole slide in DICOM, written without compression."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_level(path, array, um_per_px, *, number=1, series="series", tile=64, kind=SLIDE_CLASS):
    """Writes one level, (h, w, 3) uint8, as TILED_FULL."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    data.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    data.Modality, data.InstanceNumber, data.SeriesNumber = "SM", number, 1
    resampled = ["ORIGINAL", "NONE"] if number == 1 else ["DERIVED", "RESAMPLED"]
    data.ImageType = [resampled[0], "PRIMARY", "VOLUME", resampled[1]]
    _pixels(data, array, tile)
    _geometry(data, array, um_per_px)
    data.save_as(path, enforce_file_format=True)


def _pixels(data, array, tile):
    height, width = array.shape[:2]
    frames = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            frame = np.full((tile, tile, 3), 255, np.uint8)
            part = array[top : top + tile, left : left + tile]
            frame[: part.shape[0], : part.shape[1]] = part
            frames.append(frame.tobytes())
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows = data.Columns = tile
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.NumberOfFrames = 7, 0, len(frames)
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.PixelData = b"".join(frames)
    data["PixelData"].VR = "OB"


def _geometry(data, array, um_per_px):
    height, width = array.shape[:2]
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = width * um_per_px / 1000, height * um_per_px / 1000
    data.ImagedVolumeDepth = 0.001
    data.DimensionOrganizationType = "TILED_FULL"
    data.TotalPixelMatrixFocalPlanes = data.NumberOfOpticalPaths = 1
    data.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    data.FocusMethod, data.ExtendedDepthOfField, data.SpecimenLabelInImage = "AUTO", "NO", "NO"
    data.BurnedInAnnotation, data.LossyImageCompression, data.VolumetricProperties = "NO", "00", "VOLUME"
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    data.TotalPixelMatrixOriginSequence = Sequence([origin])
    measures, frame, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [um_per_px / 1000] * 2
    measures.SliceThickness = measures.SpacingBetweenSlices = 0.001
    frame.FrameType = data.ImageType
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.WholeSlideMicroscopyImageFrameTypeSequence = Sequence([frame])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    light, optics = Dataset(), Dataset()
    light.CodeValue, light.CodingSchemeDesignator, light.CodeMeaning = "111744", "DCM", "Brightfield"
    optics.OpticalPathIdentifier = "0"
    optics.IlluminationTypeCodeSequence = Sequence([light])
    data.OpticalPathSequence = Sequence([optics])

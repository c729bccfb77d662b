"""Writes masks, overlays and run lengths of segmented images."""

from callbacks.writers.maps import Maps, Vectors
from callbacks.writers.masks import MaskFiles, MaskOverview, Overlays, Submission
from callbacks.writers.stitch import StitchingWriter


class SegmentationWriter(StitchingWriter):
    """Writes masks and an overlay of every image, and optionally a table of run lengths, into the run folder.

    - `masks/<class>/<path and stem>.png`: 0 and 255, at the size of the output.
    - `overlays/<path and stem>.jpg`: the image with masks tinted and outlined.
    - `overview.html`: all images on one page, see `callbacks.writers.overview`.
    - `submission.csv`: Kaggle's columns `Image_Label,EncodedPixels`, one row per image and class in the order of the
      data; run lengths as in `ops.rle`. Needs the mask of one class in memory, the others only a strip.
    - `maps/` and `areas.csv`: of images that have a georeference, see `callbacks.writers.maps.Maps`.

    Args:
        submission: Whether to write `submission.csv`.
        folders: Whether each class has its own folder in `masks`; `false` needs a task with one class.
        vectors: Format of polygons on the ground: `gpkg`, `geojson` or `none`.
    """

    def __init__(self, submission: bool = True, folders: bool = True, vectors: Vectors = "gpkg") -> None:
        own = [Submission()] if submission else []
        super().__init__([MaskFiles(folders), Overlays(), MaskOverview(), *own, Maps(vectors)])

"""Writes masks, overlays and run lengths of segmented images."""

from callbacks.writers.segmentation.lines import CenterLines
from callbacks.writers.segmentation.maps import Maps, Vectors
from callbacks.writers.segmentation.masks import MaskFiles, MaskOverview, Overlays, Submission
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.stitched import StitchedFormat


class SegmentationWriter(StitchingWriter):
    """Writes masks and an overlay of every image, and optionally a table of run lengths, into the run folder.

    - `masks/<class>/<path and stem>.png`: 0 and 255, at the size of the output.
    - `overlays/<path and stem>.jpg`: the image with masks tinted and outlined.
    - `overview.html`: all images on one page, see `callbacks.writers.overview`.
    - `submission.csv`: Kaggle's columns `Image_Label,EncodedPixels`, one row per image and class in the order of the
      data; run lengths as in `ops.masks.rle`. Needs the mask of one class in memory, the others only a strip.
    - `lines/<path and stem>.geojson`: center lines of roads, in pixels, see
      `callbacks.writers.segmentation.lines.CenterLines`.
    - `maps/` and `areas.csv`: of images that have a georeference, see `callbacks.writers.segmentation.maps.Maps`.

    Args:
        submission: Whether to write `submission.csv`.
        folders: Whether each class has its own folder in `masks`; `false` needs a task with one class.
        vectors: Format of polygons and lines on the ground: `gpkg`, `geojson` or `none`; with `none` there are no
            center lines of plain images either.
        spur: Side branches and lone center lines shorter than this are dropped, in meters; in pixels of plain images.
        gap: Ends of center lines are joined with a line at most this far ahead of them, likewise.
    """

    def __init__(
        self,
        submission: bool = True,
        folders: bool = True,
        vectors: Vectors = "gpkg",
        spur: float = 20.0,
        gap: float = 20.0,
    ) -> None:
        own: list[StitchedFormat] = [Submission()] if submission else []
        own += [CenterLines(spur, gap, vectors != "none"), Maps(vectors, spur=spur, gap=gap)]
        super().__init__([MaskFiles(folders), Overlays(), MaskOverview(), *own])

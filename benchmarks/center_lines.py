"""Center lines of real roads: how much of a road network a perfect mask keeps, beside OpenStreetMap, and a picture.

`python -m benchmarks.center_lines DATA runs/lines`: draws the true roads of eight SpaceNet chips of Las Vegas (DATA is
the folder `roads_vegas`) as masks 4 m wide with pixels of 0.3 m, finds their center lines, and compares these with the
true roads by APLS, and so the roads of OpenStreetMap; `center_lines.jpg` shows the chip whose image is there.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawing.pictures import Picture
from ops.geo.apls import path_similarity
from ops.geo.centerlines import center_lines
from ops.geo.ground import transformed
from ops.geo.roadgraph import Points, RoadGraph, graph_of

UTM = "EPSG:32611"
PIXEL, WIDTH = 0.3, 4.0  # meters; SpaceNet draws its own masks as wide


def roads(path: Path) -> list[Points]:
    """Returns the lines of a GeoJSON file in meters."""
    shapes = [each["geometry"] for each in json.loads(path.read_text())["features"]]
    parts = [each["coordinates"] if each["type"] == "MultiLineString" else [each["coordinates"]] for each in shapes]
    return [transformed(np.array(line, float)[:, :2], "EPSG:4326", UTM) for lines in parts for line in lines]


def drawn(lines: list[Points]) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Returns a mask of lines, and the six numbers that place its pixels in meters."""
    every = np.concatenate(lines)
    left, bottom, right, top = *every.min(0), *every.max(0)
    mask = np.zeros((round((top - bottom) / PIXEL), round((right - left) / PIXEL)), np.uint8)
    for line in lines:
        pixels = np.rint((line - (left, top)) / (PIXEL, -PIXEL) - 0.5).astype(np.int32)
        cv2.polylines(mask, [pixels], False, 1, round(WIDTH / PIXEL))
    return mask > 0, (PIXEL, 0.0, left, 0.0, -PIXEL, top)


def picture(image: Path, graph: RoadGraph) -> Picture:
    """Returns the image of a chip, made brighter, with center lines and crossings."""
    import rasterio

    with rasterio.open(image) as raster:
        pixels = raster.read([1, 2, 3]).transpose(1, 2, 0)
        inverse = np.array(~raster.transform).reshape(3, 3)
    bright = np.ascontiguousarray((255 * np.clip(pixels / 130, 0, 1) ** 0.7).astype(np.uint8))

    def fixed(points: Points) -> NDArray[np.int32]:
        degrees = transformed(points, UTM, "EPSG:4326")
        corners = degrees @ inverse[:2, :2].T + inverse[:2, 2]
        return np.rint(16 * (corners - 0.5)).astype(np.int32)

    for edge in graph.edges:
        cv2.polylines(bright, [fixed(edge.points)], False, (255, 210, 0), 5, cv2.LINE_AA, 4)
    for place in fixed(graph.nodes):
        cv2.circle(bright, (int(place[0]), int(place[1])), 9 * 16, (230, 30, 30), -1, cv2.LINE_AA, 4)
    return bright


def main(data: Path, output: Path) -> None:
    """Prints a row per chip, and saves the picture."""
    output.mkdir(parents=True, exist_ok=True)
    print("| chip | roads, km | center lines, km | APLS | APLS of OpenStreetMap |\n|---|---|---|---|---|")
    for path in [data / "img0_truth.geojson", *sorted(data.glob("*_spacenet.geojson"))]:
        lines = roads(path)
        mask, affine = drawn(lines)
        found = center_lines(mask, spur=10 / PIXEL, gap=10 / PIXEL).transformed(affine)
        true = graph_of(lines, apart=0.01)
        similarity = path_similarity(true, found)
        name = path.stem.split("_")[0]
        osm, others = data / f"{name}_osm.geojson", ""
        if osm.is_file():
            others = f"{path_similarity(true, graph_of(roads(osm), apart=0.01)):.3f}"
        print(f"| {name} | {true.length / 1000:.2f} | {found.length / 1000:.2f} | {similarity:.3f} | {others} |")
        image = data / f"RGB-PanSharpen_AOI_2_Vegas_{name}.tif"
        if image.is_file():
            Image.fromarray(picture(image, found)).save(output / "center_lines.jpg", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

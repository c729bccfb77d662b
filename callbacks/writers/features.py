"""Writes images as vectors: one array per kind of vector, and a table that names their rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.base import Writer
from callbacks.writers.format import Finished, Format, Row
from datamodules.batch import Batch
from ops.atomic import mapped_array, write_table

COLUMNS = ("name", "split", "professional")
FOLDER = "vectors"
NUMBERS = np.float32


@dataclass(frozen=True, kw_only=True)
class Described(Finished):
    """The vectors of an image.

    Attributes:
        split: The split it belongs to.
        professional: Its label, 0 or 1, or None if unknown.
        vectors: Vectors (V,) float32 by name.
    """

    split: str
    professional: int | None
    vectors: Mapping[str, NDArray[np.float32]]


class FeatureWriter(Writer[Described]):
    """Writes predicted vectors of all images into the folder `vectors` of the run folder.

    - `<vector>.npy`: float32 (N, V), one row per image, for NumPy to load or memory-map.
    - `names.csv`: `name,split,professional` of the same N rows; `professional`, 0 or 1, is empty if unknown.

    The module predicts vectors (B, V) by name. Batches have `name`, `index` within the split, `split`, a string, maybe
    `professional` (B,), and maybe `problem`, "" for usable images; the others have no row. Rows follow the order of
    splits and indices. Memory holds one batch; the disk briefly holds one array twice.
    """

    def __init__(self) -> None:
        super().__init__([Vectors()])

    def images(self, outputs: Any, batch: Batch) -> Iterator[Described]:
        vectors = {name: values.cpu().numpy().astype(NUMBERS) for name, values in outputs.items()}
        professional = batch.get("professional")
        for i, name in enumerate(batch["name"]):
            yield Described(
                name=name,
                index=int(batch["index"][i]),
                problem=batch["problem"][i] if "problem" in batch else "",
                split=batch["split"],
                professional=None if professional is None else int(professional[i]),
                vectors={key: values[i] for key, values in vectors.items()},
            )


class Vectors(Format[Described]):
    """Writes `vectors/<vector>.npy` and `vectors/names.csv`."""

    folders = (FOLDER,)

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}  # the rows of this process, by the name of their vector
        self._process, self._count = uuid4().hex, 0

    def write(self, image: Described, folder: Path) -> list[Row]:
        for name, vector in image.vectors.items():
            if name not in self._files:
                self._files[name] = (folder / FOLDER / f"{name}.{self._process}").open("wb")
            self._files[name].write(vector.tobytes())
        self._count += 1
        professional = "" if image.professional is None else image.professional
        return [[self._process, self._count - 1, [image.name, image.split, professional]]]

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files, self._count = {}, 0

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        folder = folder / FOLDER
        places: dict[str, list[int]] = {}  # of the rows of each process, in the order in which it wrote them
        for place, (process, number, _) in sorted(enumerate(rows), key=lambda row: row[1][1]):
            assert number == len(places.setdefault(process, []))
            places[process].append(place)
        for name in sorted({path.stem for path in folder.iterdir()}):
            merged: NDArray[Any] | None = None
            for process, mine in places.items():
                share = folder / f"{name}.{process}"
                vectors = np.memmap(share, NUMBERS, mode="r").reshape(len(mine), -1)
                if merged is None:
                    shape = (len(rows), vectors.shape[1])
                    merged = mapped_array(folder / f"{name}.npy", shape, NUMBERS)
                merged[mine] = vectors
                share.unlink()
        write_table(folder / "names.csv", COLUMNS, [row[2] for row in rows])
        return ""

"""The command `pack`: makes a package of a checkpoint, to share it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import torch
import yaml
from lightning.pytorch import Trainer

import belvedere
from belvedere.checkpoints import finite_weights, run_config
from belvedere.export import FILE, export
from belvedere.files import DESCRIPTION, check_found
from belvedere.names import task_name
from belvedere.prediction import configured, load
from belvedere.sharing import hub, packed
from belvedere.sharing.card import PICTURE, AuthorNotes, card, decisions, read_record
from belvedere.sharing.failures import review
from datamodules.read.pictures import read_picture
from drawing.pictures import save_picture
from ops.atomic import check_writable, replacing, replacing_folder, temporary_folder, write_text
from ops.errors import PackageError
from tasks.base import ImageTask

PERSONAL = ("pictures", "hints", "reference")
"""Settings of the data that are of one prediction."""


def pack(
    ckpt_path: str,
    output: str | None = None,
    data: str | None = None,
    worst: int = 3,
    onnx: bool = False,
    title: str = "",
    author: str = "",
    license: str = "",
    data_license: str = "",
    use: str = "",
    upload: str | None = None,
    public: bool = False,
    overwrite: bool = False,
    trust: bool = False,
) -> int:
    """Makes a package of a checkpoint: weights, settings and a model card, in one file that can run no program.

    Args:
        ckpt_path: The checkpoint.
        output: The package: a zip file, or a folder; model.zip by default.
        data: The dataset's folder, if it is no longer where the run found it.
        worst: Number of the worst validation images that the card shows; 0 shows none. They become part of the package.
        onnx: Also put in what belvedere export writes, a file that runs without torch.
        title: Title of the card.
        author: Who made the model.
        license: License of the weights, such as cc-by-4.0.
        data_license: License of the training data.
        use: What the model is for.
        upload: Upload the package to this address on the Hugging Face Hub, such as hf://user/name.
        public: Let everybody read a new repository; it is private otherwise.
        overwrite: Replace a package of the same name.
        trust: Let the checkpoint's config name any class, which can run any program.

    Returns:
        The exit code.

    Raises:
        PackageError: The package exists, or cannot be uploaded.
        ArgumentError: The checkpoint cannot be read.
    """
    checkpoint = Path(ckpt_path).expanduser()
    check_found(checkpoint)
    if upload is not None:
        hub.repository(upload)
    target = None if output is None and upload is not None else Path(output or "model.zip").expanduser().absolute()
    if target is not None:
        _check_target(target, overwrite)
    task = load(checkpoint, trust=trust)
    notes = AuthorNotes(title, author, license, data_license, use)
    with TemporaryDirectory(prefix="belvedere-") as made:
        folder, name = Path(made) / "package", upload or (target.name if target else "")
        fill(folder, task, checkpoint, run_config(checkpoint, trust), notes, name, data, worst, onnx, trust)
        if target is not None:
            _place(folder, target)
            print(target)
        if upload is not None:
            print(hub.uploaded(folder, upload, public))
    if notes.missing():
        options = ", ".join(f"--{each}" for each in notes.missing())
        print(f"The card, {packed.CARD}, has places to fill in: {options}.")
    return 0


def fill(
    folder: Path,
    task: ImageTask,
    checkpoint: Path,
    config: Mapping[str, Any],
    notes: AuthorNotes,
    name: str,
    data: str | None,
    worst: int,
    onnx: bool = False,
    trust: bool = False,
) -> None:
    """Writes the files of a package into a folder.

    Args:
        folder: The folder, which is made.
        task: The task of the checkpoint.
        checkpoint: The checkpoint.
        config: Its run's config.
        notes: Details given by the author.
        name: What the package is called.
        data: The dataset's folder, if it is no longer where the config says.
        worst: Number of the worst validation images to show.
        onnx: Whether to put in an exported file.
        trust: See `belvedere.load`.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True)
    weights = finite_weights(checkpoint)
    others = [key for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise PackageError(f"{checkpoint} holds {others[0]!r}, which is no tensor; a package has tensors only.")
    content = save({key: value.contiguous().clone() for key, value in weights.items()})
    (folder / packed.WEIGHTS).write_bytes(content)
    write_text(folder / packed.CONFIG, yaml.safe_dump(without_local_paths(config), sort_keys=False))
    trees = checkpoint.with_suffix(".ubj")
    if getattr(task, "xgboost_on", "none") != "none":
        shutil.copyfile(trees, folder / packed.TREES)
    record = read_record(checkpoint)
    if record:
        write_text(folder / packed.RECORD, json.dumps(record, indent=2) + "\n")
    digests = {key: hashlib.sha256((folder / key).read_bytes()).hexdigest()
               for key in packed.READ if (folder / key).is_file()}  # fmt: skip
    description = {"format": packed.FORMAT, "belvedere": belvedere.__version__, "task": task_name(config["data"]),
                   "classes": list(task.classes), "decision": decisions(task), "sha256": digests}  # fmt: skip
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    if onnx:
        _export(task, checkpoint, config, data, trust, folder)
    with TemporaryDirectory(prefix="belvedere-") as drawn:
        seen = review(task, config, data, worst, Path(drawn))
        panel = Path(drawn) / "panels" / "validate.png"
        if panel.is_file():
            (folder / packed.IMAGES).mkdir()
            save_picture(read_picture(panel), folder / PICTURE)
    if seen.problem and worst:
        print(f"The card shows no failures: {seen.problem}")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    text = card(task, checkpoint, config, notes, name, seen, files)
    write_text(folder / packed.CARD, text)


def _export(
    task: ImageTask, checkpoint: Path, config: Mapping[str, Any], data: str | None, trust: bool, folder: Path
) -> None:
    """Puts an exported file into a package's folder, and prints how it compares."""
    module, _ = configured(config, {} if data is None else {"root": data})
    with TemporaryDirectory(prefix="belvedere-") as made:
        printed = StringIO()
        with redirect_stdout(printed):
            export(task, module, Trainer(logger=False), Path(made), str(checkpoint), trust=trust)
        print("\n".join(line for line in printed.getvalue().splitlines() if made not in line))  # files that go
        shutil.move(Path(made) / FILE, folder / packed.ONNX)


def without_local_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's config without what only its computer has: of absolute paths the last part is left."""
    found: dict[str, Any] = _without_local_paths(dict(config))
    arguments = found["data"].get("init_args", {}) if isinstance(found["data"], dict) else {}
    arguments |= {key: None for key in PERSONAL if key in arguments}
    return found


def _without_local_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_local_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_local_paths(each) for each in value]
    own = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return Path(value).name if own else value


def _check_target(target: Path, overwrite: bool) -> None:
    """Checks that a package can be written.

    Raises:
        PackageError: There is one and it may not be replaced, or a folder that is none.
    """
    check_writable(target.parent)
    if not target.exists():
        return
    if target.is_dir() and target.suffix != ".zip" and not (target / DESCRIPTION).is_file() and any(target.iterdir()):
        raise PackageError(f"{target} is a folder of other files. Choose another --output.")
    if not overwrite:
        raise PackageError(f"{target} exists. Choose another --output, or add --overwrite to replace it.")


def _place(folder: Path, target: Path) -> None:
    """Puts the files of a folder into a zip or another folder."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if target.suffix.lower() == ".zip":
        with replacing(target) as temporary, ZipFile(temporary, "w") as file:
            for name in files:
                plain = name == packed.WEIGHTS or name.endswith(".jpg")
                file.write(folder / name, name, ZIP_STORED if plain else ZIP_DEFLATED)
        return
    with temporary_folder(target) as earlier, replacing_folder(target) as made:
        shutil.copytree(folder, made, dirs_exist_ok=True)
        if target.exists():
            target.rename(earlier / target.name)

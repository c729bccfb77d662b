"""Opens packages that `belvedere pack` made: a folder, a zip file, or a repository on the Hugging Face Hub.

Nothing in a package can run a program: weights are safetensors, the config is YAML that may name known classes only,
and no file but these, the description and the trees of XGBoost is read.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, LargeZipFile, ZipFile, ZipInfo

from belvedere.checkpoints import checked_config, packages_folder
from belvedere.files import DESCRIPTION, HUB, is_package
from belvedere.sharing import hub
from ops.atomic import in_words, replacing
from ops.errors import PackageError
from ops.files.names import safe_name

FORMAT = 1
CONFIG, WEIGHTS, TREES = "config.yaml", "model.safetensors", "trees.ubj"
CARD, RECORD, ONNX, IMAGES = "README.md", "record.json", "model.onnx", "images"
FILES = (CONFIG, WEIGHTS, DESCRIPTION, TREES, CARD, RECORD, ONNX)
READ = (CONFIG, DESCRIPTION, WEIGHTS, TREES)
"""The files that opening a package reads."""
LARGEST = {CONFIG: 1 << 22, DESCRIPTION: 1 << 22, TREES: 1 << 30}
"""Most bytes of a file, of those that a zip may compress."""


def opened(value: str | Path, trust: bool = False) -> Path:
    """Returns a checkpoint of what is in a package, made in the cache; other paths are returned as they are.

    A repository on the Hub is downloaded, which only its address asks for.

    Args:
        value: See `belvedere.files.is_package`.
        trust: Whether the package's config may name any class; see `belvedere.trust`.

    Raises:
        PackageError: The package cannot be read, or has files or weights that belong to no package.
        ArgumentError: Its config names classes that are not trusted.
    """
    if not is_package(value):
        return Path(value).expanduser()
    name = str(value)
    source = hub.downloaded(name, READ) if name.startswith(HUB) else Path(name).expanduser()
    try:
        contents = _from_folder(source) if source.is_dir() else _from_zip(source)
    except (OSError, BadZipFile, LargeZipFile, NotImplementedError, RuntimeError) as error:
        # the last two are of zipfile: an unknown compression, an encrypted file
        reason = in_words(error) if isinstance(error, OSError) else str(error)
        raise PackageError(f"The package {name} cannot be read: {reason.rstrip('.')}.") from error
    _check_description(contents, name)
    text = _text(contents[CONFIG], f"{CONFIG} of {name}")
    config = checked_config(text, Path(name), "Ask its maker for another one", trust)
    digest = hashlib.sha256(b"".join(hashlib.sha256(contents[key]).digest() for key in READ if key in contents))
    stem = safe_name(f"{name.rstrip('/').rpartition('/')[2].removesuffix('.zip')}-{digest.hexdigest()[:12]}")
    checkpoint = packages_folder() / stem / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        if TREES in contents:
            with replacing(checkpoint.with_suffix(".ubj")) as temporary:
                temporary.write_bytes(contents[TREES])
        _write_checkpoint(contents[WEIGHTS], text, config["model"], checkpoint, name)
    return checkpoint


def _from_folder(folder: Path) -> dict[str, bytes]:
    missing = [name for name in (DESCRIPTION, CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise PackageError(f"{folder} is no package: it has no {' and no '.join(missing)}.")
    for name, most in LARGEST.items():
        if (folder / name).is_file() and (folder / name).stat().st_size > most:
            raise PackageError(f"{name} in {folder} is larger than {most:,} bytes.")
    return {name: (folder / name).read_bytes() for name in READ if (folder / name).is_file()}


def _from_zip(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise PackageError(f"There is no package {path}.")
    with ZipFile(path) as file:
        entries = {entry.filename: entry for entry in file.infolist()}
        if len(entries) < len(file.infolist()):
            raise PackageError(f"{path} has two files of one name. Ask its maker for another one.")
        for entry in entries.values():
            _check_entry(entry, path)
        missing = [name for name in (DESCRIPTION, CONFIG, WEIGHTS) if name not in entries]
        if missing:
            raise PackageError(f"{path} is no package: it has no {' and no '.join(missing)}.")
        # `read` stops at the size in the directory, which `_check_entry` has checked
        return {name: file.read(name) for name in READ if name in entries}


def _check_entry(entry: ZipInfo, path: Path) -> None:
    """Checks a file of a zip.

    Raises:
        PackageError: It would lie outside of the package's folder, belongs to no package, or would grow without bound.
    """
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ".." in parts or ":" in name:
        raise PackageError(f"{path} has the file {name!r}, which would lie outside of its folder. Do not use it.")
    if kind not in (0, stat.S_IFREG):
        raise PackageError(f"{path} has {name!r}, which is a link or no plain file. Do not use it.")
    image = len(parts) == 2 and parts[0] == IMAGES and parts[1].endswith(".jpg")
    if name not in FILES and not image:
        raise PackageError(f"{path} has the file {name!r}; a package has only {', '.join(FILES)} and {IMAGES}/*.jpg.")
    if name in LARGEST and entry.file_size > LARGEST[name]:
        raise PackageError(f"{path}: {name} is larger than {LARGEST[name]:,} bytes.")
    if name == WEIGHTS and entry.compress_size != entry.file_size:
        raise PackageError(f"{path}: {name} is compressed; expected a file that is stored as it is.")


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageError(f"{what} is not UTF-8 text: {error}.") from error


def _check_description(contents: Mapping[str, bytes], name: str) -> None:
    """Checks that a package is whole, and of a format that this version knows.

    Raises:
        PackageError: It is not.
    """
    try:
        found = json.loads(contents[DESCRIPTION])
        version, digests = found["format"], dict(found["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(f"{DESCRIPTION} of {name} is damaged: expected JSON with format and sha256.") from error
    if version != FORMAT:
        raise PackageError(
            f"{name} is a package of format {version!r}; this version of belvedere opens format {FORMAT}. Update it."
        )
    for key, content in contents.items():
        if key != DESCRIPTION and digests.get(key) != hashlib.sha256(content).hexdigest():
            raise PackageError(f"{key} in {name} is damaged: it is not the file that was packed.")


def _write_checkpoint(weights: bytes, config: str, model: Any, path: Path, name: str) -> None:
    """Writes a checkpoint as Lightning loads it.

    Raises:
        PackageError: The weights are no safetensors.
    """
    import lightning
    from safetensors import SafetensorError
    from safetensors.torch import load

    from ops.files.tensors import write_tensors

    try:
        state = load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise PackageError(f"{WEIGHTS} in {name} is no safetensors file: {error}.") from error
    arguments = model.get("init_args") or {} if isinstance(model, dict) else {}
    settings = {key: value for key, value in arguments.items() if key not in ("optimizer", "scheduler")}
    settings["_class_path"] = model["class_path"] if isinstance(model, dict) else model
    settings["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
    checkpoint = {"state_dict": state, "hyper_parameters": settings, "config": config, "epoch": 0, "global_step": 0,
                  "pytorch-lightning_version": lightning.__version__}  # fmt: skip
    write_tensors(path, checkpoint)

"""Downloads and uploads packages at the Hugging Face Hub, only when an address is typed; imports it only then."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ops.atomic import in_words
from ops.errors import PackageError

ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def repository(address: str) -> tuple[str, str | None]:
    """Returns the repository and the revision, if any, of an address such as `hf://user/name@v1`.

    Raises:
        PackageError: It is no such address.
    """
    found = ADDRESS.fullmatch(address.rstrip("/"))
    if not found:
        raise PackageError(
            f"{address!r} is no address of a package; expected hf://user/name, or hf://user/name@version."
        )
    return found[1], found[2]


def downloaded(address: str, names: Sequence[str]) -> Path:
    """Downloads files of a repository, those that are not in the Hub's cache yet; returns their folder.

    Args:
        address: See `repository`.
        names: The files; those that the repository lacks are skipped.

    Raises:
        PackageError: There is no such repository or version, it cannot be reached, or the disk is full.
    """
    name, revision = repository(address)
    with _explained(f"{address} cannot be downloaded"):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, allow_patterns=list(names)))


def uploaded(folder: Path, address: str, public: bool) -> str:
    """Uploads the files of a folder as a new version of a repository, which is made if there is none.

    Args:
        folder: The package.
        address: See `repository`; a revision is an existing branch.
        public: Whether everybody can read a new repository.

    Returns:
        The address of its page.

    Raises:
        PackageError: The user is not logged in or may not write there, or it cannot be reached.
    """
    name, revision = repository(address)
    with _explained(f"{folder} cannot be uploaded to {address}"):
        from huggingface_hub import HfApi

        api = HfApi()
        page = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message="Belvedere package")
        return str(page)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    from huggingface_hub import errors

    of_requests = errors.HTTPError  # type: ignore[attr-defined]  # of requests or httpx, whichever its version uses
    unreached = (of_requests, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    forbidden = (errors.RepositoryNotFoundError, errors.LocalTokenNotFoundError)

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise PackageError(f"{what}: there is no such version. After the @, give an existing branch or tag.") from error
    except (of_requests, OSError, ValueError) as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if code in (401, 403) or isinstance(error, forbidden):
            raise PackageError(
                f"{what}: there is no such repository, or you may not use it. Check the address; for your own, and for "
                "private ones, log in first: hf auth login."
            ) from error
        reason = (
            in_words(error) if isinstance(error, OSError) and error.errno else str(error).strip().partition("\n")[0]
        )
        network = isinstance(error, unreached) and (code is None or code >= 500)
        advice = " Check the network, then try again." if network else ""
        raise PackageError(f"{what}: {reason.rstrip('.') or type(error).__name__}.{advice}") from error

"""Makes file names of names that come from elsewhere: classes of a checkpoint, rows of a table, images."""

import hashlib
import os
import re
from pathlib import Path

from ops.atomic import PREFIX

LONGEST = 255 - len(f"{PREFIX}12345678-")  # bytes; while it is written, a file has a longer name
# Separators and control characters, and what no file system can encode.
STRANGE = re.compile(r"[\x00-\x1f\x7f/\\]|[\ud800-\udc7f\udd00-\udfff]")
# Names that stand for other places, and devices of Windows.
RESERVED = re.compile(r"[. ]*|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(name: str, suffix: str = "") -> str:
    """Returns a name as that of a file within a folder: `name + suffix`, byte for byte, for all ordinary names.

    A name that would leave the folder, is reserved, too long, or has control characters is changed, and gets a digest
    of the original, so that different names stay different.

    Args:
        name: The name.
        suffix: What the file's name ends with.
    """
    clean = STRANGE.sub("_", name)
    whole = os.fsencode(clean + suffix)
    if clean == name and len(whole) <= LONGEST and not RESERVED.fullmatch(name):
        return name + suffix
    tail = f"-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}{suffix}"
    kept = os.fsencode(clean)[: LONGEST - len(os.fsencode(tail))].decode("utf-8", "ignore")  # cuts no character in two
    return f"{'_' if RESERVED.fullmatch(kept) else ''}{kept}{tail}"


def safe_path(name: str, suffix: str) -> Path:
    """Returns the path of an image within its dataset as a path within another folder, with another suffix.

    Args:
        name: Parts separated by `/`; see `safe_name` for each.
        suffix: Replaces the suffix of the last part.
    """
    *folders, last = [part for part in name.split("/") if part] or [""]
    return Path(*map(safe_name, folders), safe_name(Path(last).stem, suffix))

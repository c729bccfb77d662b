"""Builds the documentation site into `build/site`, without network: `python -m website`, which is `make docs`."""

import shutil
import subprocess
import sys
from pathlib import Path

from website.pages import ROOT, make_pages

SHIM = "https://unpkg.com/iframe-worker/shim"  # what the search needs on pages opened from disk; docs/assets has it


def local_shim(site: Path) -> None:
    """Makes every page load the shim from the site instead of the network."""
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(SHIM, f"{up}assets/iframe-worker.js"), encoding="utf-8")


def main() -> int:
    """Makes the pages and builds the site; returns Zensical's exit code."""
    build = ROOT / "build"
    make_pages(build / "docs")
    shutil.rmtree(build / "site", ignore_errors=True)
    code = subprocess.call([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT)
    if code == 0:
        local_shim(build / "site")
        print(f"Open {build / 'site' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())

"""What commands import: libraries that a command does not need would cost it seconds."""

import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

NOT_NEEDED = ("wandb", "albumentations", "kornia", "sklearn", "xgboost", "pandas", "tensorboard", "lpips", "skimage")


def test_predict_imports_what_it_needs_only(fitted: Path, clouds_root: Path, tmp_path: Path) -> None:
    picture = min((clouds_root / "train_images").iterdir())
    given = ["predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--data.pictures", str(picture)]
    code = f"""
import sys
from belvedere.__main__ import main
assert main({[*given, "--output", str(tmp_path / "out")]!r}) == 0
print(sorted(set({NOT_NEEDED!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

import os
from pathlib import Path

import pytest

from ops.files.names import LONGEST, safe_name, safe_path

ORDINARY = ["a", "Fish", "survey_2020.05", "Dürer", "Du\u0308rer", "b c", "-x", "12:30", ".hidden", "a.", "雪" * 60,
            "$x^2$", "caf\udce9", "console", "x" * (LONGEST - 4)]  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay(name: str) -> None:
    assert safe_name(name, ".png") == f"{name}.png"
    assert safe_path(f"north/{name}.jpeg", ".png") == Path("north", f"{name}.png")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("..", "_..-"),
        (".", "_.-"),
        ("", "_-"),
        ("../../../evil", ".._.._.._evil-"),
        ("/etc/passwd", "_etc_passwd-"),
        ("a\\b", "a_b-"),
        ("a\nb\0c", "a_b_c-"),
        ("NUL", "_NUL-"),
        ("com1.tar", "_com1.tar-"),
        ("a\ud800", "a_-"),
        ("x" * 300, "xxx"),
        ("雪" * 100, "雪雪"),
    ],
)
def test_other_names_are_changed_and_stay_in_their_folder(name: str, start: str, tmp_path: Path) -> None:
    for suffix in ("", ".png"):
        safe = safe_name(name, suffix)
        assert safe.startswith(start)
        assert safe.endswith(suffix)
        assert len(os.fsencode(safe)) <= LONGEST
        path = tmp_path / safe
        path.write_bytes(b"")
        assert path.parent.resolve() == path.resolve().parent == tmp_path


def test_different_names_stay_different() -> None:
    names = ["a/b", "a_b", "a\\b", "a\nb", *(f"{'x' * 300}{number}" for number in range(10)), "..", ".", ""]
    assert len({safe_name(name) for name in names}) == len(names)


def test_paths_stay_within_their_folder() -> None:
    assert safe_path("/etc/passwd", ".png") == Path("etc/passwd.png")
    up, name = safe_path("../evil.jpg", ".png").parts
    assert up.startswith("_..-")
    assert name == "evil.png"
    assert safe_path("a/./b.c.jpg", ".png").parts[::2] == ("a", "b.c.png")

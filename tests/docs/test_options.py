"""The options that the texts name exist."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from belvedere import TASKS
from belvedere.commandline.parser import parameters
from belvedere.names import class_modules
from tests.docs.texts import TEXTS
from tests.helpers import ROOT

OPTION = re.compile(r"--(model|data)\.(\w+)")
KINDS = {"model": "Task", "data": "DataModule"}


def options_of(group: str, task: str) -> set[str]:
    """Returns the options of a task's classes, or those of all tasks if `task` is empty."""
    ending = KINDS[group]
    classes = {name: module for name, module in class_modules().items() if name.endswith(ending)}
    chosen = {name: module for name, module in classes.items() if task in module}
    found = {"help"} | {
        each for name, module in chosen.items() for each in parameters(getattr(import_module(module), name))
    }
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_exists(path: Path) -> None:
    task = path.stem if path.stem in TASKS else ""
    named = set(OPTION.findall(path.read_text(encoding="utf-8")))
    known = {(group, name) for group in KINDS for name in options_of(group, task)}
    assert sorted(named - known) == []

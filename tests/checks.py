from collections.abc import Callable
from typing import Any

import pytest

from ops.errors import WeightsError


def rejects(
    match: str, call: Callable[..., Any], *arguments: Any, error: type[Exception] = ValueError, **options: Any
) -> None:
    """Asserts that a call raises an error whose message matches."""
    with pytest.raises(error, match=match):
        call(*arguments, **options)


def rejects_weights(match: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """The same for weights that cannot be loaded."""
    rejects(match, call, *arguments, error=WeightsError, **options)

"""What a user can mend: errors whose message says what was found, what was expected and what to do."""

from collections.abc import Callable, Iterable, Sequence

SHOWN = 20  # errors listed in one message


class UserError(ValueError):
    """Something that the user can mend. The command line prints its message and exits with code 2."""


class DataError(UserError):
    """The user's data are not as wanted; the message says what came, what was wanted and what to do.

    Attributes:
        problems: What is wrong, a sentence each, of which the message may show the first few only.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems) or [message]


class ArgumentError(UserError):
    """Something typed cannot be used; the message says what was wanted."""


class ParserError(ArgumentError):
    """The parser refused something; its own words, which `readable` shortens.

    Args:
        message: The parser's.
        known: Options that could have been meant.
    """

    def __init__(self, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.known = known


class WeightsError(UserError):
    """Weights that were asked for cannot be had or do not fit."""


class NoDenseFormError(UserError):
    """The network has no dense form that equals it at every window."""


class TreesError(UserError):
    """Trees that were asked for cannot be had."""


class TrainingError(UserError):
    """Training cannot go on; the message says what happened and what to try."""


class StudyError(UserError):
    """A study cannot be planned; the message says what came, what was wanted and what to do."""


def listed(problems: Sequence[str], shown: int = SHOWN) -> str:
    """Problems as one text, a line each, the first few when there are many."""
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more; `belvedere describe` lists all of them")
    return "\n".join(lines)


def refuse(problems: Sequence[str], what: str, shown: int = SHOWN) -> None:
    """Raises one DataError for all problems, if there are any; its message shows the first few."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{count} in {what}:\n{listed(problems, shown)}", problems)


def collected(checks: Iterable[Callable[[], object]]) -> list[str]:
    """The problems of all checks that raise a DataError, each once."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except DataError as error:
            found += error.problems
    return list(dict.fromkeys(found))

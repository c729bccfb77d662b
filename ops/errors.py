"""Errors that a user can fix. Their messages state what was found, what was expected and what to do."""

import difflib
from collections.abc import Callable, Iterable, Sequence

SHOWN = 20  # problems listed in one message
LONGEST = 2000  # letters of a line of a message
SKIPPED = 3  # exit code: the command finished, but skipped what cannot be used


class UserError(ValueError):
    """Base of all errors that a user can fix. The command line prints the message and exits with code 2.

    Args:
        message: The message; the middle of very long lines is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(clipped, message.split("\n"))))


class Problem(str):
    """A problem with what to do about it, which lists of problems give once for all that share it.

    Args:
        found: What is wrong.
        advice: What to do.
    """

    def __new__(cls, found: str, advice: str) -> "Problem":
        made = super().__new__(cls, f"{found} {advice}")
        made.found, made.advice = found, advice
        return made

    found: str
    advice: str

    def __reduce__(self) -> tuple[type["Problem"], tuple[str, str]]:
        return Problem, (self.found, self.advice)


class DataError(UserError):
    """Reports invalid data.

    Args:
        message: The message; the middle of very long lines is left out.
        problems: What is wrong, if that is more than the message.

    Attributes:
        problems: One sentence per problem; the message may show only the first few.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(map(clipped, problems)) or [
            clipped(message) if isinstance(message, Problem) else str(self)
        ]


class ArgumentError(UserError):
    """Reports an invalid argument."""


class ParserError(ArgumentError):
    """Reports what the argument parser rejected, with the parser's own message.

    Args:
        message: The parser's message.
        known: Options that may have been meant.
    """

    def __init__(self, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.known = known


class WeightsError(UserError):
    """Reports weights that cannot be loaded or do not fit the network."""


class NoDenseFormError(UserError):
    """Reports a network without a dense form that equals it at every window."""


class ExportError(UserError):
    """Reports an exported file that computes something else than the network."""


class TreesError(UserError):
    """Reports boosted trees that cannot be fitted or loaded."""


class TrainingError(UserError):
    """Reports why training cannot continue."""


class FolderError(UserError):
    """Reports a folder that another process works in."""


class PackageError(UserError):
    """Reports a package that cannot be made, opened, downloaded or uploaded."""


class StudyError(UserError):
    """Reports why a study cannot be planned."""


def clipped(line: str) -> str:
    """Returns a line without its middle if it is very long, such as one that quotes a cell of a table."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def listed(problems: Sequence[str], shown: int = SHOWN, rest: str = "; `belvedere describe` lists all of them") -> str:
    """Formats problems as one text, a line each, and only the first few if there are many; then each advice once."""
    several = len(problems) > 1
    lines = [f"  - {each.found if several and isinstance(each, Problem) else each}" for each in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more{rest}")
    if several:
        lines += dict.fromkeys(each.advice for each in problems[:shown] if isinstance(each, Problem))
    return "\n".join(lines)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns a hint that names the most similar known name, to append to a message; empty if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def refuse(problems: Sequence[str], what: str, shown: int = SHOWN) -> None:
    """Raises one DataError for all problems, if there are any. Its message shows the first few."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{count} in {what}:\n{listed(problems, shown)}", problems)


def collected(checks: Iterable[Callable[[], object]]) -> list[str]:
    """Runs all checks and returns the problems of those that raise a DataError, each once."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except DataError as error:
            found += error.problems
    return list(dict.fromkeys(found))

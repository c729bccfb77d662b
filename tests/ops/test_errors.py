import pickle
import re

import pytest

from ops.errors import LONGEST, SHOWN, DataError, Problem, UserError, collected, refuse
from tests.checks import rejects


def test_message_shows_the_first_problems_and_the_error_keeps_all() -> None:
    problems = [f"problem {number}." for number in range(SHOWN + 3)]
    refuse([], "nothing")
    with pytest.raises(DataError) as caught:
        refuse(problems, "the folder")
    text = str(caught.value)
    assert text.startswith(f"{SHOWN + 3} problems in the folder:\n  - problem 0.\n")
    assert text.endswith("problem 19.\n  … and 3 more; `belvedere describe` lists all of them")
    assert caught.value.problems == problems
    assert pickle.loads(pickle.dumps(caught.value)).problems == problems
    rejects(re.escape("1 problem in here:\n  - It is odd."), refuse, ["It is odd."], "here", error=DataError)
    assert DataError("Alone.").problems == ["Alone."]


def test_advice_that_problems_share_is_given_once() -> None:
    advice = "Set --data.mask_values."

    def check(number: int) -> None:
        raise pickle.loads(pickle.dumps(DataError(Problem(f"{number}.png is odd.", advice))))

    problems = collected([lambda: check(1), lambda: check(2)])
    assert problems == [f"1.png is odd. {advice}", f"2.png is odd. {advice}"]
    with pytest.raises(DataError) as caught:
        refuse([*problems, "3.png is empty."], "masks")
    assert str(caught.value).splitlines()[1:] == [
        "  - 1.png is odd.",
        "  - 2.png is odd.",
        "  - 3.png is empty.",
        advice,
    ]
    with pytest.raises(DataError, match=f"1.png is odd. {advice}"):
        refuse(problems[:1], "masks")


def test_very_long_lines_lose_their_middle() -> None:
    problem = f"t.csv, row 2: count is {'9' * 2_000_000}; expected an integer."
    for error in (UserError(problem), DataError(f"1 problem:\n{problem}", [problem])):
        assert len(str(error)) < 2 * LONGEST
        assert str(error).endswith("9; expected an integer.")
        assert "t.csv, row 2" in str(error)
    assert len(DataError("1 problem", [problem]).problems[0]) < 2 * LONGEST

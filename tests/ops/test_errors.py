import pickle
import re

import pytest

from ops.errors import SHOWN, DataError, refuse
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

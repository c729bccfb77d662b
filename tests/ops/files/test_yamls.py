import pytest
import yaml

from ops.errors import ArgumentError
from ops.files.yamls import read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize("text", ["", "a: 1\nb: [x, {c: 2.5}]", "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: *x", "1"])
def test_ordinary_yaml_is_read_as_by_pyyaml(text: str) -> None:
    assert read_yaml(text, "f") == yaml.safe_load(text)
    assert read_yaml(text, "f", yaml.BaseLoader) == yaml.load(text, yaml.BaseLoader)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (BOMB, "more than 100,000"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: 1\nb: {c: 1, c: 2}", "duplicate key 'c'"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("\0", "not valid YAML"),
        ("? [a]\n: b", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
    ],
)
def test_what_yaml_could_do_harm_with_is_rejected(text: str, found: str) -> None:
    with pytest.raises(ArgumentError, match=found) as caught:
        read_yaml(text, "run/config.yaml")
    assert str(caught.value).startswith("run/config.yaml")

"""Reads YAML that may come from anywhere."""

from collections import Counter
from typing import Any

import yaml

from ops.errors import ArgumentError

MOST_NODES = 100_000  # after anchors are replaced by what they stand for
MERGE = "tag:yaml.org,2002:merge"  # `<<`, which may be repeated


def read_yaml(text: str, source: object, loader: type[yaml.SafeLoader | yaml.BaseLoader] = yaml.SafeLoader) -> Any:
    """Returns what a YAML text stands for, made of plain types.

    Args:
        text: The text.
        source: Its file, for messages.
        loader: The loader of PyYAML; `BaseLoader` leaves every value a text.

    Raises:
        ArgumentError: It is not YAML, has a key twice, or anchors that contain themselves or grow without bound.
    """
    parser = None
    try:
        parser = loader(text)
        node = parser.get_single_node()
        if node is None:
            return None
        _expanded(node, {}, set())
        return parser.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ArgumentError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from error
    finally:
        if parser is not None:
            parser.dispose()


def _expanded(node: yaml.Node, known: dict[yaml.Node, int], above: set[yaml.Node]) -> int:
    """Returns how many nodes there are once anchors are replaced.

    Raises:
        ValueError: There are too many, an anchor contains itself, or a key is given twice.
    """
    if node in known:
        return known[node]
    if node in above:
        raise ValueError("an anchor contains itself")
    if isinstance(node, yaml.ScalarNode):
        children: list[yaml.Node] = []
    else:
        children = list(node.value)
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key, count in Counter(keys).items():
                if count > 1 and key[0] != MERGE:
                    raise ValueError(f"duplicate key {key[1]!r}; remove one")
            children = [each for pair in node.value for each in pair]
    above.add(node)
    known[node] = 1 + sum(_expanded(each, known, above) for each in children)
    above.remove(node)
    if known[node] > MOST_NODES:
        raise ValueError(f"its anchors stand for more than {MOST_NODES:,} values")
    return known[node]

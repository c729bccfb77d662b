import pytest
from jsonargparse import Namespace

from belvedere.commandline.settings import follow_data


@pytest.mark.parametrize(
    ("data", "given", "model", "found"),
    [
        (
            "avalanches.AvalanchesDataModule",
            {"window": 17},
            {"window": 33, "channels": 1},
            {"window": 17, "channels": 1},
        ),
        ("roads.RoadsDataModule", {"bands": [1, 2, 3, 4]}, {"channels": 3}, {"channels": 4}),
        ("roads.RoadsDataModule", {"size": [32, 64]}, {"size": None}, {"size": [32, 64]}),
    ],
)
def test_a_task_follows_its_data_where_they_settle_it(
    data: str, given: dict[str, object], model: dict[str, object], found: dict[str, object]
) -> None:
    config = Namespace(
        data=Namespace(class_path=f"datamodules.{data}", init_args=Namespace(root="nowhere", **given)),
        model=Namespace(init_args=Namespace(**model)),
    )
    follow_data(config, "fit")
    assert vars(config.model.init_args) == found

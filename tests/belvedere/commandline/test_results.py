from pathlib import Path

from belvedere.commandline.results import results


def test_metrics_stand_beside_their_intervals(tmp_path: Path) -> None:
    path = tmp_path / "intervals.csv"
    metrics = {"test/loss": 0.25, "test/dice": 0.8765432}
    assert [line.split() for line in results(metrics, path).splitlines()] == [
        ["metric", "value"], ["test/dice", "0.8765"], ["test/loss", "0.2500"]]  # fmt: skip
    path.write_text("figure,low,high,pictures\ntest/dice,0.81,0.93456,12\n")
    first, dice, loss = results(metrics, path).splitlines()
    assert "95 % interval, 12 images" in first
    assert dice.split() == ["test/dice", "0.8765", "0.8100", "to", "0.9346"]
    assert loss.split() == ["test/loss", "0.2500"]
    path.write_text("figure,low,high,pictures\ntest/dice,0.81,0.93456,2\n")
    assert "2 images are too few" in results(metrics, path).splitlines()[-1]

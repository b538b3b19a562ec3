import re
from pathlib import Path

from trainer.run_directory import layout


def test_every_name_stands_in_the_tree() -> None:
    names = [value for key, value in vars(layout).items() if key.isupper() and not key.startswith("_")]
    assert "config.yaml" in names
    missing = [name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", layout.__doc__ or "")]
    assert not missing


def test_only_published_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    steps = (30, 4, 123_456_789, 99_999_999)
    folders = [layout.checkpoint_name(step) for step in steps]
    for name in (*folders, ".tmp-step-00000005", "damaged-step-00000006", "step-7", "._step-00000004", ".DS_Store"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    found = layout.list_checkpoints(tmp_path)
    assert [layout.checkpoint_step(path) for path in found] == sorted(steps)


def test_files_of_ranks_are_found_in_order_of_rank(tmp_path: Path) -> None:
    for name in ("rank-00010.json", "rank-00002.json", "rank-00002.stacks", "._rank-00001.json", "rank-x.json"):
        (tmp_path / name).touch()
    found = layout.files_by_rank(tmp_path, ".json")
    assert list(found) == [2, 10]
    assert found[2] == tmp_path / f"{layout.rank_name(2)}.json"

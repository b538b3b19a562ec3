"""`lanes.json`: older files are read, and what this version does not know is one sentence."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.trainer.data.world import World
from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.feeding.feed_state import current_format
from trainer.data.stores.store import Store
from trainer.errors import UserError

CONFIG = DataConfig(
    train=(CorpusConfig(), CorpusConfig()),
    max_length=16,
    max_tokens=60,
    num_lanes=4,
    micro_batches_per_step=4,
    window=32,
)


@pytest.fixture
def world(make_store: Callable[..., Store]) -> World:
    return World([make_store(90, seed=1), make_store(50, seed=2)], 1, CONFIG)


@pytest.fixture
def state(world: World) -> Any:
    world.steps(3)
    return world.state()


OLD_ORDER = {
    "`run.seed`": 1,
    "`data.mode`": "store",
    "`data.num_lanes`": 4,
    "`data.window`": 32,
    "`data.temperature`": 1.0,
    "the number of corpora in `data.train`": 2,
}


def test_a_file_of_the_first_format_is_read(state: Any, world: World) -> None:
    old = {key: value for key, value in state.items() if key != "format"} | {"order": OLD_ORDER}
    assert current_format(old) == state
    expected = world.restored(state).steps(2)
    assert [m.pair_ids[1].tolist() for m in world.restored(old).steps(2)] == [m.pair_ids[1].tolist() for m in expected]


def test_its_keys_are_plain(state: Any) -> None:
    def keys(value: Any) -> list[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [*(value if isinstance(value, dict) else []), *(key for item in inner for key in keys(item))]

    assert state["format"] == 2
    assert all(key.replace("-", "_").isidentifier() or key.isdigit() for key in keys(state))


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("format", 3, "has format 3, but this version of dragoman reads formats up to 2"),
        ("format", "2", "has format 2, but"),
        ("order", {}, "lacks the key `order.seed`"),
        ("order.shape", 1, "has the key `order.shape`, which this version"),
        ("corpora.1.language", "de", "has the key `corpora.1.language`, which"),
        ("lanes.3", None, "lacks the key `lanes.3.window`"),
        ("lanes.4", {}, "has the key `lanes.4`, which"),
        ("lanes.2.counts.characters", [0, 0], "has the key `lanes.2.counts.characters`, which"),
        ("noise", 1, "has the key `noise`, which"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    state: Any, world: World, place: str, value: object, complaint: str
) -> None:
    changed = copy.deepcopy(state)
    *path, last = place.split(".")
    inner = changed
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    with pytest.raises(UserError, match=rf"lanes\.json of the checkpoint {complaint}"):
        world.restored(json.loads(json.dumps(changed)))


@pytest.mark.parametrize("key", ["micro_batches", "order", "corpora", "lanes"])
def test_what_is_missing_is_one_sentence(state: Any, world: World, key: str) -> None:
    del state[key]
    with pytest.raises(UserError, match=f"lacks the key `{key}`"):
        world.restored(state)

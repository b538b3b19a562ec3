"""`lanes.json`: where a run is in its training data. What it holds, what is refused, and one state from many ranks.

{"format": 2,
 "micro_batches": how many all ranks have read,
 "order": {"seed", "mode", "num_lanes", "window", "temperature", "num_corpora"},
 "corpora": [{"name", "weight", "content", "num_pairs", "rejected"}, …],
 "lanes": {"0": {"window", "consumed", "positions", "counts": {"pairs", …}}, …},
 "consumed": what has been read of each corpus, see `consumed_counts`; nothing reads it back}

Format 1 has no number, and the keys of its "order" are written as messages name the settings.
"""

from collections.abc import Collection, Iterable
from typing import Any

from trainer.data.feeding.consumed_counts import COUNTED, corpus_counts
from trainer.errors import UserError

FORMAT = 2

_NAMES_IN_MESSAGES = {
    "seed": "`run.seed`",
    "mode": "`data.mode`",
    "num_lanes": "`data.num_lanes`",
    "window": "`data.window`",
    "temperature": "`data.temperature`",
    "num_corpora": "the number of corpora in `data.train`",
}
_TOP = ("format", "micro_batches", "order", "corpora", "lanes")
_CORPUS = ("name", "weight", "content", "num_pairs", "rejected")
_LANE = ("window", "consumed", "positions", "counts")


def merge_states(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One state from those of all ranks, taken after the same step; any number of ranks can load it."""
    states = list(states)
    assert len({state["micro_batches"] for state in states}) == 1, "states of different steps"
    merged = states[0] | {"lanes": {lane: saved for state in states for lane, saved in state["lanes"].items()}}
    return merged | {"consumed": corpus_counts(merged)}


def current_format(state: dict[str, Any]) -> dict[str, Any]:
    """A merged state of this or an older format in the present one.

    Raises UserError for a newer format, and for keys that are unknown or missing.
    """
    found = state.get("format", 1)
    if found == 1:
        state = state | {"format": FORMAT, "order": _plain_keys(state.get("order"))}
    elif found != FORMAT:
        raise UserError(
            f"lanes.json of the checkpoint has format {found}, but this version of dragoman reads formats up to "
            f"{FORMAT}: use the version that wrote the checkpoint."
        )
    _require_keys(state, _TOP, "", optional=("consumed",))
    _require_keys(state["order"], _NAMES_IN_MESSAGES, "order.")
    for place, corpus in enumerate(state["corpora"]):
        _require_keys(corpus, _CORPUS, f"corpora.{place}.")
    _require_keys(state["lanes"], [str(lane) for lane in range(state["order"]["num_lanes"])], "lanes.")
    for lane, saved in state["lanes"].items():
        _require_keys(saved, _LANE, f"lanes.{lane}.")
        _require_keys(saved["counts"], COUNTED, f"lanes.{lane}.counts.")
    return state


def check_same_data(present: dict[str, Any], saved: dict[str, Any]) -> None:
    """Raises UserError if two states, in the present format, are of different orders of the data."""
    for key, value in present["order"].items():
        _check_same(_NAMES_IN_MESSAGES[key], value, saved["order"][key])
    for place, (corpus, before) in enumerate(zip(present["corpora"], saved["corpora"], strict=True)):
        which = f"of `data.train.{place}` ({corpus['name']})"
        _check_same(f"the weight {which}", corpus["weight"], before["weight"])
        if corpus["content"] != before["content"]:
            raise UserError(
                f"the content {which} has changed since the checkpoint was made ({before['num_pairs']:,} pairs of "
                f"{before['name']} then, {corpus['num_pairs']:,} pairs now): the order of the data depends on it, so "
                "bring back the text and the settings of its preparation, or start a new run directory."
            )


def _plain_keys(order: Any) -> Any:
    """The keys of format 1 are those of format 2 as messages name them."""
    key_of = {name: key for key, name in _NAMES_IN_MESSAGES.items()}
    return {key_of.get(name, name): value for name, value in order.items()} if isinstance(order, dict) else order


def _require_keys(found: Any, keys: Collection[str], place: str, optional: Collection[str] = ()) -> None:
    """Raises UserError unless `found` is an object with exactly these keys, apart from the optional ones."""
    present = found.keys() if isinstance(found, dict) else set()
    for key in sorted(present - set(keys) - set(optional)):
        raise UserError(
            f"lanes.json of the checkpoint has the key `{place}{key}`, which this version of dragoman does not know: "
            "use the version that wrote the checkpoint."
        )
    for key in keys:
        if key not in present:
            raise UserError(
                f"lanes.json of the checkpoint lacks the key `{place}{key}`: restore the checkpoint from a copy."
            )


def _check_same(name: str, value: Any, saved: Any) -> None:
    if saved != value:
        raise UserError(
            f"{name} is {value}, but the checkpoint was made with {saved}: the order of the data depends on it, so set "
            "it back or start a new run directory."
        )

"""The sample of the smallest key hashes: the same keys however the records come in batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seed_registry.key_hashes import KeySample, hash_key, hash_keys

KEYS = [f"key {number}" for number in range(1000)]


def test_a_sample_has_the_smallest_hashes_and_the_last_item_of_a_key() -> None:
    sample = KeySample[int](20)
    kept = [sample.offer(key, hash_key(key), number) for number, key in enumerate(KEYS * 2)]
    smallest = sorted(KEYS, key=hash_key)[:20]
    assert {*sample.items} == {*smallest}
    assert all(item >= len(KEYS) for item in sample.items.values()), "of a key offered twice the last item"
    assert sample.limit == hash_key(smallest[-1])
    assert sum(kept[len(KEYS) :]) == 20, "the second time it is known which are sampled"
    assert sum(kept) < 200


def test_a_sample_of_no_size_keeps_nothing() -> None:
    sample = KeySample[None](0)
    assert not sample.offer("key", 0, None)
    assert not sample.items


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40))), st.integers(1, 5))
def test_a_key_that_is_forgotten_makes_room(steps: list[tuple[bool, int]], size: int) -> None:
    sample, model, limit = KeySample[int](size), dict[str, int](), 1 << 64
    for number, (is_offered, key_number) in enumerate(steps):
        key = KEYS[key_number]
        if not is_offered:
            sample.forget(key)
            model.pop(key, None)
        else:
            is_kept = key in model or hash_key(key) < limit
            assert sample.offer(key, hash_key(key), number) == is_kept
            if is_kept:
                model[key] = number
            model = {name: model[name] for name in sorted(model, key=hash_key)[:size]}
            limit = hash_key(max(model, key=hash_key)) if is_kept and len(model) == size else limit
        assert sample.items == model
        assert sample.limit == limit


def test_one_key_and_many_have_the_same_hashes() -> None:
    assert hash_keys(KEYS) == [hash_key(key) for key in KEYS]
    assert hash_key("a", "b") == hash_key("a\0b")
    assert hash_key("\ud800") != hash_key("\ud801")

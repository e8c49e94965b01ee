"""The sample of the smallest key hashes: the same keys however the records come in batches; and the parts of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry.errors import SettingsInvalid
from seed_registry.key_hashes import KeyPart, KeySample, hash_key, hash_keys

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


@pytest.mark.parametrize(
    ("key", "of_3", "of_8"), [("abcd-1234", 2, 3), ("population", 3, 7), ("ünï-코드", 3, 7), ("1", 2, 4), ("", 1, 2)]
)
def test_the_part_of_a_key_never_changes(key: str, of_3: int, of_8: int) -> None:
    """Registries on several servers were divided by it: this test is not to be changed."""
    assert [KeyPart(number, 3).has(hash_key(key)) for number in range(1, 4)].index(True) + 1 == of_3
    assert [KeyPart(number, 8).has(hash_key(key)) for number in range(1, 9)].index(True) + 1 == of_8


@given(st.lists(st.integers(0, (1 << 64) - 1)), st.integers(1, 1_024))
def test_each_key_belongs_to_one_part(hashes: list[int], parts: int) -> None:
    first_and_last = [bound for number in (1, parts) for bound in KeyPart(number, parts).bounds]
    hashes += [value for bound in first_and_last for value in (bound, bound - 1) if 0 <= value < 1 << 64]
    for key_hash in hashes:
        number = key_hash * parts // (1 << 64) + 1
        around = [KeyPart(one, parts) for one in range(max(number - 1, 1), min(number + 1, parts) + 1)]
        assert [part.number for part in around if part.has(key_hash)] == [number]
        assert [part.number for part in around if part.has_each([key_hash]) == [True]] == [number]
        assert [part.number for part in around if part.own([key_hash])] == [number]


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 512))
def test_twice_as_many_parts_halve_each(key_hash: int, parts: int) -> None:
    number = key_hash * parts // (1 << 64) + 1
    assert KeyPart(2 * number - 1, 2 * parts).has(key_hash) or KeyPart(2 * number, 2 * parts).has(key_hash)


@pytest.mark.parametrize(
    ("text", "part"), [("3/8", KeyPart(3, 8)), ("1/1", KeyPart()), (" 1024/1024 ", KeyPart(1_024, 1_024))]
)
def test_a_part_is_read(text: str, part: KeyPart) -> None:
    assert KeyPart.parse(text) == part
    assert KeyPart.parse(str(part)) == part


@pytest.mark.parametrize(
    "text",
    ["", "a", "3", "3/", "/8", "0/8", "9/8", "1/0", "-1/8", "3/8/1", "3 / 8", "1.0/2", "1/1025", "٣/8", "9" * 5_000],
)
def test_what_is_no_part_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"^--keys takes a part like 3/8, the third of eight, of at most 1,024 "):
        KeyPart.parse(text)

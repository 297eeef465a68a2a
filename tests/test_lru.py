"""The bounded map drops the entry that was used least recently."""

from zerrow_store.lru import LruCache


def test_what_was_not_used_for_the_longest_goes() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_an_entry_that_is_replaced_was_used() -> None:
    cache: LruCache[str, bool] = LruCache(2)
    cache.put("a", True)
    cache.put("b", True)
    cache.put("a", False)
    cache.put("c", True)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (False, None, True)

"""The pool's books: every page is free, cached or owned, and errors in keeping them are found."""

from __future__ import annotations

import pytest
from pie_engine.memory.pages import PagePool
from pie_wire.errors import InternalError


def states(pool: PagePool) -> tuple[int, int, int]:
    return pool.free, pool.cached, pool.owned


def test_life_of_a_private_page():
    pool = PagePool(3, 16)
    page = pool.take()
    assert states(pool) == (2, 0, 1)
    pool.release(page)
    assert states(pool) == (3, 0, 0)


def test_life_of_a_published_page():
    pool = PagePool(3, 16)
    page = pool.take()
    pool.publish(page, b"a")
    pool.release(page)
    assert states(pool) == (2, 1, 0)
    assert pool.find(b"a") == page
    pool.share(page)
    assert states(pool) == (2, 0, 1)


def test_least_recently_used_cached_page_is_reused_first():
    pool = PagePool(2, 16)
    pages = {content: pool.take() for content in (b"a", b"b")}
    for content in (b"a", b"b"):
        pool.publish(pages[content], content)
        pool.release(pages[content])
    pool.share(pages[b"a"])
    pool.release(pages[b"a"])
    assert pool.take() == pages[b"b"]
    assert pool.find(b"b") is None
    assert pool.find(b"a") == pages[b"a"]


def test_first_page_of_a_content_is_the_one_found():
    pool = PagePool(3, 16)
    first, second = pool.take(), pool.take()
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    pool.release(second)
    assert pool.find(b"a") == first
    assert states(pool) == (2, 0, 1)


def test_withdrawn_page_is_not_found():
    pool = PagePool(2, 16)
    page = pool.take()
    pool.publish(page, b"a")
    pool.withdraw(page)
    assert pool.find(b"a") is None
    pool.release(page)
    assert states(pool) == (2, 0, 0)


def test_misuse_is_an_error():
    pool = PagePool(1, 16)
    page = pool.take()
    with pytest.raises(InternalError):
        pool.take()
    pool.share(page)
    with pytest.raises(InternalError):
        pool.withdraw(page)
    pool.release(page)
    pool.release(page)
    with pytest.raises(InternalError):
        pool.release(page)


def test_integrity_finds_lost_and_invented_references():
    pool = PagePool(2, 16)
    page = pool.take()
    pool.check_integrity({page: 1})
    with pytest.raises(InternalError, match="references"):
        pool.check_integrity({})
    with pytest.raises(InternalError, match="references"):
        pool.check_integrity({page: 2})

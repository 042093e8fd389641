"""A pool that is several times too small: everyone waits for a while, everyone finishes, with the same words."""

from __future__ import annotations

import pytest
from e2e_stack import Stack, eventually
from generations import Generations, texts_of

PROMPTS = [f"{number} green bottles are standing on the wall, and" for number in range(1, 17)]
TOKENS = 40


@pytest.mark.slow
def test_sixteen_generations_in_a_pool_for_three(request: pytest.FixtureRequest, kind: str):
    big: Stack = request.getfixturevalue(kind)
    with big.client() as client:
        expected = texts_of(client, PROMPTS, TOKENS)

    small: Stack = request.getfixturevalue(f"small_{kind}")
    with small.client() as client:
        [engine] = eventually("the engine has reported its pool", lambda: client.pages().engines)
        assert len(PROMPTS) * TOKENS > 3 * engine.pool.total * engine.pool.page_size // 2
        generations = Generations(client, PROMPTS, TOKENS)
        generations.wait(200)
        assert generations.texts() == expected
    small.check_quiet()

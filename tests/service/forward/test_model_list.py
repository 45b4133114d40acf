import asyncio

import pytest

from codefend.service.errors import DeadlineExceeded, UpstreamError
from codefend.service.forward.upstream import ModelList


class Upstream:
    def __init__(self):
        self.num_asked = 0
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def fetch(self):
        self.num_asked += 1
        number = self.num_asked
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return b"list %d" % number


def run(test):
    async def main():
        upstream, now_s = Upstream(), [0.0]
        models = ModelList(upstream.fetch, lifetime_s=5, timeout_s=0.2, clock=lambda: now_s[0])
        await test(models, upstream, now_s)
        await models.close()

    asyncio.run(main())


def test_many_callers_at_once_cost_one_question():
    async def test(models, upstream, _):
        upstream.may_answer.clear()
        waiting = [asyncio.create_task(models.get()) for _ in range(70)]
        await asyncio.sleep(0)
        upstream.may_answer.set()
        assert set(await asyncio.gather(*waiting)) == {b"list 1"}

    run(test)


def test_the_list_is_kept_for_a_while():
    async def test(models, _, now_s):
        assert [await models.get(), await models.get()] == [b"list 1"] * 2
        now_s[0] = 4.9
        assert await models.get() == b"list 1"
        now_s[0] = 5.1
        assert await models.get() == b"list 2"

    run(test)


def test_an_error_is_everybodys_who_waits_and_is_not_kept():
    async def test(models, upstream, _):
        upstream.error = UpstreamError()
        answers = await asyncio.gather(models.get(), models.get(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [UpstreamError] * 2
        assert upstream.num_asked == 1
        upstream.error = None
        assert await models.get() == b"list 2"

    run(test)


def test_who_leaves_ends_no_one_elses_wait():
    async def test(models, upstream, _):
        upstream.may_answer.clear()
        first, second = (asyncio.create_task(models.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        upstream.may_answer.set()
        assert await second == b"list 1"

    run(test)


def test_an_upstream_that_says_nothing_is_given_up():
    async def test(models, upstream, _):
        upstream.may_answer.clear()
        with pytest.raises(DeadlineExceeded):
            await models.get()
        upstream.may_answer.set()
        assert await models.get() == b"list 2"

    run(test)

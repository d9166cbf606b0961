"""A few pictures are decoded at a time, a bounded number of requests waits for that, and the others are told to come again."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from ray_jobs.serving.decoding import AT_ONCE, Decoder
from setok.errors import OverloadedError
from setok.serving.images import ImageReader, Shown
from tests.served import data_url, picture, serving

LARGE = data_url(picture(400, 300))
"""Above what is decoded on the spot."""


class Held:
    """A function that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = 0, threading.Event()
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> int:
        with self._lock:
            self.begun += 1
        assert self.go.wait(60)
        return self.begun


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.001)


def test_threads_of_requests_that_were_given_up_count_until_they_end() -> None:
    async def steps() -> None:
        decoder, held = Decoder(max_waiting=0), Held()
        first = [asyncio.create_task(decoder.run(held)) for _ in range(AT_ONCE)]
        await until(lambda: held.begun == AT_ONCE)
        second = [asyncio.create_task(decoder.run(held)) for _ in range(3)]
        for task in (*first, second[0]):
            task.cancel()
        await asyncio.wait([*first, second[0]])
        await asyncio.sleep(0)
        assert held.begun == AT_ONCE
        held.go.set()
        await asyncio.gather(*second[1:])
        assert held.begun == AT_ONCE + 2

    asyncio.run(steps())


def test_a_failure_makes_room() -> None:
    async def steps() -> None:
        decoder = Decoder(max_waiting=0)
        for _ in range(AT_ONCE + 1):
            with pytest.raises(ZeroDivisionError):
                await decoder.run(divmod, 1, 0)

    asyncio.run(steps())


def test_places_are_bounded_and_given_back() -> None:
    decoder = Decoder(max_waiting=1)
    for _ in range(AT_ONCE + 2):
        with decoder.place():
            pass
    places = [decoder.place() for _ in range(AT_ONCE + 1)]
    for place in places:
        place.__enter__()
    with pytest.raises(OverloadedError, match="as many pictures wait as may"), decoder.place():
        pass
    places[0].__exit__(None, None, None)
    with decoder.place():
        pass


def test_large_pictures_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    held, real = Held(), ImageReader.from_data_url

    def read(reader: ImageReader, url: str) -> Shown:
        held()
        return real(reader, url)

    monkeypatch.setattr(ImageReader, "from_data_url", read)
    room, beyond = AT_ONCE + 2 + 2, 3
    with serving(batching__max_rows=2, batching__max_waiting=2) as address, ThreadPoolExecutor(room + beyond) as many:

        def ask(_: int) -> httpx2.Response:
            answer = httpx2.post(f"{address}/v1/tokenize", json={"image": LARGE}, timeout=120)
            if answer.status_code == 503:
                refused.release()
            return answer

        refused = threading.Semaphore(0)
        asked = [many.submit(ask, number) for number in range(room + beyond)]
        for _ in range(beyond):
            assert refused.acquire(timeout=60)
        assert held.begun <= AT_ONCE
        held.go.set()
        answers = [one.result() for one in asked]
    told = [answer.json()["error"]["message"] for answer in answers if answer.status_code == 503]
    assert sum("as many pictures wait as may" in message for message in told) == beyond
    assert held.begun == room
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 200 for answer in answers)

"""The tools of caption jobs: each is loaded once, and nobody waits for another's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sightline.settings import Settings
from workers.captioning import CaptionTools


def test_a_tool_is_had_while_another_one_loads() -> None:
    tools = CaptionTools(Settings())
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        loading.set()
        assert go_on.wait(20)
        return "captioner"

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(tools._once, "captioner", slow)
        assert loading.wait(20)
        second = threads.submit(tools._once, "captioner", lambda: "another")
        try:
            assert threads.submit(tools._once, "ocr", lambda: "reader").result(10) == "reader"
        finally:
            go_on.set()
        assert (first.result(10), second.result(10)) == ("captioner", "captioner")

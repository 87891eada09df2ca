from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from models.endpoint.transport import Endpoint
from models.errors import AnswerMalformed, EndpointBusy, EndpointUnauthorised, InvalidInput
from models.rerank_endpoint import MOST_DOCUMENTS, RerankEndpoint
from tests.kit.rerank_server import RerankServer, overlap

TEXTS = ["a red cube", "a blue cube on a table", "the cat"]


@pytest.fixture(scope="module")
def server() -> Iterator[RerankServer]:
    with RerankServer() as running:
        yield running


@pytest.fixture
def connect(server: RerankServer) -> Iterator[Callable[[], RerankEndpoint]]:
    server.asked.clear()
    server.answers.clear()
    endpoint = Endpoint(server.url, "secret", seconds=5.0, setting="SIGHTLINE_RERANK")
    yield lambda: RerankEndpoint(endpoint, "some/reranker")
    endpoint.close()


def _scores(scorer: RerankEndpoint, query: str, texts: list[str]) -> list[float]:
    return scorer.score(scorer.prepare(query, "query"), [scorer.prepare(text, "candidate") for text in texts]).tolist()


def test_scores_come_back_in_the_order_of_the_candidates(
    server: RerankServer, connect: Callable[[], RerankEndpoint]
) -> None:
    texts = TEXTS * (MOST_DOCUMENTS // 2)  # several requests
    assert _scores(connect(), "a red cube", texts) == pytest.approx([overlap("a red cube", text) for text in texts])
    assert [len(asked["documents"]) for asked in server.asked] == [MOST_DOCUMENTS, len(texts) - MOST_DOCUMENTS]
    assert server.asked[0]["model"] == "some/reranker"
    assert server.keys[0] == "Bearer secret"


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(
    server: RerankServer, connect: Callable[[], RerankEndpoint]
) -> None:
    server.answers = [(429, {"Retry-After": "0"}, {"error": "slow down"})]
    assert _scores(connect(), "the cat", TEXTS)[2] == 1
    assert len(server.asked) == 2


def test_what_stays_busy_is_an_error_of_its_class(server: RerankServer, connect: Callable[[], RerankEndpoint]) -> None:
    server.answers = [(503, {"Retry-After": "0"}, {})] * 4
    with pytest.raises(EndpointBusy):
        _scores(connect(), "the cat", TEXTS)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"results": [{"index": 0, "relevance_score": 0.5}]}, "1 scores for 3 texts"),
        ({"results": [{"index": 3, "relevance_score": 0.5}]}, "the index 3"),
        ({"results": [{"index": 0, "relevance_score": 0.5}] * 2}, "the index 0"),
        ({"results": [{"index": 0, "relevance_score": 7.5}]}, "the score 7.5"),
        ({"results": [{"index": 0, "relevance_score": None}]}, "the score None"),
        ({"results": ["x"]}, "the index None"),
        ({"scores": [1, 2, 3]}, "0 scores for 3 texts"),
    ],
)
def test_answers_of_another_shape_are_refused(
    server: RerankServer, connect: Callable[[], RerankEndpoint], body: object, told: str
) -> None:
    server.answers = [(200, {}, body)]
    with pytest.raises(AnswerMalformed, match=told):
        _scores(connect(), "the cat", TEXTS)


def test_the_key_is_in_no_message(server: RerankServer, connect: Callable[[], RerankEndpoint]) -> None:
    server.answers = [(401, {}, {"error": "bad key secret"})]
    with pytest.raises(EndpointUnauthorised) as caught:
        _scores(connect(), "the cat", TEXTS)
    assert "secret" not in str(caught.value)
    assert "SIGHTLINE_RERANK_KEY" in str(caught.value)


def test_empty_and_broken_texts_are_blamed_alone(connect: Callable[[], RerankEndpoint]) -> None:
    for bad in ("", "  ", "broken \udcff here"):
        with pytest.raises(InvalidInput):
            connect().prepare(bad, "candidate")
    assert connect().prepare("x" * 30_000, "candidate").truncated

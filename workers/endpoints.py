"""The endpoints that the settings name, opened with metrics: a language model, and a captioner that sees images."""

from __future__ import annotations

from pydantic import SecretStr

from models.endpoint.captioner import EndpointCaptioner
from models.endpoint.chat import ChatEndpoint, Spent
from models.endpoint.transport import Endpoint
from models.rerank_endpoint import RerankEndpoint
from sightline.errors import ConfigurationError
from sightline.settings import Settings
from workers.metrics import ENDPOINT_RETRIES, ENDPOINT_SECONDS, ENDPOINT_TOKENS

__all__ = ["open_captioner", "open_llm", "open_reranker"]


def open_llm(settings: Settings) -> ChatEndpoint | None:
    """The model of SIGHTLINE_LLM_URL; None if that is unset. Nothing is sent yet.

    Raises:
        ConfigurationError: an address without the name of a model.
        EndpointError: no address, or a key that cannot be sent.
    """
    return _open_chat(settings, settings.llm_url, settings.llm_model, settings.llm_key, "SIGHTLINE_LLM")


def open_captioner(settings: Settings) -> EndpointCaptioner | None:
    """The captioner of SIGHTLINE_CAPTIONER_URL; None if that is unset. Raises as `open_llm`."""
    chat = _open_chat(
        settings, settings.captioner_url, settings.captioner_model, settings.captioner_key, "SIGHTLINE_CAPTIONER"
    )
    return EndpointCaptioner(chat) if chat else None


def open_reranker(settings: Settings, model: str) -> RerankEndpoint | None:
    """A model at the address of SIGHTLINE_RERANK_URL; None if that is unset. Raises EndpointError."""
    if settings.rerank_url is None:
        return None
    return RerankEndpoint(_endpoint(settings, settings.rerank_url, settings.rerank_key, "SIGHTLINE_RERANK"), model)


def _open_chat(
    settings: Settings, url: SecretStr | None, model: str | None, key: SecretStr | None, setting: str
) -> ChatEndpoint | None:
    if url is None:
        return None
    if not model:
        raise ConfigurationError(f"{setting}_URL is set and {setting}_MODEL is not: name the model that it serves")
    return ChatEndpoint(_endpoint(settings, url, key, setting), model, _observe)


def _endpoint(settings: Settings, url: SecretStr, key: SecretStr | None, setting: str) -> Endpoint:
    return Endpoint(
        url.get_secret_value(), key.get_secret_value() if key else None, concurrency=settings.llm_concurrency,
        seconds=settings.llm_seconds, setting=setting,
    )  # fmt: skip


def _observe(spent: Spent) -> None:
    ENDPOINT_SECONDS.labels(spent.purpose, spent.model, spent.outcome).observe(spent.seconds)
    ENDPOINT_TOKENS.labels(spent.purpose, spent.model, "prompt").inc(spent.prompt_tokens)
    ENDPOINT_TOKENS.labels(spent.purpose, spent.model, "completion").inc(spent.completion_tokens)
    ENDPOINT_RETRIES.labels(spent.purpose, spent.model).inc(max(0, spent.tries - 1))

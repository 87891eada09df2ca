"""Every setting of sightline in one class; each is read from an environment variable `SIGHTLINE_<NAME>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_OF_KUBERNETES = re.compile(r"_(SERVICE_HOST|(SERVICE_)?PORT(_\w+)?)$")


class Settings(BaseSettings):
    """Settings of client, CLI and worker. Secrets are never printed: DSNs are `SecretStr`."""

    @field_validator("database_url", mode="before")
    @classmethod
    def _libpq_url(cls, value: object) -> object:
        """SQLAlchemy's spelling of the same URL is understood too."""
        return libpq_url(value) if isinstance(value, str) else value

    model_config = SettingsConfigDict(env_prefix="SIGHTLINE_", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        default=None, description="Postgres DSN (postgresql://...). Unset: the embedded stack under `home`."
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis DSN (redis:// or rediss://). Unset: the embedded stack under `home`."
    )
    home: Path = Field(
        default_factory=lambda: Path.home() / ".sightline",
        description="State folder of the embedded stack: database, Redis, sockets, logs.",
    )
    media_roots: list[Path] = Field(
        default_factory=list,
        description="Folders that clients and workers share: files under them stay there and travel as file:// "
        "sources. Empty: every file is uploaded.",
    )
    media_url: str | None = Field(
        default=None,
        description="Where uploads go and are read from, such as s3://bucket/media or file:///mnt/media, by clients "
        "and workers alike; credentials come from the store's own variables. Unset: the table `blob`.",
    )
    media_buckets: list[str] = Field(
        default_factory=list,
        description="Object stores that workers may read for s3://, gs:// and abfs:// sources, such as "
        "s3://bucket/photos, with the workers' own credentials. Empty: none.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts of your own that http(s) sources may lie on although their addresses are private: names "
        "(images.internal), names with a port (images.internal:9000), addresses, ranges (10.1.0.0/16).",
    )
    max_redirects: int = Field(
        default=5, ge=0, le=20, description="Redirects that are followed for one http(s) source."
    )
    fetch_seconds: float = Field(
        default=30.0, gt=0, description="Seconds that one http(s) source may take, redirects and all."
    )
    fetch_idle_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that an http(s) source may send nothing, or a connection take to be made.",
    )
    fetch_threads: int = Field(
        default=16, ge=1, le=256, description="http(s), s3, gs and abfs sources that one worker fetches at a time."
    )
    model: str | None = Field(
        default=None,
        description="Model of the default space: a Hugging Face id or a folder. Unset: the bundled scenes model.",
    )
    scorers: list[str] = Field(
        default_factory=lambda: ["matcher", "dual-encoder", "late-interaction"],
        description="Scorers that a worker may load for reranking, the default one first: matcher[:MODEL], "
        "cross-encoder:MODEL, yes-no:MODEL, endpoint:MODEL, dual-encoder, late-interaction.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="Where workers run models: auto, cpu, cuda or cuda:N.",
    )
    llm_url: SecretStr | None = Field(
        default=None,
        description="Address of an OpenAI-compatible API (vLLM, Ollama) whose model writes for recipes that need one, "
        "such as http://localhost:8000/v1. Unset: none, and those recipes say so.",
    )
    llm_model: str | None = Field(default=None, description="Name of the model at `llm_url`.")
    llm_key: SecretStr | None = Field(default=None, description="Key that is sent to `llm_url`, and nowhere else.")
    llm_concurrency: int = Field(
        default=4, ge=1, le=1024, description="Most requests that one worker sends to an endpoint at a time."
    )
    llm_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds that one try of a request to an endpoint may take; with all tries up to three times that.",
    )
    captioner_url: SecretStr | None = Field(
        default=None,
        description="Address of an OpenAI-compatible API whose model sees images and captions them. Unset: the bundled "
        "captioner.",
    )
    captioner_model: str | None = Field(
        default=None,
        description="What writes captions: the name of the model at `captioner_url`, or without that a Hugging Face id "
        "or a folder of a captioner of BLIP format. Unset: the bundled scenes model.",
    )
    matcher_model: str | None = Field(
        default=None,
        description="What says how well captions match their images: a Hugging Face id or a folder of a matcher of "
        "BLIP format. Unset: the bundled one in spaces of the bundled scenes model, in others none.",
    )
    captioner_key: SecretStr | None = Field(
        default=None, description="Key that is sent to `captioner_url`, and nowhere else."
    )
    detector_model: str | None = Field(
        default=None,
        description="Detector of things for recipes: the id or folder of an OWLv2 checkpoint, such as "
        "google/owlv2-base-patch16-ensemble. Unset: the bundled one, in spaces of the bundled encoder only.",
    )
    key_prefix: str = Field(default="sightline:", description="Prefix of every Redis key, queues and replies included.")
    max_bytes: int = Field(default=64 * 2**20, gt=0, description="Largest encoded image that is accepted, in bytes.")
    max_pixels: int = Field(default=100_000_000, gt=0, description="Largest decoded image that is accepted, in pixels.")
    max_text_chars: int = Field(default=100_000, gt=0, description="Longest text item that is accepted, in characters.")
    lease_seconds: float = Field(default=15.0, ge=1, description="Seconds that a silent worker keeps its chunks.")
    poll_seconds: float = Field(
        default=0.2, gt=0, description="Seconds between two looks of the dispatcher for new work."
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, description="Seconds that a stopping worker may finish what it began."
    )
    keep_jobs_days: float = Field(
        default=30.0,
        gt=0,
        le=36500,
        description="Days after which a finished job without open failures is forgotten, with its idempotency key. "
        "Vectors are no part of a job.",
    )
    item_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that an item may take to be read, and again to be decoded; then it is tried again later.",
    )
    chunk_slots: int = Field(default=2, ge=1, description="Chunks that one worker works on at a time.")
    call_slots: int = Field(default=4, ge=1, description="Threads that one worker keeps for calls.")
    call_seconds: float = Field(
        default=10.0, gt=0, description="Seconds that a call, such as the encoding of a query, may take."
    )
    rerank_url: SecretStr | None = Field(
        default=None,
        description="Address of a rerank API in the shape of Cohere and Jina, such as http://localhost:8000/v1, for "
        "the scorers endpoint:MODEL.",
    )
    rerank_key: SecretStr | None = Field(
        default=None, description="Key that is sent to `rerank_url`, and nowhere else."
    )
    rerank_seconds: float = Field(
        default=60.0, gt=0, description="Seconds that a rerank call may take, the loading of its scorer included."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of the worker's `/livez`, `/readyz` and `/metrics`; 0: a free one, logged. Unset: none.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address on which `metrics_port` listens.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level of the log lines that are written."
    )


def with_options(settings: Settings, **options: object) -> Settings:
    """Settings with the options that were given on the command line; None is one that was not."""
    given = {name: value for name, value in options.items() if value is not None}
    return Settings.model_validate(settings.model_dump() | given)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """What is wrong with variables that look like settings and are none, a sentence each.

    Kubernetes puts variables such as SIGHTLINE_SERVICE_HOST into every container beside a service named sightline.
    """
    sentences = []
    for variable in sorted(environment):
        prefix, name = variable[:10].upper(), variable[10:].lower()
        if prefix != "SIGHTLINE_" or name in Settings.model_fields or _OF_KUBERNETES.search(variable):
            continue
        near = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.7)
        advice = f": did you mean SIGHTLINE_{near[0].upper()}?" if near else ""
        sentences.append(f"{variable} is no setting and has no effect{advice}")
    return sentences


def libpq_url(url: str) -> str:
    """A database URL without SQLAlchemy's driver name: postgresql+psycopg://... becomes postgresql://..."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)

"""Redis behind TLS: client and worker reach it with the authority's certificate, and talk to nobody else."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sightline.broker import Broker
from sightline.client import Sightline
from sightline.errors import ServiceMissing
from sightline.settings import Settings
from tests.workers.processes import Workers

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make certificates with")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """A certificate authority; its certificate."""
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-addext", "keyUsage=keyCertSign")  # fmt: skip
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ours.pem, an authority; server.pem, which it signed for 127.0.0.1; theirs.pem, another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ours")
    authority(folder, "theirs")
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=redis",
            "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ours.pem", "-CAkey", "ours.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.pem")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tls_url(redis_url: str, certificates: Path) -> Iterator[str]:
    """The same Redis behind a server that speaks TLS, for the one of the wheel does not; without an authority."""
    plain = urlsplit(redis_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        try:
            inside = context.wrap_socket(raw, server_side=True)
        except OSError:  # a client that does not trust us
            raw.close()
            return
        behind = socket.create_connection((plain.hostname, plain.port))
        opened.extend([inside, behind])
        threading.Thread(target=pass_on, args=(inside, behind), daemon=True).start()
        pass_on(behind, inside)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"rediss://{plain.username}:{plain.password}@127.0.0.1:{listener.getsockname()[1]}/0"
    listener.close()
    for end in opened:
        end.close()


def test_client_and_worker_speak_tls_and_check_whom_they_speak_to(
    tls_url: str, certificates: Path, space: str, database_url: str, settings: Settings, start_worker: Workers
) -> None:
    trusted = f"{tls_url}?ssl_ca_certs={certificates / 'ours.pem'}"
    worker = start_worker(redis_url=trusted, metrics_port=0)
    assert worker.red() == set()
    with Sightline(database_url, trusted, settings=settings) as sl:
        assert sl.ingest([{"text": "over tls"}], collection="tls").wait(timeout=30).done == 1
        assert [hit.text for hit in sl.search(text="over tls", modality="text", k=1)] == ["over tls"]
    assert worker.terminate() == 0


@pytest.mark.parametrize("query", ["", "?ssl_ca_certs={folder}/theirs.pem"])
def test_a_server_that_nobody_vouches_for_gets_nothing(tls_url: str, certificates: Path, query: str) -> None:
    broker = Broker(tls_url + query.format(folder=certificates), "tls:")
    with pytest.raises(ServiceMissing, match="certificate verify failed"):
        broker.call("encode.interactive", {"kind": "encode"}, 2.0)
    broker.close()


def test_a_worker_does_not_start_on_a_server_that_nobody_vouches_for(
    tls_url: str, certificates: Path, start_worker: Workers
) -> None:
    worker = start_worker(redis_url=f"{tls_url}?ssl_ca_certs={certificates / 'theirs.pem'}", ready=False)
    assert worker.wait(60) == 3

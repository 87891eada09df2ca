"""Forms of a source: Python and SQL say the same of each."""

from __future__ import annotations

import psycopg
import pytest

from sightline.errors import UsageError
from sightline.item import Item, expand
from sightline.sources import name_of_uri, shown, uri_problem

FORMS = {
    "file:///a.png": None,
    "http://host/a.png": None,
    "HTTPS://Host:8443/a.png?x=1": None,
    "https://host?x=a@b": None,
    "s3://bucket/a@b.png": None,
    "abfs://box@account.dfs.core.windows.net/a.png": None,
    "gs://bucket/a": None,
    "file://host/a.png": "a file's uri begins with file:///",
    "ftp://host/a.png": "a uri must begin with",
    "a.png": "a uri must begin with",
    "": "a uri must begin with",
    "data:image/png;base64,AAAA": "a uri must begin with",
    "https:///a.png": "names no host",
    "s3://": "names no host",
    "http://?x": "names no host",
    "https://user@host/a.png": "user or password",
    "https://user:pw@host": "user or password",
}


@pytest.mark.parametrize("uri", FORMS)
def test_python_and_sql_judge_a_form_alike(connection: psycopg.Connection, uri: str) -> None:
    problem = uri_problem(uri)
    assert (FORMS[uri] is None) is (problem is None)
    assert (FORMS[uri] or "") in (problem or "")
    row = connection.execute("select sightline.uri_problem(%s)", (uri,)).fetchone()
    assert row == (problem,)


def test_what_is_plain_to_sql_has_no_problem(connection: psycopg.Connection) -> None:
    for uri, problem in FORMS.items():
        plain = connection.execute(
            "select sightline.is_plain_item(jsonb_build_object('uri', %s::text), '{image}')", (uri,)
        ).fetchone()
        assert plain is not None
        assert not (plain[0] and problem), uri


def test_messages_do_not_show_the_key_of_a_link() -> None:
    assert shown("https://user:pw@host:1/a.png?sig=secret#x") == "https://host:1/a.png?..."
    assert shown("https://[bad/a.png?sig=secret") == "https://[bad/a.png"
    assert shown("s3://bucket/a?b") == "s3://bucket/a?b"


def test_a_link_that_is_signed_anew_names_the_same_item() -> None:
    assert name_of_uri("https://b.s3.amazonaws.com/a.png?X-Amz-Date=1&X-Amz-Signature=2&versionId=3") == (
        "https://b.s3.amazonaws.com/a.png?versionId=3"
    )
    assert name_of_uri("https://a.blob.core.windows.net/c/a.png?sv=1&se=2&sr=b&sp=r&sig=3") == (
        "https://a.blob.core.windows.net/c/a.png"
    )
    assert name_of_uri("https://cdn/a.png?Expires=1&Signature=2&Key-Pair-Id=3") == "https://cdn/a.png"
    # not signed: each is an item of its own
    assert name_of_uri("https://host/show?id=7&sp=2&se=x") == "https://host/show?id=7&sp=2&se=x"
    assert name_of_uri("s3://bucket/a.png") == "s3://bucket/a.png"


def test_a_folder_of_objects_takes_no_name_of_one_item() -> None:
    with pytest.raises(UsageError, match="s3://shop/photos/ is a folder of many items"):
        list(expand(Item(uri="s3://shop/photos/", external_id="a"), None))

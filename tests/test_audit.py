"""The audit of dependencies fails for a known vulnerability and for nothing else."""

from __future__ import annotations

import json

from tests.audit import judge


def test_a_vulnerability_fails_with_its_remedy() -> None:
    answer = {
        "dependencies": [
            {"name": "fine", "version": "1", "vulns": []},
            {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}]},
            {"name": "unknown", "skip_reason": "not found"},
        ]
    }  # fmt: skip
    code, said = judge(json.dumps(answer), "")
    assert code == 1
    assert said.splitlines() == [
        "bad 2: PYSEC-1, mended in 3",
        "bad 2: CVE-2, mended in no version yet",
        "2 of 3 pinned versions were audited",
    ]


def test_what_could_not_be_audited_is_said_and_does_not_fail() -> None:
    code, said = judge(json.dumps({"dependencies": [{"name": "unknown", "skip_reason": "not found"}]}), "")
    assert (code, said) == (0, "0 of 1 pinned versions were audited")
    assert judge("", "Traceback\nConnectionError: no network") == (0, "not audited: ConnectionError: no network")
    assert judge("", "") == (0, "not audited: no reason was given")

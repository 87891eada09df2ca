"""What jobs and calls look like on the wire and in the ledger, version by version.

The models here are the source: `python -m sightline.contracts` makes from them the JSON Schemas in docs/contracts, the
tables in docs/contracts.md and the rows of the table `job_contract`.
"""

from __future__ import annotations

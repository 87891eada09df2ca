"""`python -m workers`: start one worker process."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from pydantic import ValidationError

from sightline.contracts.registry import JOBS, served_kinds
from sightline.errors import SightlineError
from sightline.settings import Settings
from workers.logs import configure_logs
from workers.preflight import check_services


def main() -> int:
    """Run a worker until it is told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workers", description="Take work from Redis, write vectors and captions to Postgres."
    )
    kinds = served_kinds(JOBS)
    parser.add_argument(
        "--queues", default=",".join(kinds), help=f"comma-separated: KIND, or KIND.POOL for one pool, of {kinds}"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: SIGHTLINE_DEVICE)")
    arguments = parser.parse_args()
    queues = [queue.strip() for queue in arguments.queues.split(",") if queue.strip()]
    if not queues or any(queue.split(".")[0] not in kinds for queue in queues):
        parser.error(f"--queues {arguments.queues!r}: expected KIND or KIND.POOL, KIND one of {', '.join(kinds)}")
    try:
        settings = Settings(**({"device": arguments.device} if arguments.device else {}))
        configure_logs(settings.log_level)
        check_services(settings)
        from workers.service import Service  # loads torch

        return Service(settings, queues).run()
    except ValidationError as error:
        wrong = [f"SIGHTLINE_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        sys.stderr.write(f"settings: {'; '.join(wrong)}\n")
        return 3
    except KeyboardInterrupt:  # before the service has its own handler
        return 0
    except SightlineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # Threads that hang in a forward, or that Celery never joins, must not keep the process.
    os._exit(code)

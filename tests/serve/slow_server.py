"""A server of slow words, as many as asked for: `python -m tests.serve.slow_server GRACE [NAME]`."""

from __future__ import annotations

import sys

from rgpt.serve.app import create_app
from rgpt.serve.server import listen, run
from rgpt.serve.service import Service
from rgpt.serve.settings import Settings
from tests.serve.fakes import FakeLog


def main() -> int:
    log = FakeLog(lambda session, question: [f"word{i} " for i in range(int(question))], pause=0.02)
    service = Service(log.session, Settings(grace=float(sys.argv[1]), max_running=2))
    app = create_app(service, [*sys.argv[2:], "slow"])
    return run(app, service, listen("127.0.0.1", 0), lambda address: f"at {address}")


if __name__ == "__main__":
    sys.exit(main())

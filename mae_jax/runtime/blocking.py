"""Blocks signals before a command imports anything else; `signals` delivers them later. Imports next to nothing."""

import signal

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def block() -> None:
    """Blocks signals until `signals.release` or `signals.collect_signals(alone=True)`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)

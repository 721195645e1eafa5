"""Errors whose message is written for the user: shown without a traceback by every command."""


class MSMLFFError(Exception):
    """Base of all errors raised on purpose."""


class InputError(MSMLFFError):
    """Input that cannot be used. The message names the file, frame or config key and says what to write."""


class DivergenceError(MSMLFFError):
    """A computation left the physical range (NaN loss, exploding trajectory)."""

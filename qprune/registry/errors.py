"""The errors that a user can mend."""

from qprune.registry.show import printable


class UserError(Exception):
    """Bad input: the message names the place, the value and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))  # it may quote a file whose name isn't UTF-8


class BadInput(UserError, ValueError):
    """An argument of the library that can't be what was meant."""

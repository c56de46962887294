"""The errors that a user can mend."""


class UserError(Exception):
    """Bad input: the message names the place, the value and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """

"""The one exception for what a user can mend."""


class UserError(Exception):
    """Says what was found, what was expected, what follows and what to do next, in one line.

    The command line prints it without a traceback and ends with exit code 1.
    """

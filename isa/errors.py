"""The one exception for mistakes of the user."""


class UserError(ValueError):
    """Bad input: a file, a field or an option that cannot be used.

    The message is one line that names the file, the field, the value found and what would be
    right. The command line prints it as it is and exits with status 2.
    """

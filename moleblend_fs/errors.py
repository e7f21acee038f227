"""The one exception that stands for a mistake the user can mend."""


class UserError(ValueError):
    """Wrong input from outside: says what, where and how to mend it.

    Commands print its message without a traceback and exit with code 2.
    """

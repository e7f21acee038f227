"""The one exception that stands for a mistake that the user can correct."""

import re

_IN_A_WORKER = re.compile(r"Caught \w+ in .*\nmoleblend_fs[\w.]*: ", re.DOTALL)
"""How torch's loader begins the message of an exception that it hands on from one of its processes: with a traceback."""


class UserError(ValueError):
    """Wrong input from outside: says what, where and how to correct it.

    Commands print its message without a traceback and exit with code 2.
    """

    def __init__(self, message: object = "", *more: object):
        text = _IN_A_WORKER.sub("", message, count=1).rstrip("\n") if isinstance(message, str) else message
        super().__init__(text, *more)

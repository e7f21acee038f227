"""argparse, with a command's words and options in any order, and options by their whole names."""

import argparse
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """A command's parser.

    argparse itself lets an argument that may lack, such as OUT in `finetune DATA --target logS OUT`, lack as soon as an option
    follows the others, and then refuses the word. It also takes the beginning of an option's name for it: `--out FOLDER` for
    `--output-scale`.
    """

    _in_parts = False
    """argparse parses options and words one after the other, by calling the same method twice."""

    def __init__(self, **given: Any):
        super().__init__(**{"allow_abbrev": False, **given})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """As the class it comes from, but for the order."""
        if self._in_parts:
            return super().parse_known_args(args, namespace)
        self._in_parts = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        except TypeError:  # commands within commands, whose words are another parser's
            return super().parse_known_args(args, namespace)
        finally:
            self._in_parts = False

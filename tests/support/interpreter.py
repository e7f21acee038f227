"""Triton's interpreter without what it does for nothing, half of its time; what it computes and refuses is the same.

Each call of a function from a kernel would look through all of `triton.language` for what is to be replaced, which the kernel's own
start has replaced already; and each sum, difference and product of integers would be computed once more, in 64 bits, for an assertion
that is left out where `debug` is off, as it always is.
"""

import functools
from collections.abc import Callable
from typing import Any


def hasten() -> None:
    """Change the interpreter of this process. A version of Triton without these parts is left as it is."""
    from triton.runtime import interpreter

    options = interpreter.interpreter_builder.options
    if hasattr(options, "sanitize_overflow") and not options.debug:
        interpreter.interpreter_builder.options = type(options)(**{**vars(options), "sanitize_overflow": False})
    changed = hasattr(getattr(interpreter, "_patch_lang", None), "__wrapped__")
    if not changed and hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = once(interpreter)


def once(interpreter: Any) -> Callable[[Any], Any]:
    """`_patch_lang` that does nothing for modules whose functions are replaced at the time.

    The interpreter restores what a kernel's start has replaced when it ends, and never what calls of functions have.
    """
    replace, languages = interpreter._patch_lang, [interpreter.tl, interpreter.tl.core]
    by_kernel: set[str] = set()
    by_call: set[str] = set()

    @functools.cache
    def named_by(fn: Any) -> frozenset[str]:
        return frozenset(module.__name__ for module in languages if any(value is module for value in fn.__globals__.values()))

    def patch_lang(fn: Any) -> Any:
        named = named_by(fn)
        if by_kernel and named <= by_kernel | by_call:
            return interpreter._LangPatchScope()
        scope = replace(fn)
        if by_kernel:
            by_call.update(named)
            return scope
        by_kernel.update(named)
        restore = scope.restore

        def ended() -> None:
            by_kernel.clear()
            restore()

        scope.restore = ended
        return scope

    patch_lang.__wrapped__ = replace  # type: ignore[attr-defined]
    return patch_lang

"""Triton's interpreter without what it does for nothing, two thirds of its time; what it computes and refuses is the same.

Each call of a function from a kernel would look through all of `triton.language` for what is to be replaced, which the kernel's own
start has replaced already; each sum, difference and product of integers would be computed once more, in 64 bits, for an assertion
that is left out where `debug` is off, as it always is; and each value would make its type, its shape and the type of its shape anew.
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
        types_once(interpreter)


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


def types_once(interpreter: Any) -> None:
    """Types of blocks, shapes of values and NumPy's types are made once each, the type of a tuple of constants where it is asked for; and
    what is there already is given back sooner."""
    core = interpreter.tl.core
    for owner, name, quick in (
        (core, "_unwrap_if_constexpr", unwrapped(core)),
        (interpreter.TritonSemantic, "broadcast_impl_value", of_one_shape(interpreter)),
        (interpreter, "_patch_attr", patched(interpreter)),
        (core.block_type, "__init__", block_type(core)),
        (core.tensor, "__init__", tensor(core)),
        (core.tuple, "__init__", tuple_of_constants(core)),
        (interpreter, "_get_np_dtype", numpy_type(interpreter)),
    ):
        quick.__wrapped__ = getattr(owner, name)  # type: ignore[attr-defined]
        setattr(owner, name, quick)
    core.tuple.type = property(type_of_tuple(core), lambda self, value: vars(self).__setitem__("_type", value))


def unwrapped(core: Any) -> Callable[[Any], Any]:
    """`_unwrap_if_constexpr` that looks first whether it is asked for one of what it mostly is, and gives back."""
    unwrap, kept = core._unwrap_if_constexpr, {int, float, bool, str, type(None), core.tensor, core.dtype, core.block_type}
    return lambda o: o if o.__class__ in kept else unwrap(o)


def of_one_shape(interpreter: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """`broadcast_impl_value` that gives back two blocks of one shape, without asking so for each of their sizes."""
    broadcast = interpreter.TritonSemantic.broadcast_impl_value

    def quick(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        one, other = lhs.type, rhs.type
        if one.is_block() and other.is_block() and one.shape.values == other.shape.values:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    return quick


def patched(interpreter: Any) -> Callable[..., None]:
    """`_patch_attr` whose functions pass on what they are given, without a copy of its names."""

    def patch(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        semantic = interpreter.TritonSemantic(builder)

        def new_member(*args: Any, member: Any = member, **kwargs: Any) -> Any:
            kwargs["_semantic"] = semantic
            return member(*args, **kwargs)

        scope.set_attr(obj, name, new_member)

    return patch


def block_type(core: Any) -> Callable[..., None]:
    """`block_type.__init__` that fills in what the first one of the same elements and sizes has; sizes that are refused are none's."""
    make, known = core.block_type.__init__, {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple([size.value if size.__class__ is core.constexpr else size for size in shape])
        if not isinstance(shape, (list, core.tuple)) or set(map(type, sizes)) != {int}:
            return make(self, element_ty, shape)
        key = (type(element_ty), element_ty.name, getattr(element_ty, "address_space", None), sizes)
        if key not in known:
            make(self, element_ty, shape)
            known[key] = vars(self) | {"of_tensors": (core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(self.numel))}
        vars(self).update(known[key], element_ty=element_ty)

    return init


def tensor(core: Any) -> Callable[..., None]:
    """`tensor.__init__` that takes shape and number of elements from its type."""
    make, of_scalars = core.tensor.__init__, (core.tuple([]), core.constexpr(1))

    def init(self: Any, handle: Any, type: Any) -> None:
        parts = vars(type).get("of_tensors") if type.is_block() else of_scalars
        if parts is None:
            return make(self, handle, type)
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = parts

    return init


def tuple_of_constants(core: Any) -> Callable[..., None]:
    """`tuple.__init__` that makes no type where all values are constants."""
    make, constants = core.tuple.__init__, {core.constexpr, int}

    def init(self: Any, args: Any, type: Any = None) -> None:
        values = list(args)
        if type is None and constants.issuperset([value.__class__ for value in values]):
            self.values = values
        else:
            make(self, values, type)

    return init


def type_of_tuple(core: Any) -> Callable[[Any], Any]:
    """What is read as a tuple's `type`: what it was given, or the one of its constants."""
    return lambda self: vars(self).get("_type") or core._type_for_tuple_values(self.values)


def numpy_type(interpreter: Any) -> Callable[[Any], Any]:
    """`_get_np_dtype` that makes its table of types once."""
    find, core = interpreter._get_np_dtype, interpreter.tl.core
    known: dict[str, Any] = {}

    def get(tt_dtype: Any) -> Any:
        element = tt_dtype.element_ty if isinstance(tt_dtype, core.block_type) else tt_dtype
        if type(element) is not core.dtype:
            return find(tt_dtype)  # pointers
        if element.name not in known:
            known[element.name] = find(tt_dtype)
        return known[element.name]

    return get

"""A check that Keras calls the methods that the proxies of an optimizer override.

If a version of Keras drops, renames or no longer calls a hook, overriding it has no effect: the L2
term is missing, or a frozen variable moves. So the check follows the code of the optimizer's
`apply` from method to method. It computes nothing, so random state, traces and devices stay
unaffected.
"""

import functools
import inspect
import types

from keras_norm import _keras
from keras_norm._contents import cell_contents


def check_hooks(optimizer):
    """Checks that `apply` of an optimizer's class reaches every method that a proxy overrides.

    Raises:
        RuntimeError: If it does not; the message names Keras's version.
    """
    kind = type(optimizer)
    reached = _reached(kind, "apply")
    missing = [name for name in _keras.HOOKS if name not in reached]
    # PyTorch updates many variables in one call, where the optimizer can.
    if "update_step" in missing and reached.keys() & _keras.PARALLEL_HOOK.keys():
        missing.remove("update_step")
    missing += [name for name in _keras.OPTIMIZER if not _has(optimizer, name)]
    if missing:
        raise _keras.outdated(
            f"`{kind.__name__}.apply` does not call, or its class no longer has, "
            f"{', '.join(f'`{name}`' for name in dict.fromkeys(missing))}, which "
            "MultiplierOptimizer needs to set the learning rate, L2 and weight decay of a variable"
        )


def _has(optimizer, name):
    # Averages exist only in an optimizer that was built with `use_ema`.
    return name == "_model_variables_moving_average" or hasattr(optimizer, name)


def _reached(kind, start):
    """Returns the names of the methods of a class that one method calls, directly or not."""
    reached: dict[str, None] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        definitions = [vars(base)[name] for base in kind.__mro__ if name in vars(base)]
        if definitions:
            reached[name] = None
        for definition in definitions:
            names = _names(definition)
            waiting += names
            if "super" not in names and name not in names:
                break  # the definitions of the parents are not called
    return reached


def _names(definition):
    """Returns the names that a function, a property or a wrapper of one looks up."""
    found: set[str] = set()
    functions, seen = [definition], set()
    while functions:
        function = functions.pop()
        if isinstance(function, property):
            functions += [f for f in (function.fget, function.fset) if f is not None]
        elif isinstance(function, (staticmethod, classmethod, types.MethodType)):
            functions.append(function.__func__)
        elif isinstance(function, functools.partial):
            functions.append(function.func)
        elif isinstance(function, types.FunctionType) and function not in seen:
            seen.add(function)
            found |= _names_of_code(function.__code__)
            functions.append(inspect.unwrap(function))
            for cell in function.__closure__ or ():
                functions += filter(callable, cell_contents(cell))
    return found


def _names_of_code(code):
    nested = [_names_of_code(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*nested)

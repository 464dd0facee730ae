"""Forward hooks: functions that are called before and after a module computes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..autograd.node import Hook

if TYPE_CHECKING:
    from .module import Module


class ForwardHooks:
    """The hooks of one module, in the order of their calls, each with whether it takes the keywords."""

    def __init__(self):
        self.before: dict[int, Any] = {}
        self.after: dict[int, Any] = {}

    def call(self, module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `module(*args, **kwargs)` gives."""
        # Of a copy each time, so that a hook may remove itself.
        for hook, with_kwargs in tuple(self.before.values()):
            given = hook(module, args, kwargs) if with_kwargs else hook(module, args)
            if given is None:
                continue
            if not with_kwargs:
                args = given if isinstance(given, tuple) else (given,)
            elif isinstance(given, tuple) and len(given) == 2:
                args, kwargs = given
            else:
                raise TypeError(
                    "a forward pre-hook with keywords must return None or a pair (args, kwargs), got "
                    f"{type(given).__name__}"
                )
        output = module.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self.after.values()):
            given = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            output = output if given is None else given
        return output


def added(hooks: dict[int, Any], hook: Callable[..., Any], prepend: bool, with_kwargs: bool) -> Hook:
    """Add a hook after the others, or before them; the result takes it away."""
    if not callable(hook):
        raise TypeError(f"a forward hook must be a function, got {type(hook).__name__}")
    others = list(hooks)
    handle = Hook(hooks, (hook, with_kwargs))
    for key in others if prepend else ():
        hooks[key] = hooks.pop(key)
    return handle

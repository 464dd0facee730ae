"""An op: its forward function and its gradient rules, and the plans that are made from these.

A plan is what one set of inputs that need gradients makes of the rules: which values a node must keep,
and functions that call each rule with just what it names.
"""

import copy
import functools
import sys
from collections.abc import Callable, Container, Sequence
from types import CodeType, FunctionType
from typing import Any

from .autograd.node import HERE, Hooks
from .backend import Array

_SPECIAL = ("g", "xp", "shape", "dtype", "i", "out", "kept", "wanted")


class Op:
    """A primitive: its forward function, its rules, and the plans made from them so far."""

    def __init__(
        self, name: str, forward: Callable[..., Array], parameters: list[str], rules, variadic, hint
    ):
        self.name = name
        self.forward = forward
        self.parameters = parameters
        self.rules = rules
        self.variadic = variadic  # whether the last parameter stands for any number of inputs
        self.hint = hint
        # How many of them have no default.
        self.required = sys.maxsize if variadic else len(parameters) - len(forward.__defaults__ or ())
        self.plans: dict[Any, Plan] = {}
        taken = [p for p in parameters if p in ("g", "i", "out", "kept", "wanted", "xp")]
        if taken:
            raise TypeError(f"{name}: a rule means something else by {taken}; name the parameter otherwise")
        known = {*_SPECIAL, *parameters}
        for input_name, rule in rules.items():
            if not isinstance(rule, FunctionType):
                got = type(rule).__name__
                raise TypeError(f"{name}: the rule of {input_name!r} must be a function, got {got}")
            names = parameters_of(rule.__code__)
            # A rule of several inputs has no shape or dtype that is that of its one input.
            allowed = known - {"shape", "dtype", "i"} | {*parameters} if "wanted" in names else known
            unknown = [n for n in (input_name, *names) if n not in allowed]
            if unknown:
                raise TypeError(f"{name}: the gradient rule of {input_name!r} names unknown {unknown}")

        self.keeps = any("kept" in parameters_of(rule.__code__) for rule in rules.values())
        # The places of the arguments that have a rule; a variadic parameter stands for all that follow.
        self.differentiable: Any = {i for i, p in enumerate(parameters) if p in rules}
        if variadic and parameters[-1] in rules:
            self.differentiable = range(len(parameters) - 1, sys.maxsize)

    def rule_of(self, slot: int) -> Callable[..., Any]:
        """The rule of the input in that place."""
        return self.rules[self.parameters[min(slot, len(self.parameters) - 1)]]

    def plan(self, needed: int, count: int) -> "Plan":
        """What to keep and to compute when, of `count` arguments, those whose bits are set need gradients."""
        key = (needed, count) if self.variadic else needed
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = Plan(self, needed, count)
        return plan


class Plan:
    """A choice of rules, made into fast functions once for each set of inputs that need a gradient.

    Attributes:
        op, name: the op, and its name.
        slots: the places of those inputs among the arguments.
        save: a function of (out, kept, *arguments) that gives the tuple of those the rules name; or just the
            one, where there is a `single` one.
        places: where in that tuple the argument of a slot is (-1 for `out`, -2 for `kept`), if it is kept.
        rules: for each slot, a function of (xp, g, parent, saved) that calls the rule with what it names.
        joint: the rules that serve several slots: functions of (xp, g, wanted, saved), each with the
            positions in `slots` of its inputs, and their names.
        hooks: see `Tensor.register_hook`; empty in a plan that nodes share.
    """

    __slots__ = ("hooks", "joint", "name", "op", "places", "rules", "save", "single", "slots")

    def __init__(self, op: Op, needed: int, count: int):
        self.op = op
        self.name = op.name
        self.hooks: Hooks = {}
        self.slots = tuple(slot for slot in range(count) if needed >> slot & 1)
        rules = []
        for slot in self.slots:
            rule = op.rule_of(slot)
            rules.append((slot, rule, parameters_of(rule.__code__)))
        named = {name for _, _, names in rules for name in names}
        # A variadic parameter spreads over the end of `saved`, so `out` and `kept` come before it.
        order = ["out", *op.parameters]
        saved = [name for name in ("out", "kept", *op.parameters) if name in named]
        self.places = {-2 if name == "kept" else order.index(name) - 1: i for i, name in enumerate(saved)}
        if op.variadic and op.parameters[-1] in saved:
            first = len(op.parameters) - 1
            self.places |= {slot: self.places[first] + slot - first for slot in range(first, count)}
        source = {name: name for name in ("g", "xp", "wanted")}
        source |= {"shape": "parent.shape", "dtype": "parent.dtype"}
        # One value alone is kept without a tuple around it.
        self.single = len(saved) == 1 and not op.variadic
        source |= {name: "saved" if self.single else f"saved[{i}]" for i, name in enumerate(saved)}
        stars = dict.fromkeys(op.parameters, "")
        if op.variadic:
            last = op.parameters[-1]
            stars[last] = "*"
            source[last] = f"saved[{len(saved) - 1}:]"
        arguments = ", ".join(stars[name] + name for name in op.parameters)
        values = "".join(stars.get(name, "") + name + ", " for name in saved)
        self.save = compiled(f"lambda out, kept, {arguments}: {saved[0] if self.single else f'({values})'}")

        def call(slot: int, rule: Callable[..., Any], names: list[str], third: str) -> Callable[..., Any]:
            given = (str(slot - len(op.parameters) + 1) if n == "i" else source[n] for n in names)
            return compiled(f"lambda xp, g, {third}, saved: rule({', '.join(given)})", rule=rule)

        self.rules = tuple(call(slot, rule, names, "parent") for slot, rule, names in rules)
        several = {rule: names for _, rule, names in rules if "wanted" in names}
        self.joint = [
            (
                call(0, rule, names, "wanted"),
                [(k, op.parameters[slot]) for k, (slot, its, _) in enumerate(rules) if its is rule],
            )
            for rule, names in several.items()
        ]

    def together(
        self, xp: Any, g: Any, parents: Sequence[Any], saved: Any, needed: Container[Any] | None
    ) -> Sequence[Callable[..., Any]]:
        """`rules`, with the joint ones called: each for those of its inputs whose gradients are `needed`."""
        rules = list(self.rules)
        for rule, inputs in self.joint:
            wanted = tuple(name for k, name in inputs if needed is None or parents[k] in needed)
            gradients = rule(xp, g, wanted, saved) if wanted else {}
            for k, name in inputs:
                rules[k] = functools.partial(_given, gradients.get(name))
        return rules

    def with_hooks(self) -> "Plan":
        """The same plan, for one node alone, to which hooks can be added."""
        plan = copy.copy(self)
        plan.hooks = {}
        return plan


def compiled(source: str, **names: Any) -> Any:
    """The function that `source` spells; its frames count as this package's."""
    return eval(compile(source, HERE + "<primitive>", "eval"), names)


def _given(gradient: Any, *_: Any) -> Any:
    return gradient


def parameters_of(code: CodeType) -> list[str]:
    """The names of the parameters, without those that take any number."""
    return list(code.co_varnames[: code.co_argcount])

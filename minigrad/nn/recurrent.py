"""Recurrent layers over sequences, and their cells for one step: torch's names, arguments and layouts."""

import math
from typing import Any

from .. import ops
from ..backend import integer
from ..ops.recurrence import gru_step, lstm_step, recurrence, rnn_step
from ..ops.recurrence_kernels import GATES
from ..tensor import Tensor
from . import functional, init
from .module import Module
from .parameter import Parameter


class _Recurrent(Module):
    """Layers of one kind of cell, each over the states of the one below, in one direction or in both.

    Subclasses set `cell`, a key of `GATES`.
    """

    cell: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
        device: str | None = None,
    ):
        _check_sizes(self, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"{_name(self)}: dropout must be from 0 to 1, got {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        for layer in range(num_layers):
            inputs = hidden_size * (1 + bidirectional) if layer else input_size
            for suffix in self._suffixes(layer):
                _add_weights(self, suffix, GATES[self.cell], inputs, hidden_size, bias, dtype, device)
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        """What the names of a layer's parameters end in, for each of its directions."""
        return [f"_l{layer}", f"_l{layer}_reverse"] if self.bidirectional else [f"_l{layer}"]

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        _reset(self, self.hidden_size)

    def _run(self, x: Tensor, states: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """The last layer's output, and what the states of all layers and directions are at the end.

        `states` are h, and with an LSTM c, as `forward` takes them, or None for zeros.
        """
        name = _name(self)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            axes = "batch, steps" if self.batch_first else "steps, batch"
            raise ValueError(
                f"{name}: expected input of shape ({axes}, {self.input_size}), or (steps, {self.input_size}) "
                f"without a batch, got {x.shape}"
            )
        batched = x.ndim == 3
        if not batched:
            x = ops.expand_dims(x, 1)
        elif self.batch_first:
            x = ops.swapaxes(x, 0, 1)
        if not x.shape[0]:
            raise ValueError(f"{name}: expected at least one step, got input of no steps")
        directions = 1 + self.bidirectional
        count, batch = self.num_layers * directions, x.shape[1]
        expected = (count, batch, self.hidden_size) if batched else (count, self.hidden_size)
        if states is None:
            zeros = ops.zeros((batch, self.hidden_size), dtype=x.dtype, device=x.device)
            begin = [[zeros] * count] * (1 + (self.cell == "lstm"))
        else:
            for state in states:
                if state.shape != expected:
                    raise ValueError(
                        f"{name}: expected initial states of shape {expected}, got {state.shape}"
                    )
            begin = [ops.unstack(s if batched else ops.expand_dims(s, 1)) for s in states]
        ends: list[list[Tensor]] = [[] for _ in begin]
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = functional.dropout(x, self.dropout, self.training)
            outs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                weights = _weights(self, suffix)
                h, *c = (states[layer * directions + direction] for states in begin)
                out, *last = recurrence(self.cell, x, [h, *c], weights, reverse=direction == 1)
                outs.append(out)
                for end, state in zip(ends, last, strict=True):
                    end.append(state)
            x = ops.concat(outs, axis=-1) if directions > 1 else outs[0]
        if not batched:
            x = x[:, 0]
        elif self.batch_first:
            x = ops.swapaxes(x, 0, 1)
        return x, [ops.stack(end) if batched else ops.concat(end) for end in ends]

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        plain = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        own = {name: getattr(self, name) for name in plain}
        parts += [f"{name}={value}" for name, value in own.items() if value != plain[name]]
        return ", ".join(parts)


class RNN(_Recurrent):
    """The plain recurrent net: h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu of it.

    Args:
        input_size, hidden_size: the lengths of an input and of the state h.
        num_layers: how many layers there are; each after the first reads the states of the one below.
        nonlinearity: 'tanh' or 'relu'.
        bias: whether there are b_ih and b_hh.
        batch_first: whether input and output are (batch, steps, …), not (steps, batch, …).
        dropout: the probability for dropout between layers, in training.
        bidirectional: whether each layer also runs from the last step to the first, with weights of its
            own; its output is both states beside each other.

    The parameters have torch's names, `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0` and so on,
    with `_reverse` for the second direction. All begin spread evenly over ±1/sqrt(hidden_size).

    Raises:
        TypeError, ValueError: sizes are no positive integers, or `nonlinearity` or `dropout` is none.

    >>> import minigrad as mg
    >>> output, h_n = mg.nn.RNN(3, 5, num_layers=2)(mg.ones((7, 4, 3)))
    >>> output.shape, h_n.shape
    ((7, 4, 5), (2, 4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.cell = self.nonlinearity = _checked_nonlinearity(self, nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, device
        )

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The states of the last layer after each step, and the last states of all layers.

        Args:
            input: (steps, batch, input_size), or without the batch; see `batch_first`.
            hx: the states before the first step, (layers * directions, batch, hidden_size), or without
                the batch; zeros by default.

        Raises:
            ValueError: shapes do not fit, or there is no step.
        """
        output, (h,) = self._run(input, None if hx is None else [hx])
        return output, h

    def extra_repr(self) -> str:
        tail = "" if self.nonlinearity == "tanh" else ", nonlinearity='relu'"
        return super().extra_repr() + tail


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al., 2014), with the reset gate behind the product, as in torch.

    r, z = sigmoid(W x_t + b + W' h_(t-1) + b') each, n = tanh(W x_t + b + r * (W' h_(t-1) + b')) and
    h_t = (1 - z) * n + z * h_(t-1); the weights of r, z and n lie below each other in one.
    Arguments and parameters are those of `RNN`, but for `nonlinearity`.
    """

    cell = "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The states of the last layer after each step, and the last states of all layers; see `RNN`."""
        output, (h,) = self._run(input, None if hx is None else [hx])
        return output, h


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with forget gates (Gers et al., 2000).

    i, f, o = sigmoid(W x_t + b + W' h_(t-1) + b') each, g = tanh(of the same), c_t = f * c_(t-1) + i * g
    and h_t = o * tanh(c_t); the weights of i, f, g and o lie below each other in one.
    Arguments and parameters are those of `RNN`, but for `nonlinearity`. (torch's `proj_size` is missing.)

    >>> import minigrad as mg
    >>> output, (h_n, c_n) = mg.nn.LSTM(3, 5, bidirectional=True)(mg.ones((7, 4, 3)))
    >>> output.shape, h_n.shape, c_n.shape
    ((7, 4, 10), (2, 4, 5), (2, 4, 5))
    """

    cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = None,
        device: str | None = None,
    ):
        if proj_size:
            raise ValueError(f"LSTM: there are no projections, proj_size must be 0, got {proj_size}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, device
        )

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The states h of the last layer after each step, and the last (h, c) of all layers.

        Args:
            input: (steps, batch, input_size), or without the batch; see `batch_first`.
            hx: h and c before the first step, each (layers * directions, batch, hidden_size), or without
                the batch; zeros by default.

        Raises:
            TypeError: `hx` is no pair.
            ValueError: shapes do not fit, or there is no step.
        """
        output, (h, c) = self._run(input, None if hx is None else list(_pair(self, hx)))
        return output, (h, c)


# --- one step ----------------------------------------------------------------------------------------


class _Cell(Module):
    """One step of a recurrent net, with the weights of one layer; subclasses set `cell`."""

    cell: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        _check_sizes(self, input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        _add_weights(self, "", GATES[self.cell], input_size, hidden_size, bias, dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        _reset(self, self.hidden_size)

    def _begin(self, x: Tensor, states: list[Tensor] | None, count: int = 1) -> tuple[list[Any], list[Any]]:
        """What the input gives to the gates, with the states; and the weights of these."""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{_name(self)}: expected input of shape (batch, {self.input_size}), or "
                f"({self.input_size},), got {x.shape}"
            )
        shape = (*x.shape[:-1], self.hidden_size)
        if states is None:
            states = [ops.zeros(shape, dtype=x.dtype, device=x.device)] * count
        for state in states:
            if state.shape != shape:
                raise ValueError(f"{_name(self)}: expected a state of shape {shape}, got {state.shape}")
        weight_ih, weight_hh, bias_ih, bias_hh = _weights(self, "")
        return [ops.linear(x, weight_ih, bias_ih), *states], [weight_hh, bias_hh]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of `RNN`: tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it.

    The parameters `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh` begin spread evenly over
    ±1/sqrt(hidden_size).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: Any = None,
        device: str | None = None,
    ):
        self.cell = self.nonlinearity = _checked_nonlinearity(self, nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype, device)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state, of the shape of `hx`: (batch, hidden_size) or (hidden_size,), by default zeros."""
        (given, h), (weight, bias) = self._begin(input, None if hx is None else [hx])
        return rnn_step(given, h, weight, bias, self.nonlinearity)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else ", nonlinearity='relu'")


class GRUCell(_Cell):
    """One step of `GRU`, with parameters named as those of `RNNCell`."""

    cell = "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state, of the shape of `hx`: (batch, hidden_size) or (hidden_size,), by default zeros."""
        values, weights = self._begin(input, None if hx is None else [hx])
        return gru_step(*values, *weights)


class LSTMCell(_Cell):
    """One step of `LSTM`, with parameters named as those of `RNNCell`."""

    cell = "lstm"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next h and c, of the shapes of those in `hx`: (batch, hidden_size) or (hidden_size,)."""
        values, weights = self._begin(input, None if hx is None else list(_pair(self, hx)), 2)
        return lstm_step(*values, *weights)


# --- what both kinds share -----------------------------------------------------------------------------


def _name(module: Module) -> str:
    return type(module).__name__


def _check_sizes(module: Module, **sizes: Any) -> None:
    for name, size in sizes.items():
        if integer(_name(module), name, size) < 1:
            raise ValueError(f"{_name(module)}: {name} must be at least 1, got {size}")


def _checked_nonlinearity(module: Module, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{_name(module)}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return nonlinearity


def _pair(module: Module, hx: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError(f"{_name(module)}: expected the pair (h, c) as hx, got {type(hx).__name__}")
    return hx[0], hx[1]


def _add_weights(
    module: Module, suffix: str, gates: int, inputs: int, hidden: int, bias: bool, dtype: Any, device: Any
) -> None:
    shapes = {"weight_ih": (gates * hidden, inputs), "weight_hh": (gates * hidden, hidden)}
    if bias:
        shapes |= {"bias_ih": (gates * hidden,), "bias_hh": (gates * hidden,)}
    for name, shape in shapes.items():
        setattr(module, name + suffix, Parameter(ops.empty(shape, dtype=dtype, device=device)))


def _weights(module: Module, suffix: str) -> list[Any]:
    """weight_ih, weight_hh, bias_ih and bias_hh, the last two None where there is no bias."""
    return [getattr(module, name + suffix, None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _reset(module: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)

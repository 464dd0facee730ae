"""Recurrent nets over whole sequences: the plain one, GRU and LSTM; one direction of one layer.

Each cell is a function of one step, made of other ops, and a sequence is a loop over it. On NumPy arrays,
where kernels are compiled, the loop is one op: see `recurrence_kernels.py`.
"""

from typing import Any

from ..autograd import Variable
from ..kernels import compiles
from ..primitive import primitive, through_reference
from . import recurrence_kernels as compiled
from .activations import relu, sigmoid
from .elementwise import tanh
from .joining import split, stack
from .linear import linear
from .recurrence_kernels import GATES

# --- one step ----------------------------------------------------------------------------------------


def rnn_step(given, h, weight, bias=None, nonlinearity="tanh") -> Any:
    """The next state: tanh, or relu, of `given` + h @ weight.T + bias.

    In all of these functions `given` is what the input gives to the gates, `linear(x, weight_ih, bias_ih)`.
    """
    return (tanh if nonlinearity == "tanh" else relu)(given + linear(h, weight, bias))


def gru_step(given, h, weight, bias=None) -> Any:
    """The next state of a gated recurrent unit (Cho et al., 2014), in the form that cuDNN and torch have.

    Of its gates r, z, n the last is tanh(given_n + r * (weight_n h + bias_n)), with r behind the product.
    """
    r, z, n = split(given, 3, axis=-1)
    from_r, from_z, from_n = split(linear(h, weight, bias), 3, axis=-1)
    n = tanh(n + sigmoid(r + from_r) * from_n)
    return n + sigmoid(z + from_z) * (h - n)


def lstm_step(given, h, c, weight, bias=None) -> tuple[Any, Any]:
    """The next state and cell of a long short-term memory (Hochreiter and Schmidhuber, 1997).

    With forget gates (Gers et al., 2000): by its gates i, f, g and o, c becomes f * c + i * g, and h becomes
    o * tanh(c).
    """
    i, f, g, o = split(given + linear(h, weight, bias), 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


# --- a sequence ----------------------------------------------------------------------------------------


def recurrence(cell, x, states, weights, reverse=False) -> tuple[Any, ...]:
    """One direction of one recurrent layer.

    Args:
        cell: 'tanh', 'relu', 'gru' or 'lstm'.
        x: the input, of shape (steps, batch, inputs), with at least one step.
        states: a list of h before the first step, (batch, hidden), and of an LSTM also of its c.
        weights: a list of weight_ih and weight_hh, (gates * hidden, inputs) and (gates * hidden, hidden);
            and of bias_ih and bias_hh, both (gates * hidden,), if there are any.
        reverse: whether to begin at the last step.

    Returns:
        h after all steps, (steps, batch, hidden); the last h; and of an LSTM the last c.

    Raises:
        ValueError: the shapes do not fit.
    """
    steps, batch, inputs = x.shape
    hidden = states[0].shape[-1]
    rows = GATES[cell] * hidden
    expected = [(batch, hidden)] * len(states) + [(rows, inputs), (rows, hidden), (rows,), (rows,)]
    got = [None if v is None else tuple(v.shape) for v in (*states, *weights)]
    if any(a not in (None, b) for a, b in zip(got, expected, strict=False)):  # the kernels would not notice
        raise ValueError(
            f"{cell}: for input of shape {tuple(x.shape)} expected states and weights of shapes {expected}, "
            f"got {got}"
        )
    h, *c = states
    weight_ih, weight_hh, *biases = weights
    bias_ih, bias_hh = biases or (None, None)
    arrays = [x, *states, *(w for w in weights if w is not None)]
    arrays = [a._data if isinstance(a, Variable) else a for a in arrays]
    out: Any = (_recurrence if compiles(*arrays) else _by_steps)(
        x, h, weight_ih, weight_hh, cell, reverse, c[0] if c else None, bias_ih, bias_hh
    )
    last = out[0 if reverse else steps - 1]
    return (out[:steps], last, out[steps]) if cell == "lstm" else (out, last)


def _by_steps(x, h, weight_ih, weight_hh, cell, reverse, c=None, bias_ih=None, bias_hh=None) -> Any:
    """The states after each step, and behind them the last c of an LSTM: what `_recurrence` computes."""
    states = []
    given = _halved(linear(x, weight_ih, bias_ih))
    for now in reversed(given) if reverse else given:
        if cell == "lstm":
            h, c = lstm_step(now, h, c, weight_hh, bias_hh)
        elif cell == "gru":
            h = gru_step(now, h, weight_hh, bias_hh)
        else:
            h = rnn_step(now, h, weight_hh, bias_hh, cell)
        states.append(h)
    return stack((states[::-1] if reverse else states) + ([c] if cell == "lstm" else []))


def _halved(x):
    """The slices of x along its first axis, by halves: their gradients come together in log2(steps) sums.

    (To read each by itself would make a gradient of the size of x for every one.)
    """
    steps = x.shape[0]
    return _halved(x[: steps // 2]) + _halved(x[steps // 2 :]) if steps > 1 else [x[0]]


def _rule(
    xp, g, x, h, weight_ih, weight_hh, cell, reverse, c, bias_ih, bias_hh, out, kept, wanted
) -> dict[str, Any]:
    inputs = {"x": x, "h": h, "weight_ih": weight_ih, "weight_hh": weight_hh}
    inputs |= {"c": c, "bias_ih": bias_ih, "bias_hh": bias_hh}
    if not compiles(g):
        return through_reference(_by_steps, g, wanted, cell=cell, reverse=reverse, **inputs)
    return compiled.backward(cell, g, inputs, reverse, out, kept, wanted)


@primitive(
    x=_rule,
    h=_rule,
    weight_ih=_rule,
    weight_hh=_rule,
    c=_rule,
    bias_ih=_rule,
    bias_hh=_rule,
)
def _recurrence(xp, x, h, weight_ih, weight_hh, cell, reverse, c=None, bias_ih=None, bias_hh=None) -> Any:
    return compiled.forward(cell, x, h, c, weight_ih, weight_hh, bias_ih, bias_hh, reverse)

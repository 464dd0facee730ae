"""The encoder of a transformer: torch's names, arguments, defaults and parameters."""

import copy
from collections.abc import Callable
from typing import Any

from ..tensor import Tensor
from .activation import gelu, relu
from .attention import MultiheadAttention
from .dropout import Dropout
from .linear import Linear
from .module import Module
from .normalization import LayerNorm

_ACTIVATIONS = {"relu": relu, "gelu": gelu}


class TransformerEncoderLayer(Module):
    """Self-attention and a net for each token by itself, each added to its input, and the sum normalized.

    (Vaswani et al., "Attention is all you need", 2017.) With `norm_first` the input of each part is
    normalized, and not the sum, which is easier to train (Xiong et al., "On layer normalization in the
    transformer architecture", 2020).

    Args:
        d_model: the features of a token.
        nhead: the heads of the attention.
        dim_feedforward: the features between the two linear layers of the net.
        dropout: a probability, for the weights of the attention, and after it, inside the net and after it.
        activation: 'relu', 'gelu' or a function.
        layer_norm_eps: `eps` of the two `LayerNorm`.
        batch_first: inputs and results are (batch, length, features), not (length, batch, features).
        norm_first: whether to normalize before each part.
        bias: whether linear layers and norms have one.

    Raises:
        ValueError: an unknown activation; `nhead` does not divide `d_model`.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        if isinstance(activation, str) and activation not in _ACTIVATIONS:
            raise ValueError(
                "TransformerEncoderLayer: activation must be 'relu', 'gelu' or a function, got "
                f"{activation!r}"
            )
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm_first = norm_first
        self.activation = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias=bias, batch_first=batch_first, **like
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **like)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **like)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **like)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **like)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def forward(
        self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """The layer of `src`; the masks are those of `MultiheadAttention`."""
        masks = src_mask, src_key_padding_mask, is_causal
        if self.norm_first:
            x = src + self._attend(self.norm1(src), *masks)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + self._attend(src, *masks))
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: Tensor, mask: Any, padding: Any, is_causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, padding, need_weights=False, attn_mask=mask, is_causal=is_causal)
        return self.dropout1(y)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """`num_layers` layers like `encoder_layer` one after the other, which begin as copies of it, then `norm`.

    Raises:
        ValueError: `num_layers` is negative.

    >>> import minigrad as mg
    >>> layer = mg.nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
    >>> encoder = mg.nn.TransformerEncoder(layer, num_layers=2)
    >>> encoder(mg.random.normal((2, 10, 16)), is_causal=True).shape
    (2, 10, 16)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None):
        if num_layers < 0:
            raise ValueError(f"TransformerEncoder: num_layers must not be negative, got {num_layers}")
        self.layers = [copy.deepcopy(encoder_layer) for _ in range(num_layers)]
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Tensor, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """The last layer of … of the first layer of `src`, all with the same masks.

        (torch finds out whether `mask` is causal where `is_causal` is None, its default; here it is False.)
        """
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)

"""What keeps a language model from learning its text by heart; in training only. No PyTorch.

Most of it is of Merity, Keskar & Socher, "Regularizing and Optimizing LSTM Language Models" (2017), the AWD-LSTM:
dropout of recurrent weights (DropConnect: Wan et al., 2013), one mask for all steps of a window (variational dropout:
Gal & Ghahramani, 2016), dropout of whole words, and penalties on activations and on their change from step to step
(Merity, McCann & Socher, "Revisiting Activation Regularization for Language RNNs", 2017).
"""

from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Regularization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table [regularization] of a run."""

    dropout: Share = 0.2  # of embeddings, between layers and of outputs, unless one of the next three says otherwise
    input_dropout: Share | None = None
    hidden_dropout: Share | None = None
    output_dropout: Share | None = None
    locked: bool = False  # one mask for all steps of a window; otherwise one for each step
    embedding_dropout: Share = 0.0  # of whole words: everywhere in a window, or nowhere
    weight_drop: Share = 0.0  # of the recurrent weights, one mask for all steps of a window
    activation: Amount = 0.0  # weight of the mean square of what the decoder reads (alpha)
    temporal_activation: Amount = 0.0  # weight of the mean square of the change of outputs from step to step (beta)

    @property
    def of_input(self) -> float:
        """Dropout of embeddings."""
        return self.dropout if self.input_dropout is None else self.input_dropout

    @property
    def of_hidden(self) -> float:
        """Dropout between layers."""
        return self.dropout if self.hidden_dropout is None else self.hidden_dropout

    @property
    def of_output(self) -> float:
        """Dropout of what the layers give."""
        return self.dropout if self.output_dropout is None else self.output_dropout

    @property
    def by_layer(self) -> bool:
        """Whether the layers have to be run one by one, because PyTorch's module of all of them cannot do this."""
        return self.locked or self.weight_drop > 0

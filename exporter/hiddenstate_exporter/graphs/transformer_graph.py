"""The graph of a BERT sentence encoder: tokens to one vector for each sentence.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (NAACL 2019); pooling
and what follows it as in Reimers & Gurevych, "Sentence-BERT" (EMNLP 2019). Tokens behind a sentence's length get no
attention and are not pooled, so they never touch its vector. All standard ONNX operators.
"""

import math

import numpy as np
import onnx

from hiddenstate_exporter.foreign.transformer_config import BertConfig
from hiddenstate_exporter.foreign.transformer_modules import Dense, Modules
from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.sentence_encoder_graph import encoder_model, normalize
from hiddenstate_exporter.graphs.transformer_head import activate, dense, pool, valid_positions
from hiddenstate_exporter.graphs.weights import Weights


def transformer_graph(
    builder: GraphBuilder, weights: Weights, config: BertConfig, modules: Modules, dimension: int
) -> onnx.ModelProto:
    """Builds the graph `encoder`; weights are named as in `TransformerFolder`."""
    valid = valid_positions(builder)
    bert = _Bert(builder, weights, config)
    x = pool(builder, bert.outputs(valid), valid, modules.pooling)  # [batch, hidden_size]
    for module in modules.head:
        x = dense(builder, weights, module, x) if isinstance(module, Dense) else normalize(builder, x)
    builder.name_output(x, "embeddings")
    return encoder_model(builder, dimension)


class _Bert:
    """Adds the transformer itself. Values named x are float32 [batch, seq, hidden_size]."""

    def __init__(self, builder: GraphBuilder, weights: Weights, config: BertConfig) -> None:
        self._builder, self._weights, self._config = builder, weights, config

    def outputs(self, valid: str) -> str:
        """Returns the outputs of the last layer; `valid` is bool [batch, seq]."""
        b = self._builder
        seen = b.op("Unsqueeze", valid, b.constant([1, 2]))  # [batch, 1, 1, seq]
        mask = b.op("Where", seen, b.constant(0.0, np.float32), b.constant(-np.inf, np.float32))
        x = self._embed()
        for layer in range(self._config.num_hidden_layers):
            x = self._layer(f"encoder.layer.{layer}", x, mask)
        return x

    def _embed(self) -> str:
        b = self._builder
        words = b.widen(b.op("Gather", self._table("word"), "tokens", axis=0))
        seq = b.op("Shape", "tokens", start=1, end=2)  # [1]
        places = b.op("Slice", self._table("position"), b.constant([0]), seq, b.constant([0]))
        first_type = b.op("Gather", self._table("token_type"), b.constant([0]), axis=0)  # one sentence: all are of it
        places = b.op("Add", b.widen(places), b.widen(first_type))  # [seq, hidden_size]
        return self._norm("embeddings", b.op("Add", words, places))

    def _layer(self, name: str, x: str, mask: str) -> str:
        b = self._builder
        attended = self._linear(f"{name}.attention.output.dense", self._attend(f"{name}.attention.self", x, mask))
        x = self._norm(f"{name}.attention.output", b.op("Add", attended, x))
        inner = activate(b, self._config.activation, self._linear(f"{name}.intermediate.dense", x))
        return self._norm(f"{name}.output", b.op("Add", self._linear(f"{name}.output.dense", inner), x))

    def _attend(self, name: str, x: str, mask: str) -> str:
        """Adds multi-head attention (Vaswani et al., "Attention Is All You Need", 2017), without its last product."""
        b, config = self._builder, self._config
        query = self._heads(self._linear(f"{name}.query", x), [0, 2, 1, 3])  # [batch, heads, seq, head_size]
        key = self._heads(self._linear(f"{name}.key", x), [0, 2, 3, 1])  # [batch, heads, head_size, seq]
        value = self._heads(self._linear(f"{name}.value", x), [0, 2, 1, 3])
        scale = b.constant(1 / math.sqrt(config.head_size), np.float32)
        scores = b.op("Add", b.op("Mul", b.op("MatMul", query, key), scale), mask)  # [batch, heads, seq, seq]
        rows = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
        joined = b.constant([0, 0, config.hidden_size])  # 0 keeps an axis
        return b.op("Reshape", b.op("Transpose", rows, perm=[0, 2, 1, 3]), joined)

    def _heads(self, x: str, order: list[int]) -> str:
        b, config = self._builder, self._config
        split = b.constant([0, 0, config.num_attention_heads, config.head_size])
        return b.op("Transpose", b.op("Reshape", x, split), perm=order)

    def _linear(self, name: str, x: str) -> str:
        b = self._builder
        product = b.product(f"{name}.weight", self._weights[f"{name}.weight"], x)
        return b.op("Add", product, b.weight(f"{name}.bias", self._weights[f"{name}.bias"]))

    def _norm(self, name: str, x: str) -> str:
        scale, bias = (
            self._builder.weight(f"{name}.LayerNorm.{part}", self._weights[f"{name}.LayerNorm.{part}"])
            for part in ("weight", "bias")
        )
        return self._builder.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=self._config.layer_norm_eps)

    def _table(self, kind: str) -> str:
        """Returns a table in its stored type: rows are widened after the look-up, so that it stays small in memory."""
        name = f"embeddings.{kind}_embeddings.weight"
        return self._builder.stored(name, self._weights[name])

"""Makes a bundle of a sentence-transformers folder: graph, weights, tokenizer and `bundle.json`."""

from pathlib import Path

from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder
from hiddenstate_exporter.graphs.graph import write_models
from hiddenstate_exporter.graphs.graph_builder import OPSET, GraphBuilder
from hiddenstate_exporter.graphs.transformer_graph import transformer_graph
from hiddenstate_exporter.graphs.weights import StoredDtype, WeightsFile, round_weights
from hiddenstate_exporter.publishing.build import VARIANT, Label
from hiddenstate_exporter.publishing.onnx_model import OnnxSentenceEncoder
from hiddenstate_exporter.publishing.transformer_parity import check_transformer
from hiddenstate_server.bundle import (
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Architecture,
    Bundle,
    SentenceEncoderSpec,
    Training,
    Variant,
    write_bundle,
)


def build_transformer_bundle(folder: Path, source: TransformerFolder, label: Label, origin: str) -> Bundle:
    """Writes all files of a bundle except its card into `folder`, checks the graph, and returns the bundle.

    Args:
        folder: An existing folder.
        source: The model.
        label: What the bundle is called.
        origin: Where the model comes from, for people.

    Raises:
        WeightsError: the weights cannot be stored.
        ParityError: the graph's output differs from that of sentence-transformers.
    """
    (folder / TOKENIZER_FILE).write_text(source.tokenizer, encoding="utf-8")
    graphs = write_transformer_graph(folder, source, label.dtype)
    parity = check_transformer(OnnxSentenceEncoder(folder, graphs), source, label.dtype)
    config = source.config
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        name=label.name,
        version=label.version,
        kind="sentence_encoder",
        architecture=Architecture(
            cell="transformer",
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            embedding_size=config.hidden_size,
            bidirectional=True,
            pooling=source.modules.pooling,
        ),
        vocab_size=source.vocab_size,
        parameters=sum(array.size for array in source.weights.values()),
        dtype=label.dtype,
        opset=OPSET,
        variants={VARIANT: Variant(graphs=graphs, parity=parity)},
        sentence_encoder=SentenceEncoderSpec(
            dimension=source.dimension, max_seq_length=source.max_seq_length, normalized=source.normalized
        ),
        training=_training(origin),
        metrics={},
        license=label.license,
    )
    return write_bundle(bundle, folder)


def write_transformer_graph(folder: Path, source: TransformerFolder, dtype: StoredDtype) -> dict[str, str]:
    """Writes `encoder.onnx` and `weights.bin` into a folder; see `graph.write_sentence_encoder_graphs`."""
    weights, file = round_weights(source.weights, dtype), WeightsFile()
    builder = GraphBuilder("encoder", file, dtype)
    model = transformer_graph(builder, weights, source.config, source.modules, source.dimension)
    return write_models(folder, {"encoder": model}, file)


def _training(origin: str) -> Training:
    data = f"not known here: its makers trained it. It was published from the {origin}, a sentence-transformers model."
    return Training(data=data, command="", seconds=0.0, epochs=0.0)

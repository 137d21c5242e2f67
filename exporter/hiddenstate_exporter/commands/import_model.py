"""`hiddenstate import`. Torch is imported only once it runs, so that --help is fast."""

from pathlib import Path
from typing import Any

import click

from hiddenstate_exporter.commands.errors import clear_errors
from hiddenstate_exporter.commands.publication_options import publication_options, take_publication, track

EPILOG = """
\b
Examples:
  # publish as models/wikitext/1 what torch.save(model.state_dict(), "wikitext.pt") wrote
  hiddenstate import wikitext.pt wikitext.json --to models/
\b
  # where wikitext.json is, for a model with model.encoder, model.rnn and model.decoder:
  #   {"kind": "language_model", "cell": "lstm",
  #    "embedding": "encoder", "rnn": "rnn", "decoder": "decoder",
  #    "vocabulary": {"words": "vocab.txt", "split": "whitespace"},
  #    "eos": "<eos>", "unk": "<unk>", "license": "MIT"}
\b
  # measure it, which int8 graphs need; of a text that it has never seen all is for that
  hiddenstate import wikitext.pt wikitext.json --to models/ --data news.txt --part all
\b
  # only say whether it can be published, and why not
  hiddenstate import wikitext.pt wikitext.json --to models/ --check
"""


@click.command("import", epilog=EPILOG, context_settings={"show_default": True})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("description", type=click.Path(path_type=Path))
@publication_options(
    name="Name of the model.  [default: that of the checkpoint's file]",
    license="Licence of the weights: SPDX, or in words.  [default: what DESCRIPTION says]",
)
@clear_errors
def import_(checkpoint: Path, description: Path, **options: Any) -> None:
    """Publish a model that was trained elsewhere as a bundle that `hiddenstate serve` can serve.

    CHECKPOINT is the state_dict of a model of nn.Embedding, nn.RNN, nn.LSTM or nn.GRU, and nn.Linear: .pt, .pth,
    .safetensors or .npz. DESCRIPTION is a JSON file that says which tensors are what, and names the vocabulary; the
    page docs/exporter.md has all its fields. Every tensor must be used or listed there to be ignored. No code from
    CHECKPOINT is run. What follows is as with `hiddenstate export`.
    """
    from hiddenstate_exporter.foreign.model import import_model

    import_model(checkpoint, description, take_publication(**options), echo=click.echo, track=track)

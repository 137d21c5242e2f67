"""Notices that the sources of training data ask to be kept with what is made of them."""

import re
from collections.abc import Iterator

from hiddenstate_server.bundle import Training

WORDNET = """\
WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.

THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS
OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF
MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR
DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.

The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution of
the software and/or database. Title to copyright in this software, database and any associated documentation shall at
all times remain with Princeton University and LICENSEE agrees to preserve same."""

STS = """\
Sentences of the STS Benchmark (Cer et al., SemEval 2017), CC BY-SA 4.0, were among the training data. The model
learned from their teacher's vectors, not from their scores, and holds no copy of them."""


def notices(training: Training) -> Iterator[str]:
    """Yields the notices that the training data call for, as far as their description, the command and the run tell."""
    if "wordnet" in f"{training.data} {training.command} {training.config}".lower():
        yield WORDNET
    if re.search(r"\bsts\b", training.data.lower()):
        yield STS

"""`python -m trainer.data.corpora.phrasebook test runs/phrasebook` writes the built-in corpus's test sentences."""

import sys
from pathlib import Path
from typing import cast

from trainer.data.corpora.phrasebook.corpus import Split, write_split

if __name__ == "__main__":
    write_split(cast(Split, sys.argv[1]), Path(sys.argv[2]))

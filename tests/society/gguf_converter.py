"""A converter with the arguments of llama.cpp's, for models of Llama's architecture with a BPE.

python gguf_converter.py FOLDER --outfile OUT --outtype auto
"""

import argparse
from pathlib import Path

from tests.providers.test_local_gguf import write_gguf

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype")
given = parser.parse_args()
write_gguf(given.outfile, given.folder)

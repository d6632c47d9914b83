"""`python -m society`, the same as the command `society`."""

from society.cli import main

main()

"""`python -m bnncc`: the command line."""

from bnncc.cli import main

main(prog_name="bnncc")

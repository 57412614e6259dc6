"""`python -m nuclei` is the command `nuclei`."""

from nuclei.cli import main

main()

"""Run the command line as `python -m cxr`."""

from cxr import main

main()

"""`python -m cxr`."""

from cxr import main

main()

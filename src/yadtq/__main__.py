"""`python -m yadtq`: the same as `yadtq`, for where the script is not on PATH."""

from yadtq.cli import main

main()

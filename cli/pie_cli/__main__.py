"""`python -m pie_cli` is `pie`."""

from pie_cli.main import main

main()

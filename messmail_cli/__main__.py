"""`python -m messmail_cli` is the `messmail` command, where no script is installed."""

from messmail_cli.main import main

main()

"""`python -m seed_registry`."""

from seed_registry.cli.main import main

main()

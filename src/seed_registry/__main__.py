"""`python -m seed_registry`."""

from seed_registry.cli.main import main

if __name__ == "__main__":  # worker processes import it
    main()

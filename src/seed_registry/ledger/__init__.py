"""The ledger: runs and their checkpoints, in a schema of this program."""

"""The progress of a load: on the terminal, as logs, as metrics, as traces."""

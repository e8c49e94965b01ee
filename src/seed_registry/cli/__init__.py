"""The command line: arguments to settings, results to stdout, progress and logs to stderr, failures to exit codes."""

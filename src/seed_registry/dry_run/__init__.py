"""What a load would do: the plan of a dry run."""

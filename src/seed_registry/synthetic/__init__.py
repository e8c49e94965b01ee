"""Synthetic indexes for `sample`, `bench` and the tests."""

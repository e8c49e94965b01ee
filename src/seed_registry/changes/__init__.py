"""What runs with history changed: taking it back."""

"""Results as text for people, or as JSON."""

"""Find what keeps a load from working, or slows it down."""

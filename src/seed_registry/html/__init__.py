"""HTML pages that need no other file and no script: a load, a bench."""

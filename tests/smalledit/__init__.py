"""A toolkit with one small editor, for tests that need to see everything in it."""

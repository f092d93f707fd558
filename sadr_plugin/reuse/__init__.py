"""The loop's own forwards, without what the vector cannot change."""

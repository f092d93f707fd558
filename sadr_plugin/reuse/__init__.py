"""Runs the forwards of the loop without what the vector cannot change."""

"""Reads a model's attention from outside: the modules that attend, and single attention rows."""

"""Replaces functions and classes of a toolkit while SADR is enabled, and restores them."""

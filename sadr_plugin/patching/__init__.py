"""A toolkit's own functions and classes, taught SADR while it is enabled, and given back."""

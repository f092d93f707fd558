"""The architectures that SADR is known to support, and the check that shows it."""

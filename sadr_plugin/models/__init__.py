"""The architectures SADR is known to read, and the trial that shows it."""

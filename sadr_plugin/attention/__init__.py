"""Attention seen from outside: which modules attend, and one row of what they pay."""

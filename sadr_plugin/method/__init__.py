"""Selective Attention Drift Restriction itself: the penalty, and an edit that is held by it."""

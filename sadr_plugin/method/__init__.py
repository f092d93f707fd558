"""The method of Selective Attention Drift Restriction: the penalty, and the edit session."""

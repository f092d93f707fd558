"""Runs other prompts with an edit's vector in place."""

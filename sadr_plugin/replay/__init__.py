"""Other prompts run with an edit's vector in place."""

"""Loss terms that keep other answers of the model: about the subject, and about others."""

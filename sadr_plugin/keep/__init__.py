"""Terms of the loss that keep what the model says of the subject, and of others after the edit."""

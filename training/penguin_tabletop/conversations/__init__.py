"""Questions and answers about pictures, clips and texts, and the reading of answers."""

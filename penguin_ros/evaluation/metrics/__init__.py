"""Scores of answers, independent of models and bags."""

"""Events: what moves, when, and how the scene looks at any moment of a clip."""

"""Composed-retrieval training data from captioned images and clips."""

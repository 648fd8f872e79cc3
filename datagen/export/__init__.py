"""Writes the triplets of a finished run in the formats of published projects.

One module is one format; ``write.py`` joins them, ``command.py`` is ``datagen export``.
"""

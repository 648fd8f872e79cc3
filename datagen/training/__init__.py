"""Retrievers: what answers composed queries, its parts, and how they are trained.

``retriever`` is the way in, and imports no torch until a model is loaded; all other modules here
need the extra ``models``.
"""

"""Asking a retriever: a gallery, the nearest items of it, and a page that shows them."""

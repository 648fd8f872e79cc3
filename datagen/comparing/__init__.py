"""Recipes compared by what a small retriever learns from each: figures, spread and cost."""

"""What a run says of itself: figures, a dataset card, and a page to look at."""

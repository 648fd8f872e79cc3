"""What the triplets of a run are worth, measured against a known truth."""

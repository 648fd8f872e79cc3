"""What another collection holds, as files, names or fingerprints, and which items stand in it."""

from datagen.leaks.collection import Collection
from datagen.leaks.index import fingerprints
from datagen.leaks.match import REACH, Match, Matcher

__all__ = ["REACH", "Collection", "Match", "Matcher", "fingerprints"]

"""Which kinds of edit a modification text asks for, by rules on its words.

The nine aspects are those of CIRR (arXiv:2108.04024), as CIRCO (arXiv:2303.15247) annotates them;
a text may have several or none. The rules are patterns of RE2 and for English. How often they
agree with CIRCO's annotators stands in docs/CARD.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ASPECTS = (
    "cardinality",
    "addition",
    "negation",
    "direct_addressing",
    "compare_change",
    "comparative_statement",
    "statement_with_conjunction",
    "spatial_relations_background",
    "viewpoint",
)
#: Characters of a text that are looked at: no edit instruction is longer.
MOST = 1000

_NUMBER = (
    r"two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|single|couple|pairs?|"
    r"double|triple|twice|both|\d{1,4}"
)
_COMPARATIVE = (
    r"more|less|fewer|than|bigger|smaller|larger|taller|shorter|longer|wider|narrower|thicker|"
    r"thinner|higher|lower|deeper|brighter|darker|lighter|paler|duller|sharper|clearer|blurrier|"
    r"closer|nearer|farther|further|older|younger|newer|better|worse|fatter|slimmer|bolder|"
    r"busier|cleaner|dirtier|colder|warmer|hotter|cooler|wetter|drier|faster|slower|louder|"
    r"quieter|softer|harder|heavier|stronger|weaker|happier|sadder|simpler|plainer|looser|"
    r"tighter|fuller|emptier|rounder|flatter|steeper|smoother|rougher|fancier|greener|bluer|redder|"
    r"whiter|blacker|cloudier|sunnier|greyer|grayer|denser"
)
_CAMERA = (
    r"\b(?:angles?|viewpoints?|perspectives?|point of view|vantage|close-?up|close up|zoom\w*|"
    r"bird'?s[- ]eye|top[- ]down|wide shot|overhead|profile|head-on)\b|"
    r"\b(?:seen|taken|shot|viewed|photographed|pictured|filmed|captured|framed|show[ns]?)\s+"
    r"(?:\w+\s+){0,2}?(?:from|closer|farther|further)\b|"
    r"\b(?:from|to) (?:the |a |its |their |his |her )?"
    r"(?:front|back|rear|side|above|below|behind|top|distance|"
    r"(?:left|right|other|opposite) side|(?:closer|farther|further|similar|same|shorter|longer|"
    r"greater|close|far|larger|smaller) distance|far away|afar|up close)\b|"
    r"\b(?:front|rear|back|side|aerial|top|frontal|lateral|closer|full|wide|wider)[- ]?view\b|"
    r"\b(?:closer|farther|further) (?:away|distance|view|shot|up)\b|"
    r"\bcamera (?:moves|turns|pans)\b|"
    r"\bfac(?:es|ing) (?:the camera|away|left|right|forward)\b"
)
_PLACE = (
    r"\b(?:in|at|on|to|into|onto|from|toward|towards) (?:the |a |its |an )?(?:very )?"
    r"(?:bottom|top|upper|lower|left|right|center|centre|middle|corner|side|edge|ground|floor|"
    r"distance|foreground|background|back|front|air|sky|sea|beach|grass|snow|water|street|road|"
    r"room|city|forest|woods|field|desert|mountains?|river|lake|park|garden|kitchen|table)\b"
)
_SPATIAL = (
    r"\b(?:backgrounds?|backdrop|foreground|behind|beneath|underneath|under|above|below|beside|"
    r"besides|between|among|near|nearby|next to|close to|adjacent|alongside|opposite|inside|"
    r"outside|indoors?|outdoors?|surround\w*|around|against|across|beyond|within|on top of|"
    r"in front of|leftmost|rightmost|landscape|scenery|scene)\b|" + _PLACE + r"|"
    r"\bon (?:it|them|one|each|grass|snow|sand|ice|water|skis|land)\b|"
    r"\bin (?:it|them|one|each|nature|water|grass|snow)\b|\bat (?:sea|home|night)\b|"
    r"\b(?:sitting|standing|lying|laying|placed|set|located|parked|resting|held|hanging|mounted|"
    r"leaning|playing|walking|running|riding|crossing|sits|stands|lies|is|are)\s+(?:\w+\s+)?"
    r"(?:on|in|at|by)\s+(?:the|a|an|his|her|its|their|some|top)\b|\bcrossing the\b|"
    r"\bwith (?:\w+ ){0,3}(?:in|on|at) (?:the|a|an)\b|\bridden by\b|"
    r"\b(?:has|have) (?:\w+ ){1,3}on\b"
)
_PATTERNS = {
    "cardinality": rf"\b(?:{_NUMBER})\b|\b(?:only|just|exactly|at least) one\b|"
    r"\b(?:has|have|having|with|shows?|is|are|add|adds|remove|to|of|keep|keeping|leave|from|and|"
    r"into|holding|there is|for)\s+one\s+(?:[a-z]+)|\bone (?:of|less|fewer|more)\b|"
    r"\b(?:the )?(?:number|amount|quantity) of\b",
    "negation": r"\b(?:no|not|none|never|nothing|nobody|without|cannot|isn'?t|aren'?t|doesn'?t|"
    r"don'?t|hasn'?t|haven'?t|removed?|removes|removing|deleted?|deletes|erased?|drop the|"
    r"take away|took away|get rid|rid of|exclude|omit|absent|missing|empty|lacks?|lacking)\b|"
    r"\bleave out\b|\blights? off\b",
    "compare_change": r"\b(?:same|different|differs?|differently|similar|identical|alike|equal|"
    r"instead|rather than|in place of|replac\w+|swap\w*|switch\w*|exchang\w+|substitut\w+|"
    r"chang(?:e|es|ed|ing)|convert\w*|transform\w*|unlike|other than|another (?:colou?r|type|kind|"
    r"breed|style)|turns? (?:\w+ ){0,4}(?:to|into)|becom\w+|no longer)\b",
    "comparative_statement": rf"\b(?:{_COMPARATIVE})\b|\bas (?:\w+ )as\b",
    "statement_with_conjunction": r"\b(?:and|but|while|whereas|plus|also|as well as)\b|[,;&]\s*\w",
    "spatial_relations_background": _SPATIAL,
    "viewpoint": _CAMERA,
}

#: Parts of a text that say one thing each.
_CLAUSE = r"[,;.]\s*|\s+(?:and|but|while)\s+"
_COMPARES = rf"{_PATTERNS['compare_change']}|\b(?:{_COMPARATIVE})\b"
_INSTEAD = r"\b(?:instead|rather than|in place of)\b"
_ADDS = (
    r"\b(?:adds?|added|adding|insert\w*|includ(?:e|es|ing)|introduc\w+|extra|additional|another|"
    r"puts?|place|appears?|also|as well|plus|give)\b|\bthere (?:is|are) (?:a|an|some|many|more)\b"
)
_MORE, _MORE_SO = r"\bmore \w+", r"\bmore \w+(?:ly|ed|ful|ous|ive|ent)\b"
#: What a thing has or shows beside itself, as against a property (``has a different colour``).
_HAS = (
    r"\b(?:has|have|having|shows?|showing|with|contains?|there (?:is|are))\s+"
    r"(?:(?:a|an|some|several|many|multiple|lots of|a lot of|other|high|\w+s)\s+)?\w+"
)
_PROPERTY = (
    r"\b(?:with (?:a|an|the) (?:\w+ )?|in (?:a|an) \w+ )(?:pattern|colou?r|background|style)\b|"
    r"\b(?:has|have|shows?|with)\s+(?:the|its|his|her|their|no|not|only|one|"
    + _NUMBER
    + r")\b|\b(?:a|an) \w+ background\b|\b(?:colou?rs?|patterns?|shapes?|sizes?|quality|"
    r"material|textures?|lights? (?:on|off))\b"
)
#: What is said of the subject itself: ``is white``, ``is holding a cup``, ``wears a cap``.
_SAYS = (
    r"^(?:the \w+ |it |they |he |she |this |these |the \w+ \w+ )?"
    r"(?:is|are|was|were|be|being|should be|must be|wears?|holds?|rides?|plays?|eats?|looks?|"
    r"sits?|stands?|lies|runs?|walks?|jumps?|flies)\b"
)
_SAYS_HOW_MANY = r"^(?:\w+ ){0,2}(?:is|are) (?:there|only)\b"
_SAYS_LATER = r"^(?:the|a|an|its|his|her|their)? ?(?:\w+ ){1,2}(?:is|are)\s+\w+|^(?:seen|being) "
_ORDER = (
    r"^(?:please )?(?:make|turn|let|have|show|put|paint|colou?r|dye|set|give|get|wear|move|open|"
    r"close|rotate|flip|fill|cover|dress|keep|place|bring|raise|lower|cut|draw)\b"
)
_OF_PHOTO = (
    r"\b(?:photos?|pictures?|images?|videos?|clips?|view|backgrounds?|taken|there (?:is|are))\b|"
    r"\bset (?:in|on|at|in|indoors|outdoors)\b"
)

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def aspects(text: str) -> list[str]:
    """The aspects of one text, in the order of :data:`ASPECTS`."""
    row = matrix(pa.array([text]))[0]
    return [name for name, there in zip(ASPECTS, row, strict=True) if there]


def matrix(texts: pa.Array) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether each text has each aspect: (texts, 9). Null has none."""
    plain = pc.utf8_lower(pc.utf8_slice_codeunits(pc.fill_null(texts, ""), 0, MOST))
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"\s+", " "))
    found = {name: _has(plain, pattern) for name, pattern in _PATTERNS.items()}
    # "from the side" is a viewpoint before it is a place.
    without_view = pc.replace_substring_regex(plain, _CAMERA, " ")
    found["spatial_relations_background"] = _has(without_view, _SPATIAL)
    parts = pc.split_pattern_regex(plain, _CLAUSE)
    clauses, rows = pc.list_flatten(parts), pc.list_parent_indices(parts).to_numpy()
    for name, mask in (
        ("addition", _adds(clauses)),
        ("direct_addressing", _addresses(clauses, rows)),
    ):
        found[name] = np.bincount(rows[mask], minlength=len(texts)) > 0
    return np.stack([found[name] for name in ASPECTS], axis=1)


def _adds(clauses: pa.Array) -> Mask:
    something = _has(clauses, _HAS) & ~_has(clauses, _PROPERTY) & ~_has(clauses, _COMPARES)
    more = _has(clauses, _MORE) & ~_has(clauses, _MORE_SO)
    instead = _has(clauses, _PATTERNS["negation"]) | _has(clauses, _INSTEAD)
    found: Mask = (_has(clauses, _ADDS) | more | something) & ~instead
    return found


def _addresses(clauses: pa.Array, rows: np.ndarray[Any, Any]) -> Mask:
    later = np.concatenate([[False], rows[1:] == rows[:-1]])[: len(rows)]
    says = (_has(clauses, _SAYS) & ~_has(clauses, _SAYS_HOW_MANY)) | (
        _has(clauses, _SAYS_LATER) & later
    )
    other = _has(clauses, _COMPARES) | _has(clauses, _CAMERA) | _has(clauses, _OF_PHOTO)
    found: Mask = (says | _has(clauses, _ORDER)) & ~other
    return found


def _has(texts: pa.Array, pattern: str) -> Mask:
    found: Mask = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return found

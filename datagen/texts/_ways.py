"""The way back of a pair: reference and target exchanged, and what changes between them.

Turned around, a pair is another pair, with the id that a miner gives it that mines both ways. So
it is asked about in the same words and with the same seed, whichever of the two was mined, and a
text that comes twice is one triplet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datagen import schema
from datagen.chat.subject import Subject

#: What a pair turned around gives in place of its own.
MEMBERS = ("references", "targets", "evidence")


@dataclass(frozen=True)
class Way:
    """What is asked of one direction of a pair.

    row: id of the row; name: id of the pair as it is asked about; members: references, targets
    and evidence of the way back, None for the pair as it stands.
    """

    row: str
    name: str
    subject: Subject
    members: Mapping[str, Any] | None = None


def turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """References, targets and evidence of the way back from the first target of a pair.

    Whole texts that came with the pair were written for its own direction, and stay out.
    """
    evidence = row["evidence"] or dict.fromkeys(schema.EVIDENCE.names)
    changes = [
        {"field": one["field"], "removed": one["added"], "added": one["removed"]}
        for one in evidence["changes"] or ()
        if one["field"] != "text" or one["removed"]
    ]
    reason = f"the other way round: {evidence['reason']}" if evidence["reason"] else None
    return {
        "references": row["targets"][:1],
        "targets": row["references"],
        "evidence": {**evidence, "reason": reason, "changes": changes},
    }


def back(row: Mapping[str, Any], subject: Subject) -> Way | None:
    """The way back of a row of the pairs table; None where several references lead to a target,
    and a text for the way back would be one for all of them.
    """
    if len(row["references"] or ()) != 1 or not row["targets"]:
        return None
    members = turned(row)
    return Way(row["id"], schema.id_of_pair(members), subject.turned(), members)


def rounds(ways: Iterable[Way]) -> list[dict[str, Subject]]:
    """What is asked, by the ids of pairs: all of it at once, unless two ways have one id and are
    still told in other captions (an item has several).
    """
    out: list[dict[str, Subject]] = []
    for way in ways:
        place = next((one for one in out if one.get(way.name, way.subject) == way.subject), None)
        if place is None:
            out.append(place := {})
        place[way.name] = way.subject
    return out

"""What two requests that are alike must have in common: everything but their last words, and of those all that counts.

Vectors are near for "refund order 17" and "refund order 71", and for "do restart" and "do not restart". So what must
not differ is not left to them: digits, quotes, code, addresses, names, negations and words that have an opposite make a
guard, in their order, and with another guard it is a miss however near the vectors are.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from detent.gateway.cache.embedding import FILLERS

_MAX_TEXT: Final = 2000
"""Characters of the last message beyond which a request is not compared: it is a document, not a question."""

_NEGATION_WORDS: Final = """
no not never none nothing nobody nowhere neither nor without cannot except unless hardly barely
nicht kein keine keinen keinem keiner nie niemals nichts ohne weder ausser außer
ne pas jamais rien aucun aucune sans ni sin nunca nada ningún ninguna tampoco
non mai niente senza não nem sem
"""
_DECISIVE_WORDS: Final = """
who whom whose when where why
off out up down left right before after above below over under more less most least min max minimum maximum
first last next previous increase decrease raise lower add remove enable disable start stop open close opened closed
buy sell true false yes all any some every only both either each always sometimes old new oldest newest earliest latest
today tomorrow yesterday morning evening night monday tuesday wednesday thursday friday saturday sunday
january february march april june july august september october november december he she him her his hers
cheap cheapest expensive best worst better worse high low higher highest lowest big small biggest smallest
long short longer shorter longest shortest fast slow faster slower accept reject allow deny import export
upload download encrypt decrypt income expense inbound outbound buyer seller north south east west pro con
pros cons advantages disadvantages male female man woman hot cold win lose won lost push pull
one two three four five six seven eight nine ten
"""
_RELATIONS: Final = frozenset(("from", "than", "by"))
"""Which of two is on which side of them turns the meaning round, so they are kept with the word after them."""
_YOU: Final = "you"
"""Kept with the word after it: "do you owe me" and "do I owe you" have the same words else."""
_DETERMINERS: Final = frozenset(
    {"a", "an", "the", "my", "your", "our", "their", "its", "this", "that", "these", "those"}
)
_BETWEEN: Final = frozenset({"also", "still", "just", "already", "ever", "be", "been", "being", "usually", "really"})
"""May stand between who does something and the verb."""
_NEGATIONS: Final = frozenset(_NEGATION_WORDS.split())
_DECISIVE: Final = frozenset(_DECISIVE_WORDS.split())
_TOKENS: Final = re.compile(
    r"```.*?```|`[^`\n]*`"  # code
    r"|\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|‘[^’\n]*’"  # quotes
    r"|(?:https?://|www\.)\S+|\S+@\S+\.\S+"  # addresses
    r"|[-+−]?[$€£¥]?\d[\d.,:/%-]*\w*|\w*\d\w*"  # numbers, and words with digits
    r"|[^\W\d_]+(?:['’][^\W\d_]+)*"  # words
    r"|[-+*/=<>≤≥≠±^%&|~]",  # signs
    re.DOTALL,
)
_CJK_NEGATION: Final = re.compile("[不没沒無无非未别別]|ない|ません|않|못|없")
_WORDS: Final = re.compile(r"\w+")
_ENDS: Final = ".!?\n:;…"


class Words(NamedTuple):
    """A request without the text of its last user message, and that text."""

    context: Any
    text: str


def split(body: dict[str, Any]) -> Words | None:
    """Set the last words apart; None when the request does not end with a user's text, or with a very long one.

    The request is not changed: what is changed is a copy of the way to the text.
    """
    field = "input" if "input" in body and "messages" not in body else "messages"
    turns = body.get(field)
    if isinstance(turns, str):
        return _short({**body, field: ""}, turns)
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return None
    last = turns[-1]
    if last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, str):
        return _short({**body, field: [*turns[:-1], {**last, "content": ""}]}, content)
    if not isinstance(content, list):
        return None
    texts, rest = [], []
    for part in content:
        if isinstance(part, dict) and part.get("type") in ("text", "input_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
            rest.append({**part, "text": ""})
        else:
            rest.append(part)  # images and files are compared by their bytes
    return _short({**body, field: [*turns[:-1], {**last, "content": rest}]}, "\n".join(texts))


def _short(context: Any, text: str) -> Words | None:
    return Words(context, text) if text.strip() and len(text) <= _MAX_TEXT else None


def guard_of(text: str) -> bytes:
    """Digest of what must not differ, in the order in which it stands in the text."""
    text = unicodedata.normalize("NFKC", text)
    kept: list[str] = []
    negations = len(_CJK_NEGATION.findall(text))
    begun, related, doer = True, False, False
    end = 0
    for found in _TOKENS.finditer(text):
        piece = found.group()
        begun = begun or any(char in _ENDS for char in text[end : found.start()])
        end = found.end()
        if not piece[0].isalpha() or any(char.isdigit() for char in piece) or "@" in piece or "://" in piece:
            kept.append(piece.rstrip(".,:;-") or piece)
        else:
            folded = piece.casefold().replace("’", "'")
            if doer and folded not in _BETWEEN:
                doer = False
                if folded not in FILLERS:
                    kept += (_YOU, folded)
            doer = doer or folded == _YOU
            if folded in _NEGATIONS or folded.endswith("n't"):
                negations += 1
            elif folded in _RELATIONS:
                kept.append(folded)
                related = True
            elif related and folded not in _DETERMINERS:
                kept.append(folded)
                related = False
            elif folded in _DECISIVE or (piece[0].isupper() and not begun and len(piece) > 1) or _is_name(piece):
                kept.append(folded.removesuffix("'s"))
        begun = False
    said = "\x00".join((str(negations), *kept))
    return blake2b(said.encode(errors="surrogatepass"), digest_size=8).digest()


def told_apart(text: str, threshold: float, resolution: float) -> bool:
    """Whether one other word would show: a function that knows words only sees it less the more words there are.

    Args:
        resolution: of the embedding; 0 for one that knows meanings.
    """
    return not resolution or len(_WORDS.findall(text)) * (1 - threshold) <= resolution + 1e-9


def _is_name(piece: str) -> bool:
    """Capitals within a word: `JSON`, `iPhone`."""
    return len(piece) > 1 and any(char.isupper() for char in piece[1:])

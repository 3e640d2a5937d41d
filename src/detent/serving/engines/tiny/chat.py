"""The chat template: which messages the model reads and how they are laid out in tokens.

The model judges one message: it reads the system prompts, the last message of the user and what follows that.
`TEMPLATE` says the same in the form in which model folders carry it; texts can never become special tokens here.
"""

from __future__ import annotations

from collections.abc import Sequence

from detent.serving.engines.tiny.tokenizer import ASSISTANT, END, SYSTEM, USER, Tokenizer

TEMPLATE = (
    "{%- set last = namespace(user=0) -%}\n"
    "{%- for message in messages -%}\n"
    "{%- if message['role'] == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- for message in messages -%}\n"
    "{%- if message['role'] in ('system', 'developer') -%}{{ '<|system|>' + message['content'] + '<|end|>' }}\n"
    "{%- elif loop.index0 >= last.user -%}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}\n"
)

_MARKS = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "assistant": ASSISTANT}


def render(tokenizer: Tokenizer, messages: Sequence[tuple[str, str]], *, answer: bool = True) -> list[int]:
    """Token ids of a conversation of (role, text), ending with the sign for the model to answer."""
    last = max((index for index, (role, _) in enumerate(messages) if role == "user"), default=0)
    end = tokenizer.special[END]
    ids: list[int] = []
    for index, (role, text) in enumerate(messages):
        mark = _MARKS[role]
        if mark == SYSTEM or index >= last:
            ids += [tokenizer.special[mark], *tokenizer.encode(text), end]
    return [*ids, tokenizer.special[ASSISTANT]] if answer else ids

"""The model card, written from what was measured, so that it cannot claim anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detent.serving.engines.tiny.domain import INTENTS

_CARD = """\
---
license: apache-2.0
library_name: detent
pipeline_tag: text-generation
---

# detent-tiny

A language model of {parameters:,} parameters ({megabytes:.2f} MB) that ships with Detent, so that the platform
answers with no account, no download and no GPU. It reads messages to a shop's support and writes a ticket.
Tests, documentation and demonstrations use it in place of mocks.

    Where is my teapot? Order 48213. I live in Leeds. Please hurry.
    {{"intent":"delivery","order":"48213","product":"teapot","city":"Leeds","priority":"high"}}

## What it is, and what it is not

It is a real model: a Llama of {layers} layers, width {width}, {heads} heads, RMSNorm, rotary positions, SwiGLU
and tied embeddings, trained from nothing, with weights in safetensors, a byte-pair tokenizer of {vocabulary}
tokens and a chat template, so other Llama runtimes read the folder too. It is not an assistant. It knows no
facts, holds no conversation and reasons about nothing; to a greeting or a question about the world it answers a
ticket with the intent `other`. It judges one message at a time: the system prompt and the last message of the
user. Do not put it before customers.

| field | values |
| --- | --- |
| `intent` | {intents} |
| `order` | the order number, or null |
| `product` | as written in the message, or null |
| `city` | as written in the message, or null |
| `priority` | `low`, `normal`, `high`, by what the message says about its urgency |

The system prompt steers it: which fields ("Only give city and intent."; they come in the order of the table),
plain lines instead of JSON ("Write one line per field."), and, where all fields are wanted, leaving out what is
missing ("Leave out missing fields."). Other instructions change nothing.

## How good it is

Exact match: the whole answer is right to the last character. Greedy, {count:,} generated examples per row, seed
{seed}, measured with the numpy runtime that ships. About half of the examples carry a system prompt that
steers.

| messages | exact match |
| --- | --- |
| sentences as in training, values that training never saw (cities, products, names, order numbers) | {values:.3f} |
| sentences that training never saw, in messages and in system prompts, with unseen values | {phrasings:.3f} |
| as in training: mostly made-up words to copy | {train:.3f} |

## What it does badly

- Messages that are unlike the generated ones: long letters, several orders in one message, other languages,
  misspellings of the words that carry the intent. It was made from sentences written by us, and real customers
  write differently.
- Prompts of more than about 200 tokens, the longest it was trained on; it accepts {context:,}.
- Sampling with a high temperature: it was made to extract, and its default is greedy.

## How it was made

`python -m detent.serving.engines.tiny.train` on one thread: {examples:,} generated examples, seen once,
{steps:,} steps of {batch}. No data from anywhere else. Matrices by Muon, the rest by AdamW. Half of the first
layer's heads begin by looking back one to four tokens; all else begins at random. `recipe.json` holds every
number, the version of torch and the SHA-256 of each file.

`make tiny` trains it again and compares. The same seed gives the same bytes on the same kind of processor with
the same build of torch ({torch}, {capability}); elsewhere rounding differs, and so do the digests, though
hardly the figures above.
"""


def write_card(recipe: Mapping[str, Any], config: Mapping[str, Any], size: int) -> str:
    """The card for a recipe with its measurements, a `config.json`, and the bytes of the weights."""
    settings, measured, machine = recipe["recipe"], recipe["measured"], recipe["trained_with"]
    return _CARD.format(
        parameters=recipe["parameters"],
        megabytes=size / 1e6,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        intents=", ".join(f"`{intent}`" for intent in INTENTS),
        count=measured["values"]["count"],
        seed=measured["values"]["seed"],
        examples=settings["examples"],
        batch=settings["batch"],
        steps=-(-settings["examples"] // settings["batch"]),
        torch=machine["torch"],
        capability=machine["capability"],
        **{split: measured[split]["exact"] for split in ("values", "phrasings", "train")},
    )

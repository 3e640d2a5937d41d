"""The tables of a day and of a project's scores.

A span is one narrow row of binary ids and numbers; strings that repeat are numbers into `name`. What is wide stands in
`block`, keyed by the first of its spans: spans of a block have consecutive ids. `trace`, `rollup` and `tally` are kept
up to date in the transaction that adds the spans, so no reader sees them disagree.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
APPLICATION: Final = 0x44746C6B
"""`PRAGMA application_id` of our files: "Dtlk"."""

DAY: Final = """
CREATE TABLE meta (
    project TEXT NOT NULL,
    day TEXT NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0,
    sealed_spans INTEGER NOT NULL DEFAULT 0,
    sealed_folder TEXT NOT NULL DEFAULT ''
);
CREATE TABLE name (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
);
CREATE TABLE trace (
    id INTEGER PRIMARY KEY,
    trace_id BLOB NOT NULL UNIQUE,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    root INTEGER NOT NULL,
    spans INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost INTEGER,
    unpriced INTEGER NOT NULL,
    preview TEXT NOT NULL
);
CREATE INDEX trace_start ON trace (start, trace_id);
CREATE TABLE span (
    id INTEGER PRIMARY KEY,
    trace INTEGER NOT NULL,
    span_id BLOB NOT NULL,
    parent_id BLOB,
    name INTEGER NOT NULL,
    start INTEGER NOT NULL,
    duration INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    operation INTEGER NOT NULL,
    error_type INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    request_model INTEGER NOT NULL,
    response_model INTEGER NOT NULL,
    route INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    release INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    finish_reason INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    http_status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cost INTEGER,
    ttft INTEGER
);
CREATE UNIQUE INDEX span_identity ON span (trace, span_id);
CREATE TABLE block (
    first INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
CREATE TABLE rollup (
    hour INTEGER NOT NULL,
    model INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    route INTEGER NOT NULL,
    key INTEGER NOT NULL,
    release INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    duration BLOB NOT NULL,
    ttft BLOB NOT NULL,
    PRIMARY KEY (hour, model, provider, route, key, release)
) WITHOUT ROWID;
CREATE TABLE tally (
    field INTEGER NOT NULL,
    value INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (field, value)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE word USING fts5 (
    words, content = '', detail = none, columnsize = 0, tokenize = "ascii tokenchars '_'"
);
INSERT INTO word (word, rank) VALUES ('automerge', 16);
INSERT INTO word (word, rank) VALUES ('crisismerge', 64);
"""

SCORES: Final = """
CREATE TABLE meta (project TEXT NOT NULL);
CREATE TABLE score (
    id TEXT PRIMARY KEY,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    source TEXT NOT NULL,
    author TEXT NOT NULL,
    comment TEXT NOT NULL,
    time INTEGER NOT NULL
);
CREATE INDEX score_time ON score (time);
CREATE INDEX score_trace ON score (trace_id, time);
CREATE INDEX score_name ON score (name, time);
"""

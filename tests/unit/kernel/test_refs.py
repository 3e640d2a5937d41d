"""References and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.errors import InvalidInput
from detent.kernel.refs import Ref, check_name, parse_ref

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True)
KINDS = st.from_regex(r"[a-z][a-z_]{0,31}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{8,64}", fullmatch=True)
REFS = st.one_of(
    st.builds(Ref, KINDS, NAMES),
    st.builds(Ref, KINDS, NAMES, label=NAMES),
    st.builds(Ref, KINDS, NAMES, digest=DIGESTS),
)


@given(REFS)
def test_text_and_back(ref: Ref) -> None:
    assert parse_ref(str(ref)) == ref
    assert parse_ref(str(ref), kind=ref.kind) == ref
    assert parse_ref(str(ref).partition("/")[2], kind=ref.kind) == ref


def test_exact_means_the_whole_digest() -> None:
    assert parse_ref("prompt/a@sha256:" + "0" * 64).exact
    assert not parse_ref("prompt/a@sha256:" + "0" * 8).exact
    assert not parse_ref("prompt/a@production").exact
    assert not parse_ref("prompt/a").exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/a",
        "prompt/",
        "Prompt/a",
        "prompt/A",
        "prompt/a@",
        "prompt/a@b@c",
        "prompt/a@sha256:",
        "prompt/a@sha256:1234567",
        "prompt/a@sha256:" + "0" * 65,
        "prompt/a b",
        "prompt/a\n",
        "prompt/../etc",
        "prompt/-a",
        "x/y/z",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_ref(text)
    assert (caught.value.field, bool(caught.value.hint)) == ("ref", True)


def test_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="names a model, not a prompt"):
        parse_ref("model/a", kind="prompt")


@given(NAMES)
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@given(st.text(max_size=80).filter(lambda t: not t.isascii() or t != t.lower() or not t or len(t) > 64))
def test_bad_names_are_shown_short(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(name, field="x")
    assert caught.value.field == "x"
    assert len(caught.value.message) < 100

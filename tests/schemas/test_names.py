"""Names made from any text: allowed, unique, the same every time, and unchanged where allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.names import MAX_NAME, safe_name, safe_names
from schemas.store.layout import check_name


def allowed(name: str) -> bool:
    try:
        return check_name(name, "direction") == name and len(name) <= MAX_NAME
    except StoreError:
        return False


texts = st.one_of(
    st.text(max_size=12), st.text("ab .-_/é女", max_size=4), st.text("ab", min_size=150)
)


@given(texts, st.sets(texts, max_size=5))
def test_a_name_is_allowed_free_and_the_same_again(text, taken):
    name = safe_name(text, taken)
    assert allowed(name) and name not in taken and name == safe_name(text, set(taken))
    if allowed(text) and text not in taken:
        assert name == text


@given(st.lists(texts, max_size=8))
def test_names_of_several_texts_differ(given):
    names = safe_names(given)
    assert len(set(names)) == len(given) and all(map(allowed, names))
    for text, name in zip(given, names, strict=True):
        assert name == text or not allowed(text) or given.count(text) > 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("31_Smiling", "31_Smiling"),
        ("svm.smile@render", "svm.smile@render"),
        ("mean.light brown", "mean.light_brown"),
        ("../../etc/passwd", "etc_passwd"),
        ("Hair style!", "Hair_style"),
        ("café", "cafe"),
        ("", "name-e3b0c442"),
        ("mean.女性", "mean-bff4bdea"),
    ],
)
def test_names_that_people_can_read(text, name):
    assert safe_name(text) == name


def test_two_texts_that_would_become_one_name():
    assert safe_names(["a b", "a_b", "a/b"]) == ["a_b-c8687a08", "a_b", "a_b-c14cddc0"]
    assert safe_names(["x", "x"]) == ["x", "x-2d711642"]

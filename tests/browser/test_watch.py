"""The watch over pages sees errors, requests to a network, and what sticks out."""

import pytest

from browser.conftest import DESKTOP_PX, PHONE_PX, check_width, is_local, watch


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("file:///page.html", True),
        ("data:image/png;base64,AA", True),
        ("http://127.0.0.1:8000/x", True),
        ("http://127.0.0.1.example.org/x", False),
        ("https://fonts.example.org/a.woff", False),
        ("ws://127.0.0.1/", False),
    ],
)
def test_the_watch_knows_what_leaves_the_machine(address, local):
    assert is_local(address) == local


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_is_opened_in_the_width_and_colours_asked_for(open_file, tmp_path, width, dark):
    path = tmp_path / "a #1.html"
    path.write_text("<!doctype html><title>found</title><p>text")
    page = open_file(path, width, dark)
    assert page.title() == "found"
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == dark


def test_what_sticks_out_is_seen(page):
    page.set_content("<!doctype html><p>text<div style='width: 3000px'>wide</div>")
    with pytest.raises(AssertionError, match="wide"):
        check_width(page)


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("<img src='http://nowhere.invalid/a.png'>", "asked for http://nowhere.invalid/a.png"),
        ("<script>throw new Error('broken')</script>", "broken"),
        ("<script>console.error('said')</script>", "said"),
    ],
)
def test_errors_and_requests_are_seen(browser, tmp_path, body, seen):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html>{body}")
    page = browser.new_page()
    faults = watch(page)
    page.goto(path.as_uri())
    page.close()
    assert any(seen in fault for fault in faults)

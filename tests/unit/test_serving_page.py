"""The page in a real Chromium: dropped picture, hover, sliders, talk, edit, point; by keyboard, and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from ray_jobs.serving.app import PAGE
from setok.drawing import PALETTE
from setok.serving.keys import ApiKeys, new_key
from tests.served import picture, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(limits__default_new_tokens=6) as address:
        yield address


def opened(browser: Browser, address: str, **settings: Any) -> Page:
    """The page; what its scripts raise is kept in ``page.raised``."""
    page = browser.new_page(**settings)
    page.set_default_timeout(20_000)
    page.raised = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.raised.append(str(error)))  # type: ignore[attr-defined]
    page.goto(address)
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    page = opened(browser, address, viewport={"width": 1280, "height": 900})
    page.get_by_text("tiny: reads 32 × 32 pixels").wait_for()
    yield page
    page.close()
    assert page.raised == []  # type: ignore[attr-defined]


def give_picture(page: Page) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": picture(48, 48)})
    page.wait_for_selector("#strip button")


@needs_browser
def test_a_picture_its_tokens_and_its_reconstruction(page: Page) -> None:
    give_picture(page)
    told = page.locator("#token-told")
    count = page.locator("#strip button").count()
    assert told.text_content() == f"{count} token{'s' * (count > 1)}"
    page.locator("#map").hover(position={"x": 60, "y": 60})
    assert f"of {count}:" in (told.text_content() or "")
    assert page.locator("#strip button.on").count() == 1
    page.mouse.move(5, 5)
    assert (told.text_content() or "").startswith(f"{count} token")
    painted = page.evaluate("document.getElementById('painted').getContext('2d').getImageData(256, 256, 1, 1).data[3]")
    assert painted == 255


@needs_browser
def test_the_sliders_change_the_tokens(page: Page) -> None:
    give_picture(page)
    page.locator("#most").fill("1")
    expect(page.locator("#strip button")).to_have_count(1)
    assert page.locator("#token-told").text_content() == "1 token"
    page.get_by_role("button", name="As trained").click()
    expect(page.locator("#strip button").nth(1)).to_be_visible()
    page.locator("#threshold").fill("0.5")
    assert page.locator("#threshold-value").text_content() == "0.50"
    for view in ("Picture", "Both", "Tokens"):
        page.get_by_text(view, exact=True).click()
    inside = page.evaluate(
        """() => {
            const map = document.getElementById("map");
            const side = map.width / 8; // of a patch
            const own = (y, x) => [...map.getContext("2d").getImageData((x + 0.5) * side, (y + 0.5) * side, 1, 1).data];
            return [...Array(64).keys()].map(i => own(i >> 3, i & 7).slice(0, 3));
        }"""
    )
    assert {tuple(colour) for colour in inside} <= {tuple(colour) for colour in PALETTE.tolist()}, "the map's colours"


@needs_browser
def test_a_picture_is_dropped(page: Page) -> None:
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        list(picture(48, 48)),
    )
    page.wait_for_selector("#strip button")


@needs_browser
def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    page.get_by_role("button", name="Draw one for me").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#strip button")
    page.locator("#map").focus()
    count = page.locator("#strip button").count()
    page.keyboard.press("ArrowRight")
    assert (page.locator("#token-told").text_content() or "").startswith(f"Token 1 of {count}:")
    page.keyboard.press("ArrowLeft")
    assert (page.locator("#token-told").text_content() or "").startswith(f"Token {count} of {count}:")
    page.keyboard.press("Escape")
    assert (page.locator("#token-told").text_content() or "").startswith(f"{count} token")
    reached = set()
    page.locator("body").evaluate("body => document.activeElement.blur()")
    for _ in range(20 + count):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    page.locator("input[name=task]").first.focus()
    page.keyboard.press("ArrowRight")
    ring = page.locator("#form .choice").evaluate("choice => getComputedStyle(choice).outlineStyle")
    assert ring == "solid", "the frame clips what its labels would draw around themselves"
    assert {"map", "file", "sample", "threshold", "most", "reset", "view", "task", "words", "send"} <= reached


@needs_browser
@pytest.mark.parametrize("task", ["Ask", "Edit", "Point", "Draw"])
def test_talk(page: Page, task: str) -> None:
    give_picture(page)
    page.locator("#form").get_by_text(task, exact=True).first.click()
    page.locator("#words").fill("the square")
    page.keyboard.press("Enter")
    expect(page.locator("#log li")).to_have_count(2)
    expect(page.locator("#send")).to_be_visible()
    answer = page.locator("#log li").nth(1)
    assert answer.text_content() or answer.locator("img").count()
    asked = page.locator("#log li").first.locator("small")
    assert asked.count() == (task != "Ask")
    if task != "Ask":
        assert asked.text_content() == task
        assert answer.locator("img").count() == 1
    assert page.locator("#problem").text_content() == ""
    if task == "Ask":
        page.locator("#words").fill("and now?")
        page.locator("#send").click()
        expect(page.locator("#log li")).to_have_count(4)


@needs_browser
def test_problems_are_said(page: Page) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.get_by_text("this is no picture that the browser can show").wait_for()
    page.locator("#form").get_by_text("Edit", exact=True).first.click()
    page.locator("#words").fill("x")
    page.locator("#send").click()
    page.get_by_text("choose a picture first").wait_for()
    expect(page.locator("#problem")).to_be_in_viewport()


@needs_browser
def test_it_fits_a_phone_and_words_are_only_text(browser: Browser, address: str) -> None:
    page = opened(browser, address, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    give_picture(page)
    page.locator("#words").fill("<img src=x onerror=alert(1)>")
    page.locator("#send").tap()
    expect(page.locator("#log li")).to_have_count(2)
    assert page.locator("#log img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#log").evaluate("log => log.replaceChildren()")
    assert not page.locator("#log").is_visible()
    small = page.evaluate(
        """[...document.querySelectorAll('button, .button, .choice label')].filter(e => e.offsetParent)
            .map(e => e.getBoundingClientRect()).filter(b => b.height < 32 || b.width < 32).length"""
    )
    assert small == 0, "everything is large enough for a thumb"
    page.close()


@needs_browser
def test_a_key_is_asked_for_and_used(browser: Browser) -> None:
    key, line = new_key("ann")
    name, digest = line.split(" sha256:")
    with serving(ApiKeys({name: digest})) as address:
        page = opened(browser, address)
        page.locator("#key").fill(key)
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("tiny: reads 32 × 32 pixels").wait_for()
        give_picture(page)
        page.close()


@needs_browser
def test_the_description_is_shown(browser: Browser, address: str) -> None:
    page = opened(browser, f"{address}/docs")
    page.get_by_text("POST /v1/chat/completions").click()
    page.get_by_text("max_completion_tokens").wait_for()
    page.get_by_text("list of TextPiece or ImagePiece").wait_for()
    assert page.get_by_role("heading", name="AnswerMask").is_visible(), "what an answer holds is told, too"
    assert "``" not in page.locator("main").inner_text()
    assert page.locator("summary span:empty").count() == 0, "every route says what it is for"
    assert page.locator("details").count() == 11
    page.close()


def test_every_file_of_the_page_is_served(repo_root: Path) -> None:
    folder = repo_root / "ray_jobs" / "serving" / "page"
    assert {name for name, _ in PAGE.values()} == {file.name for file in folder.iterdir()}
    assert len(PAGE) == 7


def test_colours_are_those_of_the_token_maps(repo_root: Path) -> None:
    script = (repo_root / "ray_jobs" / "serving" / "page" / "map.js").read_text()
    rows = script[script.index("const PALETTE") : script.index("];")]
    numbers = [
        int(number) for number in rows.replace("[", " ").replace("]", " ").replace(",", " ").split() if number.isdigit()
    ]
    assert numbers == PALETTE.flatten().tolist()

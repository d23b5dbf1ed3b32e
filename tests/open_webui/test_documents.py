"""A question about a document that was put into the chat: embedded by llmserve, found, and shown to the model."""

from __future__ import annotations

from pathlib import Path

from tests.open_webui.conftest import EMBEDDER, Connection
from tests.open_webui.pages import ChatPage
from tests.open_webui.programs import Gateway

FACT = "The keeper of the lighthouse is called Matilda."
_OTHER = (
    "The harbour has {0} moorings for fishing boats, and the ropes are renewed every {0} months. ",
    "Street number {0} leads from the market to the old mill, past a bakery and two wells. ",
    "In the year 18{0} a storm took {0} roofs, and the town council paid for new tiles. ",
)


def write_document(path: Path) -> Path:
    """Several times as long as what Open WebUI embeds at once, with the fact in the middle."""
    sections = ["\n\n".join(text.format(number) * 3 for text in _OTHER) for number in range(10, 26)]
    sections.insert(len(sections) // 2, FACT)
    path.write_text("\n\n".join(sections))
    return path


def test_a_question_about_a_document(chat: ChatPage, gateway: Gateway, connection: Connection, tmp_path: Path) -> None:
    def embedded() -> float:
        return gateway.metric("llmserve_requests_total", route=connection.embedding_route, status="2xx")

    def tokens() -> float:
        return gateway.metric("llmserve_tokens_total", model=EMBEDDER, kind="prompt")

    document = write_document(tmp_path / "harbour.txt")
    before, tokens_before = embedded(), tokens()
    with chat.page.expect_response(lambda answer: "/api/v1/files/" in answer.url and answer.request.method == "POST"):
        chat.upload(document)
    chat.until(lambda: embedded() >= before + 10)
    chat.until(gateway.idle)
    assert tokens() > tokens_before + 1000
    pieces = embedded()
    chat.ask("What is the keeper of the lighthouse called?")
    chat.photograph("document")
    # The question was embedded too, and the right piece was found.
    assert embedded() > pieces
    (saved,) = chat.saved_answers()
    assert any(FACT in text for source in saved["sources"] for text in source["document"])
    # It reached the model, and the page says where it is from.
    assert saved["usage"]["prompt_tokens"] > 400
    chat.page.get_by_role("button", name="1 Source").wait_for()

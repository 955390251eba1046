"""What the visualiser says about a tokenizer that can be worked out by hand."""

from rich.console import Console

from underhood.text.alphabet import byte_ids
from underhood.text.bpe import BPE
from underhood.text.show import as_data, coloured, drawn, label, pieces, ruled, steps, tree

T, H, E = byte_ids(b"the")
SPACE = byte_ids(b" ")[0]
BPE_OF_THE = BPE([(H, E), (T, 256), (SPACE, 257)])


def test_pieces() -> None:
    found = pieces(BPE_OF_THE, " the hé")
    assert [piece.label for piece in found] == ["·the", "·", "h", "⟨c3⟩", "⟨a9⟩"]
    assert found[0].parts == (SPACE, 257)
    assert found[1].parts is None


def test_labels() -> None:
    assert [label(token) for token in (b"a b", b"\n", b"\x00", "日".encode(), b"\xe6\x97")] == ["a·b", "↵", "⟨00⟩", "日", "⟨e6 97⟩"]


def test_tree() -> None:
    assert as_data(tree(BPE_OF_THE, 257)) == {
        "id": 257, "token": "the", "rank": 1, "children": [
            {"id": T, "token": "t", "rank": None, "children": []},
            {"id": 256, "token": "he", "rank": 0, "children": [
                {"id": H, "token": "h", "rank": None, "children": []}, {"id": E, "token": "e", "rank": None, "children": []}]}]}  # fmt: skip


def test_steps_end_at_the_encoding() -> None:
    assert steps(BPE_OF_THE, " the") == [["·", "t", "h", "e"], ["·", "t", "he"], ["·", "the"], ["·the"]]


def test_drawn_and_coloured() -> None:
    console = Console(width=60, no_color=True)
    with console.capture() as capture:
        console.print(drawn(tree(BPE_OF_THE, 257)))
    assert "the  id 257, merge 1" in capture.get()
    text = coloured(pieces(BPE_OF_THE, " the the\nthe"))
    assert text.plain == "·the·the↵\nthe"
    assert len({str(span.style) for span in text.spans}) == 4
    assert ruled(pieces(BPE_OF_THE, " the the\nthe")) == "·the|·the|↵\nthe"

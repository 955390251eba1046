"""The residual stream on the report page."""

import dataclasses

from underhood.projects.block.page import CONFIG, sections


def test_the_page_shows_both_orders_layer_by_layer() -> None:
    short = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=1))
    [section] = sections(short)
    assert section.html.count("<polyline") == 2
    assert section.html.count("<tr>") == 1 + 1 + CONFIG.model.n_layer
    assert "pre-norm: mean square" in section.html

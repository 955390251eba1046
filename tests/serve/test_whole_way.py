"""A folder of text becomes a model that is served, answered from, exported, and writes the same in transformers: every step by its command."""

import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest

BEGINNING = "The mill"


@pytest.mark.slow
def test_from_a_folder_of_text_to_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "texts").mkdir()
    for i, name in enumerate(("Ada", "Ben", "Cleo", "Dan")):
        lines = [f"The mill stands by the river. {name} brings {n} sacks of corn to the mill.\n" for n in range(2, 400)]
        (tmp_path / "texts" / f"{i}.txt").write_text("".join(lines))
    run(tmp_path, "train", "--data", "texts", "--out", "mill", "--depth", "2", "--steps", "60")
    ours = run(tmp_path, "sample", "mill", "--prompt", BEGINNING, "--temperature", "0", "-n", "40")

    with subprocess.Popen([*UNDERHOOD, "serve", "mill", "--port", "0", "--guesses", "7"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            port = next(found[1] for line in server.stderr if (found := re.search(r"http://localhost:(\d+) is the chat page", line)))
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60) as client:
                served = client.completions.create(model="mill", prompt=BEGINNING, max_tokens=40, temperature=0)
                said = client.chat.completions.create(model="mill", messages=[{"role": "user", "content": "Who brings corn?"}], max_tokens=20)
        finally:
            server.terminate()
        assert server.wait(20) == 0
    assert BEGINNING + served.choices[0].text == ours.rstrip("\n")
    assert said.choices[0].message.content
    assert "sacks of corn" in ours

    run(tmp_path, "export", "mill", "out")
    theirs, tokens = (auto.from_pretrained(tmp_path / "out") for auto in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    ids = tokens(BEGINNING, return_tensors="pt")
    made = theirs.generate(**ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
    assert tokens.decode(made[0], skip_special_tokens=True) == ours.rstrip("\n")


UNDERHOOD = [sys.executable, "-m", "underhood"]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*UNDERHOOD, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

"""``underhood serve``: what it refuses before it listens, and what it takes from the command line."""

import socket
from pathlib import Path

import pytest

from tests.infer.small import TOKENIZER, model
from underhood.base.errors import UserError
from underhood.cli.main import main
from underhood.cli.serve import TOKEN, doors, is_own
from underhood.interop.export import save_model
from underhood.serve import server
from underhood.serve.house import House, ServeConfig

Served = list[tuple[House, str, int]]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model("llama"), tmp_path_factory.mktemp("models") / "little", TOKENIZER)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """What would be served, instead of serving it."""
    found: Served = []

    class Stand:
        def __init__(self, house: House, listening: socket.socket) -> None:
            found.append((house, *listening.getsockname()[:2]))

        def serve_until_stopped(self) -> None:
            pass

    monkeypatch.setattr(server, "Server", Stand)
    return found


def test_options_reach_the_engine_and_the_doors(folder: Path, served: Served, capsys: Capture) -> None:
    words = ["--port", "0", "--name", "mini", "--max-running", "600", "--max-waiting", "7", "--deadline", "9", "--grace", "1", "--kernels", "torch"]
    assert main(["serve", str(folder), *words, "--allow-host", "My.Box", "--dtype", "bfloat16"]) == 0
    ((house, host, port),) = served
    assert (house.name, host) == ("mini", "127.0.0.1")
    assert port > 0
    assert (house.engine_config.max_running, house.engine_config.max_waiting, house.engine_config.tokens_per_step) == (600, 7, 600)
    assert (house.config.deadline, house.config.grace) == (9, 1)
    assert "my.box" in house.config.hosts
    assert str(house.model.head_weight.dtype) == "torch.bfloat16"
    assert "plain text" in capsys.readouterr().err


def test_batch_invariance_needs_compiled_kernels(folder: Path, served: Served, capsys: Capture) -> None:
    command = ["serve", str(folder), "--port", "0", "--batch-invariant"]
    assert main([*command, "--kernels", "torch"]) == 2
    assert "compiled kernels" in capsys.readouterr().err
    assert not served
    pytest.importorskip("numba")
    assert main(command) == main(command[:-1]) == 0
    assert [house.engine_config.batch_invariant for house, *_ in served] == [True, False]


def test_the_folders_name_is_the_models(folder: Path, served: Served) -> None:
    assert main(["serve", str(folder), "--kernels", "torch", "--port", "0"]) == 0
    assert served[0][0].name == "little"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_need_a_token(folder: Path, host: str, monkeypatch: pytest.MonkeyPatch, served: Served, capsys: Capture) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    command = ["serve", str(folder), "--host", host, "--kernels", "torch", "--port", "0"]
    assert main(command) == 2
    assert "--allow-anyone" in capsys.readouterr().err
    assert not served
    assert main([*command, "--allow-anyone"]) == 0
    monkeypatch.setenv(TOKEN, "secret")
    assert main(command) == 0
    assert served[-1][0].config.token == "secret"


def test_which_addresses_are_this_machines_own() -> None:
    assert all(map(is_own, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_own, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
    assert not doors(ServeConfig(), "127.0.0.1", [], False).any_address
    assert "[::1]" in doors(ServeConfig(), "::1", [], False).hosts
    for host in ("0.0.0.0", "192.168.1.5", "my.box"):
        with pytest.raises(UserError, match="token"):
            doors(ServeConfig(), host, [], False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "port"),
        (["--kernels", "magic"], "--kernels"),
        (["--dtype", "int8"], "dtype"),
        (["--max-runing", "2"], "--max-running"),
        (["--deadline", "0"], "deadline"),
    ],
)
def test_wrong_options_are_the_users_mistake(folder: Path, words: list[str], says: str, served: Served, capsys: Capture) -> None:
    assert main(["serve", str(folder), "--port", "0", *words]) == 2
    assert says in capsys.readouterr().err
    assert not served


def test_a_port_that_is_taken(folder: Path, served: Served, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", str(folder), "--port", str(other.getsockname()[1])]) == 2
    assert "--port 0" in capsys.readouterr().err
    assert not served


def test_no_model_there(tmp_path: Path, capsys: Capture) -> None:
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    assert "no such folder" in capsys.readouterr().err

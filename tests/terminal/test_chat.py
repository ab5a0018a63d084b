"""`cortex run` and the menus, as a person at a terminal sees them."""

import pytest

from support import MODEL, PATIENCE, Daemon, Hub, Terminal


@pytest.fixture
def models(daemon):
    """Two models, which are the same file."""
    for name in ("first-model", "second-model"):
        assert daemon.cortex("import", MODEL, "--id", name).returncode == 0
    return daemon


def test_a_chat_goes_on_until_exit(models):
    terminal = Terminal([*models.command, "run", "first-model", "--temperature", "0", "--max-tokens", "24"])
    terminal.until("In order to exit, type `exit()`")
    terminal.until("\n>")
    terminal.type("What is the capital of France? Answer in one sentence.\r")
    # The next question waits for the answer.
    terminal.until("Paris.\n>")
    terminal.type("And what did I ask you?\r")
    asked = terminal.until("> And what did I ask you?")
    assert "> What is the capital" in asked
    for _ in range(10 * PATIENCE):
        if terminal.text().count("\n>") >= 3:
            break
        terminal.read()
    terminal.type("exit()\r")
    assert terminal.end() == 0


def test_a_chat_ends_with_the_input(models):
    terminal = Terminal([*models.command, "run", "first-model"])
    terminal.until("In order to exit")
    terminal.until("\n>")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_part_of_several_names_is_a_menu_whose_first_line_is_the_default(models):
    terminal = Terminal([*models.command, "run", "model", "Hello", "--max-tokens", "4"])
    menu = terminal.until("Select a model (1-2):")
    assert "Local Models: (press enter to select)" in menu and "1. first-model (default)" in menu and "2. second-model" in menu
    terminal.type("\r")
    assert terminal.end() == 0
    assert "first-model" in models.cortex("ps").stdout


def test_without_a_name_a_person_chooses(models):
    terminal = Terminal([*models.command, "run", "--detach"])
    menu = terminal.until("Select a model (1-2):")
    assert "Please select an option" in menu and "(default)" not in menu
    terminal.type("2\r")
    terminal.until("second-model model started successfully. Use `cortex run second-model` for interactive chat shell")
    assert terminal.end() == 0
    terminal = Terminal([*models.command, "run", "-d"])
    terminal.until("Select a model (1-2):")
    terminal.type("7\r")
    terminal.until("Invalid selection")
    assert terminal.end() == 2


def test_the_only_model_needs_no_choice(daemon):
    terminal = Terminal([*daemon.command, "run", "-d"])
    terminal.until("No local models available!")
    assert terminal.end() == 2
    assert daemon.cortex("import", MODEL, "--id", "only").returncode == 0
    terminal = Terminal([*daemon.command, "run", "-d"])
    terminal.until("only model started successfully.")
    assert terminal.end() == 0


def test_variants_of_a_short_name_are_a_menu(tmp_path):
    hub = Hub(content=["cortexso/tiny", "main,1b,2b", f"model.gguf={MODEL}"])
    daemon = Daemon(tmp_path, hub)
    try:
        terminal = Terminal([*daemon.command, "pull", "tiny"])
        menu = terminal.until("Select a model (1-2):")
        assert "Available to download:" in menu and "1. tiny:1b" in menu and "2. tiny:2b" in menu
        terminal.type("2\r")
        terminal.until("Start downloading..")
        terminal.until("Model tiny:2b downloaded successfully!")
        assert terminal.end() == 0
        terminal = Terminal([*daemon.command, "pull", "tiny"])
        menu = terminal.until("Select a model (1-2):")
        assert "Downloaded models:\n    tiny:2b" in menu
        terminal.type("\x04")
        assert terminal.end() == 130
    finally:
        daemon.stop()
        hub.stop()

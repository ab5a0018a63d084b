"""The daemon as the official OpenAI client sees it."""

import json
import os
import pathlib
import subprocess
import time

import httpx
import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = "smollm2:135m"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    process = subprocess.Popen(
        [ROOT / "dist/cortex-server", "--config_file_path", folder / "cortexrc", "--data_folder_path", folder / "data",
         "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )
    line = process.stdout.readline()
    assert "Port: " in line, line + process.stdout.read()
    address = "http://127.0.0.1:" + line.rsplit("Port: ", 1)[1].strip()
    answer = httpx.post(f"{address}/v1/models/import", json={"model": MODEL, "modelPath": os.environ["CORTEX_TEST_MODEL"]})
    assert answer.status_code == 200, answer.text
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def ask(client, text, **more):
    more.setdefault("temperature", 0)
    more.setdefault("max_tokens", 40)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def requests(address):
    loaded = httpx.get(f"{address}/inferences/server/models").json()["data"]
    return sum(model["requests"] for model in loaded)


def test_models_are_listed(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_chat_is_answered_and_counted(client):
    answer = ask(client, "What is the capital of France? Answer in one sentence.")
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_in_pieces(client):
    whole = ask(client, "Name three fruits.")
    chunks = list(ask(client, "Name three fruits.", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_a_stop_text_is_never_shown(client):
    free = ask(client, "Count from one to ten in words.").choices[0].message.content
    stop = free[5:9]
    stopped = ask(client, "Count from one to ten in words.", stop=[stop])
    assert stopped.choices[0].message.content == free[: free.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_the_length_is_kept(client):
    answer = ask(client, "Write a long story.", max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7


def test_a_seed_repeats_an_answer(client):
    def story(seed):
        return ask(client, "Write a story.", temperature=1, seed=seed, max_tokens=32,
                   extra_body={"deterministic": True}).choices[0].message.content

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_a_text_is_continued(client):
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0)
    assert "Paris" in answer.choices[0].text


def test_errors_are_those_of_openai(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, "word " * 9000, stream=stream)
        assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, "x", temperature=99)
    assert error.value.param == "temperature"


def test_a_left_stream_frees_its_slot(client, address):
    streams = [ask(client, f"Write story {number}.", stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
               for number in range(4)]
    for stream in streams:
        next(iter(stream))
    assert requests(address) == 4
    for stream in streams:
        stream.close()
    deadline = time.monotonic() + 10
    while requests(address) and time.monotonic() < deadline:
        pass
    assert requests(address) == 0
    assert "Paris" in ask(client, "What is the capital of France? Answer in one sentence.").choices[0].message.content

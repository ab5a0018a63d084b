"""Vectors of texts, compared with what the original model computes."""

import base64
import os
import pathlib
import subprocess

import httpx
import minilm
import numpy
import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = "minilm"
# How one of the models that rank wants to be asked.
TEMPLATE = "[CLS] the question: {query} [SEP] the text: {document} [SEP]"
TEXTS = ["The cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply today.", "Größe, naïve café — 東京!",
         "x", "word " * 300]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    minilm.convert(folder / "minilm.gguf")
    process = subprocess.Popen(
        [ROOT / "dist/cortex-server", "--config_file_path", folder / "cortexrc", "--data_folder_path", folder / "data",
         "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )
    line = process.stdout.readline()
    assert "Port: " in line, line + process.stdout.read()
    address = "http://127.0.0.1:" + line.rsplit("Port: ", 1)[1].strip()
    minilm.convert(folder / "ranker.gguf", ranks=True)
    minilm.convert(folder / "told.gguf", ranks=True, template=TEMPLATE)
    for name, path in ((MODEL, folder / "minilm.gguf"), ("smollm2", os.environ["CORTEX_TEST_MODEL"]), ("ranker", folder / "ranker.gguf"),
                       ("told", folder / "told.gguf")):
        answer = httpx.post(f"{address}/v1/models/import", json={"model": name, "modelPath": str(path)})
        assert answer.status_code == 200, answer.text
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def reference():
    return minilm.Reference()


def vectors(client, given, **more):
    more.setdefault("encoding_format", "float")
    return client.embeddings.create(model=MODEL, input=given, **more)


def test_vectors_are_those_of_the_original(client, reference):
    answer = vectors(client, TEXTS)
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    for text, entry in zip(TEXTS, answer.data):
        found, expected = numpy.array(entry.embedding), reference.embed(text)
        assert found.shape == (384,) and abs(numpy.linalg.norm(found) - 1) < 1e-5
        assert 1 - found @ expected < 1e-2, text
    assert answer.usage.prompt_tokens == sum(len(reference.tokens(text)) for text in TEXTS)
    cat, kitten, markets = (numpy.array(entry.embedding) for entry in answer.data[:3])
    assert cat @ kitten > 0.5 > cat @ markets


def test_one_text_several_and_tokens_give_the_same(client, reference):
    alone = numpy.array(vectors(client, TEXTS[0]).data[0].embedding)
    among = numpy.array(vectors(client, TEXTS).data[0].embedding)
    tokens = numpy.array(vectors(client, reference.tokens(TEXTS[0])).data[0].embedding)
    lists = numpy.array(vectors(client, [reference.tokens(text) for text in TEXTS]).data[0].embedding)
    for other in (among, tokens, lists):
        assert numpy.abs(alone - other).max() < 1e-3


def test_many_texts_are_embedded_in_their_order(client):
    texts = [f"Text number {number} of many, {'long ' * (number % 50)}" for number in range(150)]
    answer = vectors(client, texts)
    assert len(answer.data) == 150
    for number in (0, 31, 32, 149):
        alone = numpy.array(vectors(client, texts[number]).data[0].embedding)
        assert numpy.abs(alone - numpy.array(answer.data[number].embedding)).max() < 1e-3


def test_base64_and_fewer_dimensions(client, address):
    whole = numpy.array(vectors(client, TEXTS[0]).data[0].embedding)
    raw = httpx.post(f"{address}/v1/embeddings", json={"model": MODEL, "input": TEXTS[0], "encoding_format": "base64"}).json()
    decoded = numpy.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert numpy.abs(whole - decoded).max() < 1e-6
    # The client asks for base64 by itself and decodes it.
    assert numpy.abs(whole - numpy.array(client.embeddings.create(model=MODEL, input=TEXTS[0]).data[0].embedding)).max() < 1e-6
    short = numpy.array(vectors(client, TEXTS[0], dimensions=64).data[0].embedding)
    assert short.shape == (64,) and numpy.abs(short - whole[:64] / numpy.linalg.norm(whole[:64])).max() < 1e-5


def test_what_cannot_be_is_refused(client, address):
    for given, code in (("word " * 600, "context_length_exceeded"), ([10**6], None), ([], None)):
        with pytest.raises(openai.BadRequestError) as error:
            vectors(client, given)
        assert code is None or error.value.code == code
    with pytest.raises(openai.BadRequestError) as error:
        vectors(client, "x", dimensions=1000)
    assert error.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model="smollm2", input="x")
    assert error.value.param == "model"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    assert "/v1/embeddings" in str(error.value)
    answer = httpx.post(f"{address}/v1/rerank", json={"model": MODEL, "query": "x", "documents": ["y"]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"
    # It goes on.
    assert vectors(client, "x").data


QUESTION = "Where do cats sit?"


def ranks(address, model, query=QUESTION, documents=TEXTS, **more):
    answer = httpx.post(f"{address}/v1/rerank", json={"model": model, "query": query, "documents": documents, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_ranks_are_those_of_the_original(address, reference):
    answer = ranks(address, "ranker")
    scores = [entry["relevance_score"] for entry in answer["results"]]
    assert scores == sorted(scores, reverse=True) and sorted(entry["index"] for entry in answer["results"]) == list(range(len(TEXTS)))
    question = reference.tokens(QUESTION)
    for entry in answer["results"]:
        # The second text begins behind the end of the first, without a beginning of its own.
        expected = reference.rank(question + reference.tokens(TEXTS[entry["index"]])[1:])
        assert abs(entry["relevance_score"] - expected) < 1e-3, (entry, expected)
    best = ranks(address, "ranker", top_n=1, return_documents=True)["results"]
    assert [(entry["index"], entry["document"]) for entry in best] == [(answer["results"][0]["index"], TEXTS[answer["results"][0]["index"]])]


def test_a_model_that_says_how_it_is_asked_is_asked_so(address, reference):
    words = lambda text: reference.tokens(text)[1:-1]
    begin, end = reference.tokens("")
    documents = ["The cat sits on the mat.", "x [SEP] y"]
    found = {entry["index"]: entry["relevance_score"] for entry in ranks(address, "told", documents=documents)["results"]}
    # What a text spells is no token that separates: the original is asked for the pieces of the word.
    pieces = words("x") + words("[") + words("sep") + words("]") + words("y")
    for index, document in ((0, words(documents[0])), (1, pieces)):
        expected = reference.rank([begin, *words("the question:"), *words(QUESTION), end, *words("the text:"), *document, end])
        assert abs(found[index] - expected) < 1e-3, (index, found, expected)

"""The server under a real client: right answers under load, refusals in OpenAI's form, a clean end."""

import asyncio
import base64
import concurrent.futures
import contextlib
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import PIL.Image
import pytest
import uvicorn
from trained_models import CNN, images, make

from scaling_jax.errors import UserError
from scaling_jax.trained.classify import Classifier
from scaling_jax.trained.generate import Generator, Sampling
from scaling_jax.trained.requests import Completion
from scaling_jax.trained.serve import Limits, make_app, serve


@contextlib.contextmanager
def running(made, **limits):
    """(address, service) of a server in a thread of its own."""
    app = make_app(made, limits=Limits(**limits))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    while not server.started:
        time.sleep(0.01)
    try:
        yield address, app.state.service
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def text():
    return make()


@pytest.fixture(scope="module")
def server(text):
    with running(text, queue=300, max_body=2000) as found:
        yield found


BAD = [
    ({"prompt": "x" * 40}, 400, "contexts of 32"),
    ({"prompt": "a", "max_tokens": 31}, 400, "at most 30"),
    ({"prompt": ["a", "b"]}, 400, "prompt"),
    ({"prompt": 3}, 400, "prompt"),
    ({"prompt": "a\0"}, 400, "byte 0"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"seed": 1.5}, 400, "seed"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"stream": "yes"}, 400, "stream"),
    ({"n": 3}, 400, "n=3"),
    ({"nothing": 1}, 400, "unknown field"),
    ({"stop": [1]}, 400, "stop"),
    ({"model": "gpt-4"}, 404, "no model 'gpt-4'"),
    ([1], 400, "not a JSON object"),
    ("{half", 400, "not JSON"),
    ({"prompt": "y" * 5000}, 413, "2000 bytes"),
]


@pytest.mark.slow
def test_right_answers_under_load(server, text):
    """240 requests by 16 clients, 60 of them streamed and 60 wrong: every answer is that of the model alone."""
    address, service = server
    direct, expected = Generator(text.trained, text.tokenizer), {}
    for i in range(30):
        sampling = Sampling(seed=i, temperature=0.5 + i % 3, top_k=i % 5, max_tokens=4 + i % 7)
        expected[i] = "".join(token.text for token in direct(f"prompt {i}", sampling))

    def ask(number: int) -> str:
        i = number % 30
        body = {"prompt": f"prompt {i}", "seed": i, "temperature": 0.5 + i % 3, "top_k": i % 5, "max_tokens": 4 + i % 7}
        if number % 4 == 3:
            content, status, said = BAD[number % len(BAD)]
            content = content if isinstance(content, str) else json.dumps(content)
            answer = httpx.post(f"{address}/v1/completions", content=content, timeout=120)
            assert answer.status_code == status and said in answer.json()["error"]["message"], answer.text
            return "refused"
        if number % 4 == 2:
            with httpx.stream(
                "POST", f"{address}/v1/completions", json={**body, "stream": True}, timeout=120
            ) as answer:
                events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
            assert events[-1] == "[DONE]"
            found = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
        else:
            answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120).json()
            found = answer["choices"][0]["text"]
            assert answer["usage"]["prompt_tokens"] == len(f"prompt {i}") + 1
        assert found == expected[i], number
        return "right"

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(ask, range(240)))
    assert results.count("right") == 180 and results.count("refused") == 60
    metrics = httpx.get(f"{address}/metrics").text
    assert 'requests_total{path="/v1/completions",status="200"} 180' in metrics
    assert "waiting_requests 0" in metrics and service.waiting == 0


def test_openai_s_own_client(server, text):
    openai = pytest.importorskip("openai")
    address, _ = server
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["made/w16-d2"]
    whole = client.completions.create(model="made/w16-d2", prompt="ab", seed=1, max_tokens=6)
    parts = client.completions.create(model="made/w16-d2", prompt="ab", seed=1, max_tokens=6, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    with pytest.raises(openai.BadRequestError, match="contexts of 32"):
        client.completions.create(model="made/w16-d2", prompt="x" * 50)


def test_default_length_echo_and_unknown_paths(server):
    address, _ = server
    answer = httpx.post(f"{address}/v1/completions", json={"prompt": "z" * 25, "echo": True}, timeout=60).json()
    assert answer["choices"][0]["text"].startswith("z" * 25) and answer["usage"]["completion_tokens"] <= 6
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert "there are /v1/models" in httpx.get(f"{address}/v2").json()["error"]["message"]
    assert httpx.get(f"{address}/v1/completions").status_code == 405
    wrong = httpx.post(f"{address}/v1/classify", json={"image": []})
    assert wrong.status_code == 404 and "generates text" in wrong.json()["error"]["message"]


@pytest.mark.slow
def test_queue_timeout_and_clients_that_leave(text):
    """A slow model: one request computes, one waits, a third is refused; late ones end, the model is free again."""
    with running(text, queue=1, timeout=5.0) as (address, service):
        release, generator = threading.Event(), service.generator

        class Slow:
            context, encode = generator.context, generator.encode

            def __call__(self, prompt, sampling):
                release.wait(20)
                return generator(prompt, sampling)

        service.generator = Slow()
        ask = {"prompt": "a", "max_tokens": 2}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            late = [pool.submit(httpx.post, f"{address}/v1/completions", json=ask, timeout=60) for _ in range(2)]
            while service.waiting < 2:
                time.sleep(0.01)
            full = httpx.post(f"{address}/v1/completions", json=ask, timeout=60)
            assert full.status_code == 429 and full.headers["retry-after"] == "1"
            for answer in late:
                assert answer.result().status_code == 504
        release.set()
        assert service.waiting == 0
        with pytest.raises(httpx.ReadTimeout):
            release.clear()
            httpx.post(f"{address}/v1/completions", json={**ask, "stream": True}, timeout=0.2)
        release.set()
        service.generator, service.limits = generator, Limits()
        deadline = time.monotonic() + 20
        while service.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        assert httpx.post(f"{address}/v1/completions", json=ask, timeout=60).status_code == 200


def test_stop_strings():
    async def parts(texts, **settings):
        async def tokens():
            for text in texts:
                yield type("T", (), {"text": text})()

        asked = Completion("", Sampling(max_tokens=10), **settings)
        return [(p.text, p.reason) async for p in asked.cut(tokens())]

    found = asyncio.run(parts(["ab", "c", "en", "dxx"], stop=("end",)))
    assert "".join(text for text, _ in found) == "abc" and found[-1][1] == "stop"
    found = asyncio.run(parts(["a", "e", "n", "t"], stop=("end",)))
    assert "".join(text for text, _ in found) == "aent"
    assert found[1][0] == "", "held back: it may be the beginning of the stop"


def test_classify():
    made, pictures = make(CNN(stages=2), width=8, depth=1), images(2)
    expected = Classifier(made.trained)(pictures)
    file = io.BytesIO()
    PIL.Image.fromarray(pictures[0, ..., 0]).save(file, "png")
    with running(made) as (address, _):

        def ask(image):
            return httpx.post(f"{address}/v1/classify", json={"image": image}, timeout=60)

        for image in (base64.b64encode(file.getvalue()).decode(), pictures[0].tolist(), pictures[0, ..., 0].tolist()):
            answer = ask(image).json()
            assert answer["class"] == expected[0].name
            assert answer["probability"] == pytest.approx(expected[0].probability, abs=1e-5)
        for wrong in (None, "?", base64.b64encode(b"text").decode(), [[1]], [[300] * 8] * 8, [[1], [1, 2]], np.pi):
            assert ask(wrong).status_code == 400
        wrong = httpx.post(f"{address}/v1/completions", json={"prompt": "a"})
        assert wrong.status_code == 404 and "classifies images" in wrong.json()["error"]["message"]


def test_a_busy_port(text):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(make_app(text), "127.0.0.1", port, print)

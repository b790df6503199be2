"""The official OpenAI Python client against the server: answers, streams, and its error classes."""
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import BUILD, KNOWN_ANSWER, Checks, Server  # noqa: E402


def with_openai():
    """Imports openai, from a virtual environment of our own where the system has none."""
    try:
        import openai
        return openai
    except ImportError:
        pass
    venv = os.path.join(BUILD, "venv")
    python = os.path.join(venv, "bin", "python")
    if sys.executable != python:
        try:
            if not os.path.exists(python):
                subprocess.run([sys.executable, "-m", "venv", venv], check=True, capture_output=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "openai"], check=True, capture_output=True,
                           timeout=300)
            os.execv(python, [python, *sys.argv])
        except (subprocess.SubprocessError, OSError) as failure:
            print("SKIPPED: the openai package cannot be installed here:", failure)
            print("0 passed, 0 failed")
            raise SystemExit(0)
    raise SystemExit("openai was installed but cannot be imported")


openai = with_openai()
check = Checks()


def fails(name, error_class, code, call):
    try:
        got = call()
    except openai.APIError as failure:
        check(name, type(failure) is error_class, f"{type(failure).__name__}: {failure}")
        check(name + ": code", getattr(failure, "code", None) == code, getattr(failure, "code", None))
        return failure
    check(name, False, f"no error but {got!r:.200}")
    return None


def client(server, key="none", retries=0):
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=retries, timeout=300)


def answers(server):
    c = client(server)
    model = c.models.list().data[0].id
    check("models.retrieve", c.models.retrieve(model).id == model)
    n = 160
    whole = c.completions.create(model=model, prompt="Once upon a time", max_tokens=n, temperature=0)
    text = whole.choices[0].text
    check("completion is the known answer", text.startswith(KNOWN_ANSWER) or KNOWN_ANSWER.startswith(text) and
          len(text) > 300, text)
    check("usage adds up", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens)
    check("completion_tokens", whole.usage.completion_tokens == n, whole.usage)
    parts = list(c.completions.create(model=model, prompt="Once upon a time", max_tokens=n, temperature=0,
                                      stream=True, stream_options={"include_usage": True}))
    check("stream equals the whole", "".join(p.choices[0].text for p in parts if p.choices) == text)
    check("stream usage", parts[-1].usage.completion_tokens == n, parts[-1])
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Tell me about Lily 🐈"}]
    chat = c.chat.completions.create(model=model, messages=messages, max_tokens=40, temperature=0, n=3, seed=1)
    check("n=3", len(chat.choices) == 3 and len({x.message.content for x in chat.choices}) == 1, chat.choices)
    check("finish", all(x.finish_reason in ("length", "stop") for x in chat.choices))
    deltas = {}
    for part in c.chat.completions.create(model=model, messages=messages, max_tokens=40, temperature=0, n=3, stream=True):
        for choice in part.choices:
            deltas[choice.index] = deltas.get(choice.index, "") + (choice.delta.content or "")
    check("streamed chat equals the whole", deltas == {x.index: x.message.content for x in chat.choices}, deltas)
    raw = c.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=4,
                                                      extra_body={"kv_policy": {"name": "sink", "budget": 64}})
    check("policy header", raw.headers["x-kv-policy"].startswith("sink; budget=64"), raw.headers["x-kv-policy"])
    check("kv_cache in usage", raw.parse().usage.model_extra["kv_cache"]["policy"] == "sink")
    probs = c.chat.completions.create(model=model, messages=messages, max_tokens=5, logprobs=True, top_logprobs=2,
                                      temperature=0)
    entries = probs.choices[0].logprobs.content
    check("logprobs bytes are the content",
          b"".join(bytes(x.bytes) for x in entries).decode() == probs.choices[0].message.content)
    check("greedy is the top", all(x.logprob == max(t.logprob for t in x.top_logprobs) for x in entries))
    with c.chat.completions.stream(model=model, messages=messages, stop=["e"], temperature=0) as stream:
        final = stream.get_final_completion()
    check("the stream helper accumulates", final.choices[0].message.role == "assistant")


def errors(server):
    c = client(server)
    messages = [{"role": "user", "content": "hi"}]
    fails("wrong type", openai.BadRequestError, "invalid_type",
          lambda: c.chat.completions.create(model="m", messages=messages, temperature="hot"))
    fails("out of range", openai.BadRequestError, "invalid_value",
          lambda: c.chat.completions.create(model="m", messages=messages, temperature=2.5))
    fails("unknown path", openai.NotFoundError, "not_found", lambda: c.files.list())
    fails("unknown policy", openai.BadRequestError, "invalid_kv_policy",
          lambda: c.chat.completions.create(model="m", messages=messages, extra_body={"kv_policy": "snapvk"}))
    long = fails("too long a prompt", openai.BadRequestError, "context_length_exceeded",
                 lambda: c.completions.create(model="m", prompt="word " * 4000))
    if long:
        check("overflow numbers", long.body["n_ctx"] == 512 and long.body["n_prompt_tokens"] > 512, long.body)
    status, _, body = server.post("/v1/chat/completions", b'{"messages": [')
    check("bad JSON", status == 400 and body["error"]["code"] == "invalid_json", body)
    fails("embeddings come later", openai.BadRequestError, "unsupported_parameter",
          lambda: c.embeddings.create(model="m", input="x"))
    fails("tools come later", openai.BadRequestError, "unsupported_parameter",
          lambda: c.chat.completions.create(model="m", messages=messages,
                                            tools=[{"type": "function", "function": {"name": "f"}}]))


def keys_and_names():
    with Server("--api-key", "secret", "--strict-model", "--alias", "org/real") as server:
        fails("wrong key", openai.AuthenticationError, "invalid_api_key", lambda: client(server, "wrong").models.list())
        c = client(server, "secret")
        check("id with a slash", c.models.retrieve("org/real").id == "org/real")
        fails("unknown model", openai.NotFoundError, "model_not_found",
              lambda: c.completions.create(model="other", prompt="x"))
        check("metrics are public", "winnow_requests_running" in server.get("/metrics"))


def full_queue():
    with Server("--max-num-seqs", "1", "--max-queue", "1") as server:
        c = client(server)
        endless = {"model": "m", "prompt": "Once", "max_tokens": 10_000_000, "stream": True,
                   "extra_body": {"kv_policy": {"name": "sink", "budget": 64}, "ignore_eos": True}}
        running = c.completions.create(**endless)
        next(iter(running))
        waiting = threading.Thread(target=lambda: swallow(c, endless), daemon=True)
        waiting.start()
        for _ in range(500):
            if "winnow_requests_waiting 1" in server.get("/metrics"):
                break
            threading.Event().wait(0.02)
        failure = fails("full queue", openai.RateLimitError, "queue_full", lambda: c.completions.create(**endless))
        if failure:
            check("Retry-After", 1 <= int(failure.response.headers["retry-after"]) <= 60)
        running.response.close()


def swallow(c, arguments):
    try:
        for _ in c.completions.create(**arguments):
            return
    except openai.APIError:
        pass


with Server("--audit") as first:
    answers(first)
    errors(first)
    check("no page is left in use", first.pages_used() == 0, first.pages_used())
    check("ends well", first.stop() == 0, first.log()[-2000:])
keys_and_names()
full_queue()
check.end()

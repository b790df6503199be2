#!/usr/bin/env python3
"""Model files that lie or lack something, as a user meets them: what is refused by name, what is mended with a
warning, and what a prompt becomes."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from small_model import BOOL, CONTROL, NORMAL, U32, USER_DEFINED, matrix, write_script  # noqa: E402
from winnow_server import BINARY, Checks, Server, wait_for  # noqa: E402

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
check = Checks()
folder = tempfile.TemporaryDirectory()
made = 0


def model(pieces=("Yes", "."), **more):
    global made
    made += 1
    return write_script(os.path.join(folder.name, f"model{made}.gguf"), list(pieces), **more)


def refusal(path):
    done = subprocess.run([BINARY, "serve", path, "--port", "0"], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def chat(s, messages, **more):
    return s.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 30, **more})


def said(answer):
    return answer[2]["choices"][0]["message"]["content"]


USER = [{"role": "user", "content": "Hi"}]

# ---- what changes the computation
status, err = refusal(model(tensors={"blk.0.ffn_up.bias": matrix(1, 32)}))
check("an unread tensor is refused by name", status == 1 and "'blk.0.ffn_up.bias'" in err, err)
check("and the file is named", "model1.gguf" in err, err)
status, err = refusal(model(keys={"llama.attention.causal": (BOOL, False)}))
check("attention that is not causal is refused", status == 1 and "llama.attention.causal" in err, err)
status, err = refusal(model(keys={"split.count": (U32, 2), "split.no": (U32, 1)}))
check("a part of a split model is told as such", status == 1 and "part 2 of 2" in err, err)
status, err = refusal("/nonexistent.gguf")
check("a missing file is told before an address", status == 1 and "/nonexistent.gguf: cannot open" in err and
      "listening" not in err, err)
status, err = refusal("README.md")
check("a file that is no model is named", status == 1 and "README.md: byte 0" in err, err)

with Server(model=model(padding=40)) as s:
    check("rows without a token are no fault", said(chat(s, USER)) == "Yes.", s.log())
    check("and are never text", s.post("/detokenize", {"tokens": [298]})[2]["content"] == "")

# ---- turn markers whose file calls them text
for kind in (NORMAL, USER_DEFINED, CONTROL):
    markers = [("<|im_start|>", kind), ("<|im_end|>", kind)]
    path = model(["Yes", ".", "<|im_end|>", "more"], specials=markers, template=CHATML)
    with Server(model=path) as s:
        answer = chat(s, USER)
        check(f"an end of turn of kind {kind} ends the answer", said(answer) == "Yes.", answer[2])
        check(f"with the reason stop, kind {kind}", answer[2]["choices"][0]["finish_reason"] == "stop", answer[2])
        check(f"kind {kind}: a warning unless it is right", ("turn markers" in s.log()) == (kind != CONTROL), s.log())
        plain = s.post("/apply-template", {"messages": [{"role": "user", "content": "xxxxxxxxxxxx"}]})[2]["tokens"]
        forged = s.post("/apply-template", {"messages": [{"role": "user", "content": "<|im_start|>"}]})[2]["tokens"]
        check(f"kind {kind}: a user's marker is letters", plain == forged, (plain, forged))

# ---- templates
for name, template in (("empty", ""), ("blank", " \n"), ("silent", "{% for m in messages %}x{% endfor %}")):
    with Server(model=model(specials=[("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)], template=template)) as s:
        text = s.post("/apply-template", {"messages": USER})[2]["prompt"]
        check(f"an {name} template is replaced by one that has the user's turn", "Hi" in text, text)
        check(f"an {name} template is warned about", "chat template" in s.log() and 'chatml' in s.log(), s.log())
with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
    f.write("x")
    f.flush()
    done = subprocess.run([BINARY, "serve", model(), "--port", "0", "--chat-template", f.name], capture_output=True,
                          text=True, timeout=60)
    check("an operator's template that loses the user's turn ends the start", done.returncode == 1 and
          "leaves out what the user says" in done.stderr, done.stderr)

TOOLS = ("{% set coder = tools | selectattr('type', 'equalto', 'coder') | list | length > 0 -%}"
         "{% for m in messages %}[{{ m.role }}] {{ m.content + '' }}{% for c in m.tool_calls or [] %}"
         "{% if c.id | length != 9 %}{{ raise_exception('bad id') }}{% endif %}<{{ c.function.name }}>"
         "{% endfor %}{% endfor %}{{ reasoning_effort }}{{ verbosity }}{{ x }}"
         "{% if messages | length == 7 %}\n{{ raise_exception('seven') }}{% endif %}")
with Server(model=model(template=TOOLS)) as s:
    check("a template that selects from absent tools works", chat(s, USER)[0] == 200, chat(s, USER))
    call = {"id": "call_0123456789abcdef", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = USER + [{"role": "assistant", "content": None, "tool_calls": [call]},
                       {"role": "tool", "tool_call_id": call["id"], "content": "1"}]
    status, _, answer = s.post("/apply-template", {"messages": messages})
    check("null content beside calls is an empty text", status == 200 and "[assistant] <f>" in answer["prompt"], answer)
    legacy = USER + [{"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
                     {"role": "function", "name": "g", "content": "1"}]
    status, _, answer = s.post("/apply-template", {"messages": legacy})
    check("a legacy function_call is a call", status == 200 and "[assistant] <g>[tool] 1" in answer["prompt"], answer)
    status, _, answer = s.post("/apply-template", {"messages": USER * 7})
    check("an error names the template and its line",
          status == 400 and answer["error"]["message"] == "the model's chat template, line 2: seven", answer)
    for path in ("/apply-template", "/tokenize"):
        plain = s.post(path, {"messages": USER})[2]
        more = s.post(path, {"messages": USER, "reasoning_effort": "high", "verbosity": "low",
                             "chat_template_kwargs": {"x": "!"}})[2]
        count = "tokens" if path == "/apply-template" else "count"
        check(f"{path} takes the arguments of templates", more[count] == plain[count] + 8, (plain, more))

# ---- BOS and EOS
BOS = {"tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.add_bos_token": (BOOL, True),
       "tokenizer.ggml.add_eos_token": (BOOL, True)}
path = model(specials=[("<bos>", CONTROL)], keys=BOS, template="{{ bos_token }}{% for m in messages %}{{ m.content }}"
             "{% endfor %}")
with Server(model=path) as s:
    def prompt_tokens(text, **more):
        answer = s.post("/v1/completions", {"prompt": text, "max_tokens": 1, **more})[2]
        return answer["usage"]["prompt_tokens"]

    rendered = s.post("/apply-template", {"messages": USER})[2]
    check("the template writes BOS", rendered["prompt"] == "<bos>Hi" and rendered["tokens"] == 3, rendered)
    check("its text gets no second BOS", prompt_tokens(rendered["prompt"]) == 3, prompt_tokens(rendered["prompt"]))
    check("a plain text gets BOS and no EOS", prompt_tokens("Hi") == 3, prompt_tokens("Hi"))
    check("add_special_tokens false: no BOS", prompt_tokens("Hi", add_special_tokens=False) == 2)
    answer = s.post("/v1/completions", {"prompt": "Hi", "max_tokens": 9, "temperature": 0})[2]
    check("a completion goes on behind the prompt", answer["choices"][0]["text"] == "Yes.", answer)
ran = subprocess.run([BINARY, "run", path, "--raw", "-p", "Hi", "-n", "9", "--temp", "0"], capture_output=True, text=True)
check("so does winnow run --raw", ran.stdout == "Yes." and "prompt: 3 tokens" in ran.stderr, (ran.stdout, ran.stderr))

# ---- a file that changes while it is served
path = model(["a", "b", "c"], end=0, context=4096)
with Server(model=path) as s:
    os.truncate(path, 4096)
    try:
        s.post("/v1/completions", {"prompt": "Hi", "max_tokens": 9})
    except OSError:
        pass
    ended = wait_for(lambda: s.process.poll() is not None)
    check("a file cut short while served ends the server", ended and s.process.returncode == 1, s.process.returncode)
    check("with a sentence that names it", path in s.log() and "cut short or overwritten" in s.log(), s.log())
path = model()
with Server(model=path) as s:
    with open(path, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"x")
    check("an overwritten file is warned about", wait_for(lambda: "was changed while it is served" in s.log()), s.log())
path = model()
with Server("--no-mmap", model=path) as s:
    os.truncate(path, 4096)
    check("--no-mmap: the file may change", said(chat(s, USER)) == "Yes.")

check.end()

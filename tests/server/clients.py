"""The official clients against a server: python3 clients.py URL PICTURE. Prints one line per check."""

import base64
import json
import sys

import anthropic
import openai

url, picture = sys.argv[1:3]
data = base64.b64encode(open(picture, "rb").read()).decode()
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
question = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    {"type": "text", "text": "What is this?"},
]
chat = dict(model="fixture", max_tokens=12, temperature=0, messages=[{"role": "user", "content": question}])


def done(name):
    print("ok", name, flush=True)


assert [m.id for m in client.models.list()] == ["fixture"]
done("models")

whole = client.chat.completions.create(**chat, logprobs=True, top_logprobs=2, seed=1, user="me", metadata={"a": "b"})
text = whole.choices[0].message.content
assert len(whole.choices[0].logprobs.content) == 12 and whole.usage.completion_tokens == 12
done("chat")

chunks = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
done("streamed chat")

schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
said = client.chat.completions.create(
    model="fixture", max_tokens=900, temperature=0, messages=[{"role": "user", "content": "JSON"}],
    response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}})
assert json.loads(said.choices[0].message.content)["a"] in (1, 2)
done("response_format")

tools = [{"type": "function", "function": {"name": "pick", "parameters": schema}}]
said = client.chat.completions.create(
    model="fixture", max_tokens=900, temperature=0, messages=[{"role": "user", "content": "Pick"}],
    tools=tools, tool_choice="required", parallel_tool_calls=False)
call = said.choices[0].message.tool_calls[0]
assert call.function.name == "pick" and json.loads(call.function.arguments)["a"] in (1, 2)
again = client.chat.completions.create(
    model="fixture", max_tokens=4, tools=tools,
    messages=[{"role": "user", "content": "Pick"}, said.choices[0].message.model_dump(exclude_none=True),
              {"role": "tool", "tool_call_id": call.id, "content": "done"}])
assert again.usage.completion_tokens <= 4
done("tools")

assert client.completions.create(model="fixture", prompt="One", max_tokens=3).usage.completion_tokens == 3
done("completions")

vectors = client.embeddings.create(model="fixture", input=["a", "b"]).data
assert len(vectors) == 2 and abs(sum(x * x for x in vectors[0].embedding) - 1) < 1e-5
done("embeddings")

reply = client.responses.create(model="fixture", input="Hello", max_output_tokens=8, temperature=0)
assert reply.output_text and reply.usage.output_tokens == 8
with client.responses.stream(model="fixture", input="Hello", max_output_tokens=8, temperature=0) as stream:
    written = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
assert written == reply.output_text
done("responses")

more = client.responses.create(
    model="fixture", input="And?", previous_response_id=reply.id, max_output_tokens=8, temperature=0)
assert more.previous_response_id == reply.id and more.usage.input_tokens > reply.usage.input_tokens
assert client.responses.retrieve(reply.id).output_text == reply.output_text
client.responses.delete(reply.id)
try:
    client.responses.retrieve(reply.id)
    raise SystemExit("a deleted response is still there")
except openai.NotFoundError:
    pass
done("kept responses")

try:
    client.chat.completions.create(**{**chat, "temperature": 9e99, "extra_body": {"frobnicate": 1}})
    raise SystemExit("an unknown field was taken")
except openai.BadRequestError as error:
    assert error.param == "frobnicate", error
done("errors")

claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
source = {"type": "base64", "media_type": "image/png", "data": data}
# Newer clients have no parameter for the temperature.
ask = dict(model="fixture", max_tokens=12, extra_body={"temperature": 0}, messages=[
    {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]}])
message = claude.messages.create(**ask)
assert message.content[0].text == text and message.stop_reason == "max_tokens", message
done("messages")

with claude.messages.stream(**ask) as stream:
    assert "".join(stream.text_stream) == text
assert claude.messages.count_tokens(model="fixture", messages=ask["messages"]).input_tokens == whole.usage.prompt_tokens
done("streamed messages")

try:
    claude.messages.create(**{**ask, "max_tokens": 0})
    raise SystemExit("no tokens were taken")
except anthropic.BadRequestError as error:
    assert "max_tokens" in str(error), error
done("errors of messages")

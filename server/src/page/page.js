// The chat. State is the list of messages as the server takes them, and the figures that show their media.
"use strict";

const $ = (id) => document.getElementById(id);
const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a3a3", "#bfa100", "#f032e6"];
let messages = [], pictures = [], videos = [], waiting = [], running = null;

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: "Bearer " + key } : {}) };
}

function figure(medium) {
  const element = document.createElement(medium.kind === "video" ? "video" : "img");
  element.src = medium.url;
  if (medium.kind === "video") element.controls = true;
  else element.alt = medium.name;
  return node("figure", element);
}

function turn(kind, ...children) {
  const box = node("div", ...children);
  box.className = "turn " + kind;
  $("talk").append(box);
  box.scrollIntoView({ block: "end" });
  return box;
}

// --- media

function add(file) {
  const kind = file.type.startsWith("video/") ? "video" : file.type.startsWith("image/") ? "image" : null;
  if (!kind) return;
  const reader = new FileReader();
  reader.onload = () => {
    const medium = { kind, name: file.name || kind, url: reader.result };
    const shown = figure(medium), remove = node("button", "×");
    remove.type = "button";
    remove.setAttribute("aria-label", "Remove " + medium.name);
    remove.onclick = () => {
      waiting = waiting.filter((other) => other !== medium);
      shown.remove();
    };
    shown.append(remove);
    waiting.push(medium);
    $("media").append(shown);
  };
  reader.readAsDataURL(file);
}

// --- boxes, points and times over pictures and videos

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function draw(found) {
  found.items.forEach((item, index) => {
    const shown = pictures[item.image];
    const image = shown && shown.querySelector("img");
    if (!image || !image.naturalWidth) return;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    let layer = shown.querySelector("svg");
    if (!layer) {
      layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
      shown.append(layer);
    }
    const colour = COLOURS[index % COLOURS.length], size = Math.max(width, height) / 40;
    const [x1, y1, x2, y2] = item.pixels;
    if (item.bbox_2d) layer.append(svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, stroke: colour }));
    else layer.append(svg("circle", { cx: x1, cy: y1, r: size / 3, fill: colour }));
    if (item.label) {
      const label = svg("text", { x: x1, y: Math.max(y1 - size / 3, size), "font-size": size });
      label.textContent = item.label;
      layer.append(label);
    }
  });
}

function times(found, box) {
  const shown = videos[videos.length - 1];
  if (!shown || !found.spans.length) return;
  const film = shown.querySelector("video");
  const buttons = found.spans.map((span) => {
    const button = node("button", `▶ ${span.start.toFixed(1)}–${span.end.toFixed(1)} s ${span.label || ""}`);
    button.type = "button";
    button.onclick = () => {
      film.currentTime = span.start;
      film.play();
    };
    return button;
  });
  const row = node("div", ...buttons);
  row.className = "times";
  box.append(row);
}

// --- asking

function settings() {
  const chosen = {};
  for (const name of ["temperature", "top_p", "top_k", "seed", "max_tokens"]) {
    const value = $(name).value.trim();
    if (value !== "") chosen[name] = Number(value);
  }
  return chosen;
}

function question(text) {
  const shown = node("div");
  shown.className = "shown";
  const parts = waiting.map((medium) => {
    const here = figure(medium);
    (medium.kind === "video" ? videos : pictures).push(here);
    shown.append(here);
    const key = medium.kind + "_url";
    return { type: key, [key]: { url: medium.url } };
  });
  turn("user", ...(parts.length ? [shown] : []), text);
  waiting = [];
  $("media").replaceChildren();
  return { role: "user", content: [...parts, { type: "text", text }] };
}

// The events of a streamed answer.
async function* events(response) {
  const decoder = new TextDecoder(), reader = response.body.getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += decoder.decode(value, { stream: true });
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice(6));
    }
  }
}

async function explain(response) {
  try {
    const { error } = await response.json();
    return error.param ? `${error.message} (${error.param})` : error.message;
  } catch {
    return `the server said ${response.status}`;
  }
}

async function answer(box) {
  const system = $("system").value.trim();
  const all = system ? [{ role: "system", content: system }, ...messages] : messages;
  const body = { messages: all, stream: true, stream_options: { include_usage: true }, grounding: true, ...settings() };
  const response = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
  });
  if (!response.ok) throw new Error(await explain(response));
  const thought = node("details", node("summary", "Thinking"), document.createTextNode(""));
  thought.className = "thought";
  const shown = node("div"), facts = node("div");
  facts.className = "facts";
  box.replaceChildren(shown, facts);
  const said = { role: "assistant", content: "" };
  const begun = performance.now();
  try {
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) {
        const seconds = (performance.now() - begun) / 1000, { prompt_tokens, completion_tokens } = chunk.usage;
        const cached = chunk.usage.prompt_tokens_details.cached_tokens;
        facts.textContent = `${prompt_tokens} tokens read (${cached} from the cache), ${completion_tokens} written in ${seconds.toFixed(1)} s`;
      }
      const delta = chunk.choices[0] && chunk.choices[0].delta;
      if (!delta) continue;
      if (delta.reasoning_content) {
        if (!thought.isConnected) box.prepend(thought);
        thought.lastChild.data += delta.reasoning_content;
      }
      if (delta.content) {
        said.content += delta.content;
        shown.replaceChildren(...markdown(said.content));
        box.scrollIntoView({ block: "end" });
      }
      if (delta.grounding) {
        draw(delta.grounding);
        times(delta.grounding, box);
      }
    }
  } finally {
    if (said.content) messages.push(said);
  }
}

async function send(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (running || (!text && !waiting.length)) return;
  messages.push(question(text));
  $("text").value = "";
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const box = turn("assistant", "…");
  try {
    await answer(box);
  } catch (error) {
    if (error.name === "AbortError") {
      const note = node("div", "Stopped.");
      note.className = "facts";
      box.append(note);
    } else {
      turn("error", error.message);
      box.textContent === "…" && box.remove();
    }
  }
  // A question without an answer is not part of the talk.
  if (messages.length && messages[messages.length - 1].role === "user") messages.pop();
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("text").focus();
}

async function introduce() {
  const response = await fetch("v1/models", { headers: headers() }).catch(() => null);
  if (!response) return;
  if (response.ok) $("model").textContent = (await response.json()).data[0].id;
  else {
    $("model").textContent = response.status === 401 ? "the server asks for an API key (Settings)" : "loading the model";
    if (response.status === 503) setTimeout(introduce, 2000);
  }
}

function clear() {
  if (running) running.abort();
  [messages, pictures, videos] = [[], [], []];
  $("talk").replaceChildren();
}

$("ask").onsubmit = send;
$("stop").onclick = () => running && running.abort();
$("clear").onclick = clear;
$("key").onchange = introduce;
$("files").onchange = (event) => {
  [...event.target.files].forEach(add);
  event.target.value = "";
};
$("toggle").onclick = () => {
  const hidden = ($("settings").hidden = !$("settings").hidden);
  $("toggle").setAttribute("aria-expanded", String(!hidden));
};
$("theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
};
document.onpaste = (event) => [...event.clipboardData.files].forEach(add);
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("drop");
};
document.ondragleave = () => document.body.classList.remove("drop");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("drop");
  [...event.dataTransfer.files].forEach(add);
};
introduce();

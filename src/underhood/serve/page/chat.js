// The conversation: settings, streams, tokens and their probabilities. What the model writes enters the page as text nodes only.
import { showMaps } from "/page/attention.js";

const $ = (id) => document.getElementById(id);
const make = (tag, kind, text) => Object.assign(document.createElement(tag), { className: kind ?? "", textContent: text ?? "" });
const SETTINGS = ["system", "temperature", "top_p", "max_tokens", "seed"];
const ALTERNATIVES = 5;
let model = null;
let turns = []; // {role, content}; a new chat is a new array
let running = null; // an AbortController while an answer comes

// ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

export async function ask(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if ($("token").value) headers.authorization = `Bearer ${$("token").value}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer;
  const fault = (await answer.json().catch(() => ({}))).error ?? { message: `status ${answer.status}` };
  if (answer.status === 401) {
    $("key").hidden = false;
    $("settings").classList.add("open");
  }
  throw Object.assign(new Error(fault.message), { code: fault.code });
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}

function request(text) {
  const wanted = { model: model.id, stream: true, stream_options: { include_usage: true }, temperature: Number($("temperature").value) };
  if (Number($("top_p").value) < 1) wanted.top_p = Number($("top_p").value);
  if ($("max_tokens").value) wanted.max_tokens = Number($("max_tokens").value);
  if ($("seed").value) wanted.seed = Number($("seed").value);
  if (continues()) {
    const most = Math.max(1, Math.min(256, Math.floor(model.underhood.context / 2)));
    return ["/v1/completions", { max_tokens: most, ...wanted, prompt: text, logprobs: ALTERNATIVES }];
  }
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns];
  return ["/v1/chat/completions", { ...wanted, messages, logprobs: true, top_logprobs: ALTERNATIVES }];
}

/** The stream of an answer; what a conversation is too long for, its oldest turns, is left out. */
async function stream(text, signal, note) {
  for (;;) {
    try {
      return await ask(...request(text), signal);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || continues() || turns.length < 2) throw error;
      turns.splice(0, turns[1]?.role === "assistant" ? 2 : 1);
      note("earlier turns left out: the context is full");
    }
  }
}

// ── an answer ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The tokens of a chunk, whichever way they are written: {text, p, top: [[text, p], …]}. */
function tokensOf(choice) {
  const found = choice.logprobs;
  if (!found) return [];
  if (found.content) return found.content.map((t) => ({ text: t.token, p: Math.exp(t.logprob), top: t.top_logprobs.map((o) => [o.token, Math.exp(o.logprob)]) }));
  return found.tokens.map((text, i) => {
    const top = Object.entries(found.top_logprobs[i] ?? {}).map(([name, p]) => [name, Math.exp(p)]);
    return { text, p: Math.exp(found.token_logprobs[i]), top };
  });
}

/** Answer `text`, which stands in the log as `given`, or nowhere yet. */
async function answer(text, given) {
  const chat = turns;
  running = new AbortController();
  $("send").textContent = "Stop";
  $("send").classList.add("stop");
  const turn = make("div", "turn assistant");
  const said = turn.appendChild(make("div", "said"));
  const foot = turn.appendChild(make("div", "foot"));
  if (continues()) said.append(make("span", "given", text));
  add(turn);
  const begin = performance.now();
  let [whole, waiting, end, usage, first] = ["", [], "", null, 0];
  try {
    const came = await stream(text, running.signal, (note) => foot.append(make("span", "", note)));
    for await (const event of events(came)) {
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      waiting.push(...tokensOf(choice));
      const piece = choice.delta?.content ?? choice.text ?? "";
      if (piece) {
        first ||= performance.now();
        whole += piece;
        const nodes = token(piece, waiting);
        follow(() => said.append(...nodes));
        waiting = [];
      }
      end = choice.finish_reason ?? end;
    }
  } catch (error) {
    end = error.name === "AbortError" ? "stopped" : "failed";
    if (end === "failed") foot.append(make("span", "error", error.message));
  }
  const vain = end === "failed" && !whole;
  if (chat === turns) {
    if (vain) takeBack(text, given);
    else if (given) turns.push({ role: "assistant", content: whole });
  }
  if (!whole && !said.firstChild) said.append(make("span", "given", vain ? "—" : "(nothing)"));
  const seconds = (performance.now() - (first || begin)) / 1000;
  follow(() => finish(foot, continues() ? text + whole : whole, end, usage, seconds));
  running = null;
  $("send").textContent = "Send";
  $("send").classList.remove("stop");
}

/** What was not answered goes back to where it was written, or two turns of one speaker would follow each other. */
function takeBack(text, given) {
  if (given) turns.pop();
  given?.remove();
  $("text").value ||= text;
  grow();
}

/** A piece as nodes; the space before a word has no colour of its own, or it would hang at the ends of lines. */
function token(piece, tokens) {
  const space = piece.trim() ? piece.slice(0, piece.length - piece.trimStart().length) : "";
  const span = make("span", "t", piece.slice(space.length));
  if (!tokens.length) return [space, span];
  span.tokens = tokens;
  const p = tokens.reduce((product, t) => product * t.p, 1);
  span.style.setProperty("--unsure", (0.55 * (1 - p)).toFixed(3));
  return [space, span];
}

function finish(foot, text, end, usage, seconds) {
  const count = usage?.completion_tokens;
  const speed = count > 1 && seconds > 0.05 ? ` · ${((count - 1) / seconds).toFixed(0)} tokens/s` : "";
  const ends = { length: "ended at the limit", stop: "ended by itself", stopped: "stopped" }[end];
  const facts = [count !== undefined ? `${count} tokens${speed}` : "", ends ?? ""].filter(Boolean).join(" · ");
  if (text) {
    const copy = make("button", "", "Copy");
    copy.onclick = async () => {
      await navigator.clipboard.writeText(text).catch(() => {});
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1200);
    };
    const maps = make("button", "", "Attention");
    maps.onclick = () => showMaps(model, text, ask).catch((error) => foot.append(make("span", "error", error.message)));
    foot.prepend(copy, maps);
  }
  if (facts) foot.append(make("span", "", facts));
}

// ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Change the log, and stay at its end if that is what was seen. */
function follow(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function add(turn) {
  $("log").querySelector(".empty")?.remove();
  $("log").append(turn);
  $("log").scrollTop = $("log").scrollHeight;
}

function clear() {
  running?.abort();
  turns = [];
  const empty = make("div", "empty");
  const title = continues() ? "Begin a text" : "Say something";
  const more = continues() ? "The model goes on with it." : (model?.underhood.chat.style === "plain" ? "It was trained on plain text and continues a written dialogue." : "");
  empty.append(make("strong", "", title), make("span", "", `${more} Point at a token to see how likely it was.`.trim()));
  $("log").replaceChildren(empty);
}

const continues = () => document.querySelector("[name=mode]:checked").value === "continue";

function showMode() {
  document.body.classList.toggle("continues", continues());
  $("text").placeholder = continues() ? "Once upon a time" : "Write a message";
  clear();
}

function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
}

function submit() {
  if (running) return running.abort();
  const text = continues() ? $("text").value : $("text").value.trim();
  if (!text || !model) return;
  let given = null;
  if (!continues()) {
    turns.push({ role: "user", content: text });
    given = make("div", "turn user");
    given.append(make("div", "said", text));
    add(given);
  }
  $("text").value = "";
  grow();
  answer(text, given);
}

// ── probabilities under the pointer ─────────────────────────────────────────────────────────────────────────────────────

const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");

function row(text, p, kind) {
  const line = make("div", `row ${kind}`);
  line.style.setProperty("--share", p.toFixed(4));
  line.append(make("span", "", visible(text)), make("span", "", percent(p)));
  return line;
}

function tell(span) {
  const tip = $("tip");
  document.querySelector(".t.on")?.classList.remove("on");
  tip.hidden = !span?.tokens;
  if (tip.hidden) return;
  span.classList.add("on");
  tip.replaceChildren();
  for (const one of span.tokens.slice(0, 3)) {
    const block = make("div", tip.firstChild ? "more" : "");
    const others = one.top.filter(([text]) => text !== one.text);
    block.append(row(one.text, one.p, "chosen"), ...others.slice(0, ALTERNATIVES).map(([text, p]) => row(text, p, "")));
    tip.append(block);
  }
  const place = span.getClientRects()[0] ?? span.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
  const below = place.bottom + 6;
  tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : Math.max(8, place.top - tip.offsetHeight - 6)}px`;
}

// ── beginning ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const THEMES = ["system", "light", "dark"];
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function dress(theme) {
  const dark = theme === "dark" || (theme === "system" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").title = `Colours: ${theme}`;
  localStorage.setItem("theme", theme);
}

function remember() {
  for (const id of SETTINGS) sessionStorage.setItem(id, $(id).value);
  for (const out of document.querySelectorAll("output")) out.value = Number($(out.htmlFor[0]).value).toFixed(2);
}

async function open() {
  try {
    model = (await (await ask("/v1/models")).json()).data[0];
  } catch (error) {
    $("facts").textContent = error.message;
    return;
  }
  const { parameters, context, n_layer, n_head, chat } = model.underhood;
  const size = parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} B` : parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} M` : `${Math.round(parameters / 1e3)} k`;
  $("model").textContent = model.id;
  document.title = `${model.id} – underhood`;
  $("facts").textContent = `${size} parameters · ${n_layer} layers of ${n_head} heads · context ${context}`;
  $("says").textContent = `${chat.says[0].toUpperCase()}${chat.says.slice(1)}.`;
  clear();
}

$("composer").onsubmit = (event) => { event.preventDefault(); submit(); };
$("settings").onsubmit = (event) => event.preventDefault();
$("text").oninput = grow;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
};
$("new").onclick = clear;
$("open").onclick = () => {
  const opened = $("settings").classList.toggle("open");
  $("open").setAttribute("aria-expanded", opened);
  $("open").textContent = opened ? "Done" : "Settings";
};
$("theme").onclick = () => dress(THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "system") + 1) % 3]);
$("tint").onchange = () => document.body.classList.toggle("tinted", $("tint").checked);
$("settings").oninput = remember;
$("token").onchange = () => { sessionStorage.setItem("token", $("token").value); open(); };
for (const radio of document.querySelectorAll("[name=mode]")) radio.onchange = showMode;
$("log").onpointerover = (event) => tell(event.target.closest(".t"));
$("log").onpointerleave = () => tell(null);
$("log").onscroll = () => tell(null);
systemDark.onchange = () => dress(localStorage.getItem("theme") ?? "system");
for (const id of SETTINGS) $(id).value = sessionStorage.getItem(id) ?? $(id).value;
$("token").value = sessionStorage.getItem("token") ?? "";
dress(localStorage.getItem("theme") ?? "system");
remember();
open();

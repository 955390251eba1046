// Drives the chat page in a browser, with a server that does as each scene says; what was asked of it is left in the title.
const asked = [];
let behave = null;
const $ = (id) => document.getElementById(id);
const model = { id: "tiny", underhood: { parameters: 1, context: 96, n_layer: 1, n_head: 1, chat: { style: "plain", says: "plain" } } };
const pause = (seconds) => new Promise((go) => setTimeout(go, 1000 * seconds));
const chunk = (text, finish = null) => `data: ${JSON.stringify({ choices: [{ delta: { content: text }, finish_reason: finish, logprobs: null }] })}\n\n`;

window.fetch = async (path, { body, signal }) => {
  if (path === "/v1/models") return Response.json({ data: [model] });
  asked.push(JSON.parse(body).messages.map((m) => `${m.role}: ${m.content}`));
  return behave(signal);
};

const busy = () => Response.json({ error: { message: "too many wait", code: "queue_full" } }, { status: 429 });
const answers = (text) => () => new Response(chunk(text, "stop") + "data: [DONE]\n\n");
/** Says a little and no more; ends when it is aborted. */
const hangs = (signal) =>
  new Response(
    new ReadableStream({
      start(stream) {
        stream.enqueue(new TextEncoder().encode(chunk("half")));
        signal.addEventListener("abort", () => stream.error(new DOMException("aborted", "AbortError")));
      },
    }),
  );
const breaks = () => new Response(chunk("half") + `data: {"error": {"message": "broken"}}\n\n`);
const tooLong = () => Response.json({ error: { message: "too long", code: "context_length_exceeded" } }, { status: 400 });

async function say(text, how) {
  behave = how;
  $("text").value = text;
  $("composer").requestSubmit();
  await pause(0.1);
}

const shown = () => [...document.querySelectorAll("#log .turn.user .said")].map((said) => said.textContent);
const scenes = {
  async "turns follow each other"() {
    await say("one", answers("1"));
    await say("two", answers("2"));
  },
  async "a first answer that fails"() {
    await say("one", busy);
    const back = $("text").value;
    const seen = shown();
    await say(back, answers("1"));
    return { back, seen };
  },
  async "a new chat while an answer comes"() {
    await say("one", hangs);
    $("new").click();
    await pause(0.1);
    await say("two", answers("2"));
  },
  async "an answer that breaks off"() {
    await say("one", breaks);
    await say("two", answers("2"));
  },
  async "something typed while an answer fails"() {
    await say("one", async () => (await pause(0.05), busy()));
    $("text").value = "meanwhile";
    await pause(0.1);
    return { back: $("text").value };
  },
  async "a stop"() {
    await say("one", hangs);
    $("send").click();
    await pause(0.1);
    await say("two", answers("2"));
  },
  async "a context that is full"() {
    await say("one", answers("1"));
    let refused = 0;
    await say("two", () => (refused++ ? answers("2")() : tooLong()));
    await say("three", answers("3"));
  },
};

addEventListener("load", async () => {
  const found = {};
  for (const [name, scene] of Object.entries(scenes)) {
    $("text").value = "";
    $("new").click();
    await pause(0.1);
    asked.length = 0;
    const more = await scene();
    found[name] = { asked: [...asked], ...more };
  }
  document.title = `done ${JSON.stringify(found)}`;
});

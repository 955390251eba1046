// Attention maps: one small square a head, one large map with the tokens at its sides. Row t is the token that looks, column s the one looked at.

const $ = (id) => document.getElementById(id);
const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text ?? "" });
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
const WIDEST = 72; // pixels of a token's name
const [SMALLEST, LARGEST] = [9, 26]; // pixels of a square; a smaller one has no room for a name beside it
let shown = null; // {tokens, weights, head}
let layout = null; // of the large map: {left, top, cell}

export async function showMaps(model, text, ask) {
  const layer = $("layer");
  layer.replaceChildren(...Array.from({ length: model.underhood.n_layer }, (_, i) => Object.assign(make("option", `${i}`), { value: i })));
  layer.value = `${Math.floor(model.underhood.n_layer / 2)}`;
  const load = async () => {
    const answer = await ask("/v1/underhood/attention", { model: model.id, text: text.slice(0, 4000), layer: Number(layer.value) });
    const found = await answer.json();
    shown = { tokens: found.tokens, weights: found.weights, head: Math.min(shown?.head ?? 0, found.n_head - 1) };
    const cut = found.cut ? ` The first ${found.tokens.length} of ${found.tokens.length + found.cut} tokens.` : "";
    $("map-says").textContent = `Each row is a token; the stronger a square, the more it takes from the token of that column.${cut}`;
    drawHeads();
    drawLarge();
  };
  layer.onchange = () => load().catch((error) => ($("map-says").textContent = error.message));
  await load();
  $("maps").showModal();
  drawLarge();
}

function drawHeads() {
  $("heads").replaceChildren(...shown.weights.map((weights, head) => {
    const button = make("button");
    const canvas = make("canvas");
    canvas.width = canvas.height = weights.length;
    const pen = canvas.getContext("2d");
    weights.forEach((row, t) => row.forEach((w, s) => square(pen, s, t, 1, w)));
    button.type = "button";
    button.append(canvas, `Head ${head}`);
    button.setAttribute("aria-pressed", head === shown.head);
    button.onclick = () => {
      shown.head = head;
      for (const other of $("heads").children) other.setAttribute("aria-pressed", other === button);
      drawLarge();
    };
    return button;
  }));
}

function ink() {
  const style = getComputedStyle(document.documentElement);
  return { accent: style.getPropertyValue("--accent"), soft: style.getPropertyValue("--soft"), line: style.getPropertyValue("--line") };
}

function square(pen, x, y, size, weight) {
  pen.globalAlpha = Math.min(1, 0.03 + 0.97 * Math.sqrt(weight)); // the eye sees small weights better so
  pen.fillStyle = ink().accent;
  pen.fillRect(x, y, size, size);
  pen.globalAlpha = 1;
}

function drawLarge() {
  const canvas = $("large");
  if (!shown || !canvas.clientWidth) return;
  const { tokens } = shown;
  const weights = shown.weights[shown.head];
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const pen = canvas.getContext("2d");
  const names = tokens.map(visible);
  pen.font = "11px system-ui, sans-serif";
  const side = Math.min(WIDEST, Math.max(...names.map((name) => pen.measureText(name).width))) + 8;
  const room = Math.max(320, innerHeight - 230); // so that the whole map is seen at once
  const cell = Math.min(LARGEST, (Math.min(width, room) - side - 2) / tokens.length);
  const labelled = cell >= SMALLEST;
  const [left, top] = labelled ? [side, side] : [2, 2];
  const size = labelled ? cell : Math.min(LARGEST, (Math.min(width, room) - 4) / tokens.length);
  const height = top + size * tokens.length + 2;
  canvas.style.height = `${height}px`;
  canvas.width = width * scale;
  canvas.height = height * scale;
  pen.scale(scale, scale);
  layout = { left, top, size };
  weights.forEach((row, t) => row.forEach((w, s) => square(pen, left + s * size, top + t * size, Math.max(size - 0.5, 0.5), w)));
  if (!labelled) return;
  pen.font = `${Math.min(11, Math.floor(size))}px system-ui, sans-serif`;
  pen.fillStyle = ink().soft;
  pen.textBaseline = "middle";
  names.forEach((name, i) => {
    pen.textAlign = "right";
    pen.fillText(fitting(pen, name), left - 5, top + (i + 0.5) * size);
    pen.save();
    pen.translate(left + (i + 0.5) * size, top - 5);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(fitting(pen, name), 0, 0);
    pen.restore();
  });
}

function fitting(pen, name) {
  let text = name;
  while (text.length > 1 && pen.measureText(text).width > WIDEST) text = `${text.slice(0, -2)}…`;
  return text;
}

function point(event) {
  if (!layout || !shown) return;
  const box = $("large").getBoundingClientRect();
  const s = Math.floor((event.clientX - box.left - layout.left) / layout.size);
  const t = Math.floor((event.clientY - box.top - layout.top) / layout.size);
  const weight = shown.weights[shown.head][t]?.[s];
  const said = weight === undefined ? "Point at a square." : `“${visible(shown.tokens[t])}” (${t}) takes ${(100 * weight).toFixed(1)} % from “${visible(shown.tokens[s])}” (${s})`;
  $("pair").textContent = said;
}

$("large").onpointermove = point;
$("large").onpointerdown = point;
$("close").onclick = () => $("maps").close();
$("maps").onclick = (event) => { if (event.target === $("maps")) $("maps").close(); };
addEventListener("resize", drawLarge);

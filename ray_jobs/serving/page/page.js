import { chat, get, post, postForm, setKey } from "./api.js";
import { colour, TokenMap } from "./map.js";

const $ = (id) => document.getElementById(id);
const map = new TokenMap($("map"));
let model = null; // of /v1/models
let file = null; // the picture as it came
let url = null; // and as a data URL
let turns = []; // the conversation, as the API has it
let under_way = null; // aborts what is being asked

const PLACEHOLDERS = {
  ask: "What is in the picture?", edit: "make the circle blue", point: "the largest object", draw: "a red circle on a white background",
};

function say(problem) {
  $("problem").textContent = problem ? `That did not work: ${problem}` : "";
}

async function attempt(work) {
  say("");
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (error.status === 401) $("key-form").hidden = false;
    say(error.message);
    return null;
  }
}

// ---------------------------------------------------------------- the model

async function start() {
  const answer = await attempt(() => get("/v1/models"));
  if (!answer) {
    $("about").textContent = $("key-form").hidden ? "There is no model yet." : "This server asks for a key.";
    return;
  }
  $("key-form").hidden = true;
  model = answer.data[0];
  const about = model.setok;
  $("about").textContent =
    `${model.id}: reads ${about.image_size} × ${about.image_size} pixels as at most ${about.max_tokens} tokens (${about.method.replaceAll("_", "-")})`;
  $("talk").hidden = !about.talks;
  $("point-choice").hidden = !about.points;
  $("threshold-row").hidden = about.threshold === null;
  if (about.threshold !== null) {
    [$("threshold").min, $("threshold").max] = about.threshold_range;
    $("threshold").step = (about.threshold_range[1] - about.threshold_range[0]) / 100;
  }
  $("most").max = Math.max(2 * about.max_tokens, 16);
  asTrained();
}

function asTrained() {
  $("threshold").value = model.setok.threshold_value;
  $("most").value = model.setok.max_tokens;
  showValues();
}

function showValues() {
  $("threshold-value").textContent = Number($("threshold").value).toFixed(2);
  $("most-value").textContent = $("most").value;
}

// ---------------------------------------------------------------- the picture

async function usePicture(blob) {
  await attempt(async () => {
    const picture = await createImageBitmap(blob).catch(() => { throw new Error("this is no picture that the browser can show"); });
    url = await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.readAsDataURL(blob);
    });
    file = blob;
    turns = [];
    $("log").replaceChildren();
    $("hint").hidden = true;
    map.show(picture);
    await look();
  });
}

let looking = null;
let again = false;

// Tokens and reconstruction by the sliders; while one answer is awaited, only the newest wish is kept.
async function look() {
  if (!url || !model) return;
  if (looking) { again = true; return; }
  do {
    again = false;
    const about = model.setok;
    const body = { image: url, max_tokens: Number($("most").value) };
    if (about.threshold !== null && Number($("threshold").value) !== about.threshold_value) body.threshold = Number($("threshold").value);
    if (body.max_tokens === about.max_tokens) delete body.max_tokens;
    looking = attempt(() => post("/v1/reconstruct", body));
    const tokens = await looking;
    looking = null;
    if (tokens && !again) show(tokens);
  } while (again);
}

function show(tokens) {
  map.tokens = tokens;
  map.chosen = -1;
  map.draw();
  $("map").setAttribute("aria-label", `The picture in ${tokens.count} tokens; arrow keys go from one to the next`);
  $("token-told").textContent = tokens.count === 1 ? "1 token" : `${tokens.count} tokens`;
  const order = tokens.sizes.map((size, token) => [size, token]).sort((a, b) => b[0] - a[0]);
  $("strip").replaceChildren(...order.map(([size, token]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = token + 1;
    button.title = button.ariaLabel = `Token ${token + 1}: ${size} patches`;
    button.style.background = `rgb(${colour(token)})`;
    const [r, g, b] = colour(token);
    if (0.3 * r + 0.6 * g + 0.1 * b < 110) button.style.color = "#fff";
    button.dataset.token = token;
    button.addEventListener("focus", () => choose(token));
    button.addEventListener("mouseenter", () => choose(token));
    button.addEventListener("mouseleave", () => choose(-1));
    button.addEventListener("blur", () => choose(-1));
    item.append(button);
    return item;
  }));
  draw($("painted"), `data:image/png;base64,${tokens.b64_json}`);
}

async function draw(canvas, source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
}

function choose(token) {
  if (!map.tokens || token === map.chosen) return;
  map.chosen = token;
  map.draw();
  for (const button of $("strip").querySelectorAll("button")) button.classList.toggle("on", Number(button.dataset.token) === token);
  const { count, sizes, grid } = map.tokens;
  const share = (100 * sizes[token]) / (grid[0] * grid[1]);
  $("token-told").textContent = token < 0
    ? `${count} token${count === 1 ? "" : "s"}`
    : `Token ${token + 1} of ${count}: ${sizes[token]} patches, ${share.toFixed(0)} % of the picture`;
}

// A scene for those who have no picture at hand.
function sampleScene() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 256;
  const c = canvas.getContext("2d");
  const any = (...list) => list[Math.floor(Math.random() * list.length)];
  c.fillStyle = any("white", "#87ceeb", "#f5e6c8");
  c.fillRect(0, 0, 256, 256);
  for (const [x, y] of [[70, 80], [185, 175], [180, 60]].slice(0, any(2, 3))) {
    c.fillStyle = any("red", "blue", "green", "gold", "purple", "orange");
    const size = 28 + 24 * Math.random();
    if (Math.random() < 0.5) { c.beginPath(); c.arc(x, y, size, 0, 7); c.fill(); } else { c.fillRect(x - size, y - size, 2 * size, 2 * size); }
  }
  canvas.toBlob(usePicture);
}

// ---------------------------------------------------------------- the talk

function line(text, kind = "") {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  $("log").append(item);
  $("log").scrollTop = $("log").scrollHeight;
  return item;
}

function addImage(item, source, alt) {
  const image = new Image();
  image.src = source;
  image.alt = alt;
  item.append(image);
  image.decode().finally(() => { $("log").scrollTop = $("log").scrollHeight; });
}

const TASKS = {
  async ask(words, item, signal) {
    const content = [{ type: "text", text: words }];
    if (url && !turns.length) content.unshift({ type: "image_url", image_url: { url } });
    turns.push({ role: "user", content });
    const reply = { role: "assistant", content: "", images: [] };
    await chat({ model: model.id, messages: turns }, (delta) => {
      reply.content += delta.content ?? "";
      item.firstChild.textContent = reply.content;
      for (const image of delta.images ?? []) {
        reply.images.push({ type: "image_url", image_url: image.image_url });
        addImage(item, image.image_url.url, "drawn by the model");
      }
      for (const mask of delta.masks ?? []) addImage(item, mask.mask_url, "a region of the picture");
    }, signal).catch((error) => { turns.pop(); throw error; });
    if (reply.content || reply.images.length) turns.push(reply); else turns.pop();
    if (!reply.content && !reply.images.length) item.firstChild.textContent = "(nothing)";
  },
  async edit(words, item, signal) {
    const form = new FormData();
    form.set("prompt", words);
    form.set("image", file, "picture");
    const answer = await postForm("/v1/images/edits", form, signal);
    addImage(item, `data:image/png;base64,${answer.data[0].b64_json}`, words);
  },
  async point(words, item, signal) {
    const answer = await post("/v1/segment", { image: url, expression: words }, signal);
    item.firstChild.textContent = answer.area
      ? `${((100 * answer.area) / (answer.width * answer.height)).toFixed(1)} % of the picture, sure to ${(100 * answer.score).toFixed(0)} %`
      : "nothing found";
    addImage(item, await shaded(answer), `the region of: ${words}`);
  },
  async draw(words, item, signal) {
    const answer = await post("/v1/images/generations", { prompt: words }, signal);
    addImage(item, `data:image/png;base64,${answer.data[0].b64_json}`, words);
  },
};

// The picture, dark outside of a region.
async function shaded(answer) {
  const mask = new Image();
  mask.src = `data:image/png;base64,${answer.b64_json}`;
  await mask.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [answer.width, answer.height];
  const c = canvas.getContext("2d");
  c.drawImage(map.picture, 0, 0, answer.width, answer.height);
  const inside = document.createElement("canvas");
  [inside.width, inside.height] = [answer.width, answer.height];
  const m = inside.getContext("2d");
  m.drawImage(mask, 0, 0);
  const pixels = m.getImageData(0, 0, answer.width, answer.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i] ? 0 : 170;
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 0;
  }
  m.putImageData(pixels, 0, 0);
  c.drawImage(inside, 0, 0);
  return canvas.toDataURL();
}

async function send(event) {
  event.preventDefault();
  const task = document.forms.form.elements.task.value;
  const words = $("words").value.trim();
  if (!words || under_way) return;
  if (!url && task !== "draw" && task !== "ask") { say("choose a picture first"); return; }
  const asked = line(words, "mine");
  if (task !== "ask") asked.prepend(Object.assign(document.createElement("small"), { textContent: $("send").textContent }));
  $("words").value = "";
  const item = line("…");
  under_way = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const done = await attempt(async () => {
    const answered = TASKS[task](words, item, under_way.signal);
    await answered;
    return true;
  });
  if (item.firstChild?.textContent === "…") item.firstChild.textContent = "";
  if (!done && !item.textContent && !item.querySelector("img")) item.remove();
  under_way = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("words").focus();
}

// ---------------------------------------------------------------- what people do

$("file").addEventListener("change", () => { if ($("file").files[0]) usePicture($("file").files[0]); });
$("sample").addEventListener("click", sampleScene);
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) usePicture(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) usePicture(file);
});
$("map").addEventListener("pointermove", (event) => choose(map.at(event)));
$("map").addEventListener("pointerdown", (event) => choose(map.at(event)));
$("map").addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") choose(-1); });
$("map").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!map.tokens || (step === undefined && event.key !== "Escape")) return;
  event.preventDefault();
  const { count } = map.tokens;
  choose(step === undefined ? -1 : (map.chosen + step + (map.chosen < 0 && step < 0 ? 1 : 0) + count) % count);
});
for (const slider of ["threshold", "most"]) $(slider).addEventListener("input", () => { showValues(); look(); });
$("reset").addEventListener("click", () => { if (model) { asTrained(); look(); } });
for (const radio of document.querySelectorAll("[name=view]")) {
  radio.addEventListener("change", () => { map.view = radio.value; map.draw(); });
}
for (const radio of document.querySelectorAll("[name=task]")) {
  radio.addEventListener("change", () => {
    $("words").placeholder = PLACEHOLDERS[radio.value];
    $("send").textContent = radio.parentElement.textContent.trim();
  });
}
$("form").addEventListener("submit", send);
$("stop").addEventListener("click", () => under_way?.abort());
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); setKey($("key").value); start(); });
start();

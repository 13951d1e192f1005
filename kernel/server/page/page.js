// The page: pictures wait here, go to the server a few at a time, and their records become cards. All text of others is
// set as text; nothing is fetched but from this server, by addresses that work behind a proxy's prefix too.
"use strict";

const GROUP = 4;  // pictures of a request: others' requests come in between, and what is cancelled is soon over
const STATUS_EVERY = 1000;  // ms
const find = (selector) => document.querySelector(selector);
const form = find("form"), main = find("main"), drop = find("#drop");
const pictures = [];  // {file, card, body, results: {prompt, negative}, key}
let options = null, running = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

async function asked(address, init) {
  let answer;
  try {
    answer = await fetch(address, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: it was ended, or is out of reach. Start it again");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error || `the server answered ${answer.status}`);
}

// choosing

async function begin() {
  options = await (await asked("options")).json();
  for (const [mode, top] of Object.entries(options.modes)) form.mode.append(element("option", { value: mode }, mode));
  form.mode.value = "fast";
  for (const name of options.captioners) form.captioner.append(element("option", { value: name }, name));
  for (const name of options.banks) {
    const box = element("input", { type: "checkbox", name: "bank", value: name, checked: true });
    find("#banks").append(element("label", {}, box, ` ${name}`));
  }
  form.top.max = options.most_top;
  find("#nearest").hidden = !options.nearest;
  form.nearest.max = options.nearest;
  shown();
}

function settings() {
  const without = [...form.querySelectorAll("[name=bank]:not(:checked)")].map((box) => box.value);
  return { mode: form.mode.value, captioner: form.captioner.value, top: form.top.value || "0",
    nearest: form.nearest.value || "0", without };
}

const key = () => JSON.stringify(settings());
const kind = (mode) => (mode === "negative" ? "negative" : "prompt");
const left = () => pictures.filter((own) => own.key[kind(form.mode.value)] !== key());

// pictures

function add(files) {
  for (const file of files) {
    const own = { file, results: {}, key: {} };
    const picture = element("img", { className: "picture", alt: `picture ${file.name}` });
    picture.loading = "lazy";  // before its address: thousands of large pictures are not all decoded at once
    picture.src = URL.createObjectURL(file);
    picture.onload = () => URL.revokeObjectURL(picture.src);
    picture.onerror = () => {
      URL.revokeObjectURL(picture.src);
      picture.replaceWith(element("div", { className: "picture" }, "not shown by this browser"));
    };
    const remove = element("button", { type: "button", className: "small" }, "Remove");
    remove.ariaLabel = `Remove ${file.name}`;
    remove.onclick = () => { pictures.splice(pictures.indexOf(own), 1); own.card.remove(); shown(); };
    own.body = element("div", {}, element("p", { className: "lead" }, "not described yet"));
    own.card = element("article", { ariaLabel: file.name }, picture,
      element("div", {}, element("header", {}, element("h2", {}, file.name), remove), own.body));
    pictures.push(own);
    main.append(own.card);
  }
  shown();
}

function shown() {
  const todo = left().length;
  form.top.placeholder = options ? options.modes[form.mode.value] : "";
  find("#describe").textContent = todo ? `Describe ${todo} picture${todo === 1 ? "" : "s"}` : "Describe";
  find("#describe").disabled = !todo || running !== null || !options;
  find("#cancel").disabled = running === null;
  find("#clear").disabled = !pictures.length || running !== null;
  find("#download").disabled = !texts().length;
  find("#progress").hidden = running === null;
}

// describing

async function describe() {
  running = new AbortController();
  const todo = left(), asking = settings(), asked_key = key(), signal = running.signal;
  let done = 0;
  find("#trouble").textContent = "";
  find("#progress").max = todo.length;
  const watching = setInterval(watch, STATUS_EVERY);
  tell(`0 of ${todo.length}`);
  find("#progress").value = 0;
  shown();
  try {
    while (done < todo.length) {
      const group = grouped(todo.slice(done));
      if (signal.aborted) break;
      const records = await recordsOf(group, asking, signal);
      group.forEach((own, index) => {
        own.results[kind(asking.mode)] = records[index];
        own.key[kind(asking.mode)] = asked_key;
        draw(own);
      });
      done += group.length;
      find("#progress").value = done;
      tell(`${done} of ${todo.length}`);
    }
  } catch (error) {
    if (error.name !== "AbortError") find("#trouble").textContent = error.message;
  }
  clearInterval(watching);
  const bad = todo.slice(0, done).filter((own) => own.results[kind(asking.mode)].error).length;
  const ended = signal.aborted ? `cancelled: ${done} of ${todo.length} described` : `${done} of ${todo.length} described`;
  running = null;
  find("#doing").textContent = "";
  tell(bad ? `${ended}, ${bad} of them bad` : ended);
  shown();
}

// a request's worth: few enough, and no more bytes than one picture may have
function grouped(todo) {
  let bytes = 0;
  const most = todo.findIndex((own, index) => (bytes += own.file.size) > options.most_picture_bytes || index >= GROUP);
  return todo.slice(0, most === -1 ? todo.length : Math.max(1, most));
}

async function recordsOf(group, asking, signal) {
  const reasons = await Promise.all(group.map((own) => whyNotSent(own.file)));
  const sendable = group.filter((own, index) => !reasons[index]);
  const body = new FormData();
  for (const own of sendable) body.append("pictures", own.file, own.file.name);
  for (const name of ["mode", "captioner", "top", "nearest"]) body.append(name, asking[name]);
  for (const name of asking.without) body.append("without", name);
  const answer = sendable.length ? await asked("describe", { method: "POST", body, signal }) : null;
  const records = answer ? (await answer.json()).records : [];
  return group.map((own, index) => (reasons[index] ? { error: reasons[index] } : records.shift()));
}

// what cannot be read would fail the whole request, as if the server were gone
async function whyNotSent(file) {
  const most = options.most_picture_bytes;
  if (file.size > most) {
    return `larger than ${Math.floor(most / 2 ** 20)} MiB, the most that a picture may have: it was not sent`;
  }
  const readable = file.size > 0 && await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  return readable ? "" : "a folder, an empty file, or one that was moved or changed since: it was not sent. Choose its pictures again";
}

// beside the status, which screen readers say whenever it changes
async function watch() {
  try {
    const at = await (await asked("status")).json();
    if (running === null) return;
    const doing = at.of ? `${at.said} ${at.made} of ${at.of}` : at.said;
    const waiting = at.waiting ? `${at.waiting} waiting` : "";
    find("#doing").textContent = [doing, waiting].filter(Boolean).join("; ");
  } catch { /* the request itself tells it */ }
}

function tell(words) {
  find("#status").textContent = words;
}

// what was found

function draw(own) {
  own.body.replaceChildren(...["prompt", "negative"].filter((name) => own.results[name])
    .map((name) => section(own.file.name, own.results[name])));
}

function section(image, record) {
  if (record.error) return element("section", {}, element("p", { className: "bad" }, record.error));
  const negative = record.mode === "negative";
  const title = `${negative ? "negative prompt" : "prompt"}, mode ${record.mode}, cosine ${record.similarity.toFixed(3)}`;
  const prompt = element("p", {}, record.prompt);
  const copy = element("button", { type: "button", className: "small" }, "Copy");
  copy.ariaLabel = `Copy the ${negative ? "negative prompt" : "prompt"} of ${image}`;
  copy.onclick = () => copied(copy, prompt);
  const terms = record.parts.map((part) => [part.term, part.bank, part.similarity]);
  const candidates = Object.entries(record.candidates || {}).map(([way, own]) => [own.prompt, way, own.similarity]);
  const nearest = (record.nearest || []).map((own) => [own.prompt, "", own.similarity]);
  return element("section", {},
    element("h3", {}, title),
    element("div", { className: "prompt" }, prompt, copy),
    record.caption === undefined ? null : element("h3", {}, `caption: ${record.caption}`),
    table("terms", "bank", terms, true),
    table("candidates", "way", candidates, false),
    table("nearest prompts of the bank", "", nearest, false));
}

// rows of [text, what it is of, cosine] behind a summary; a bar of the largest cosine is as long as its column
function table(title, of, rows, open) {
  if (!rows.length) return null;
  const most = Math.max(...rows.map((row) => Math.abs(row[2])), 1e-9);
  const body = rows.map(([text, what, cosine]) => {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${(100 * Math.abs(cosine)) / most}%`;
    return element("tr", {}, element("th", { scope: "row" }, text), element("td", { className: "bank" }, what),
      element("td", { className: "bars", ariaHidden: "true" }, bar), element("td", { className: "number" }, cosine.toFixed(3)));
  });
  const head = ["text", of, "", "cosine"].map((name, column) => element("th", { scope: "col",
    className: column === 2 ? "bars" : "" }, name));
  head[2].ariaHidden = "true";
  const made = element("table", { ariaLabel: title }, element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body));
  return element("details", { open }, element("summary", {}, `${rows.length} ${title}`), made);
}

async function copied(button, from) {
  try {
    await navigator.clipboard.writeText(from.textContent);
  } catch {  // over plain HTTP from another machine a page has no clipboard of its own
    getSelection().selectAllChildren(from);
    if (!document.execCommand("copy")) return;  // the prompt is selected: the keyboard copies it
  }
  button.textContent = find("#said").textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; find("#said").textContent = ""; }, 1500);
}

// IMAGE.txt with the prompt, and IMAGE.negative.txt where both were asked
function texts() {
  return pictures.flatMap((own) => {
    const { prompt, negative } = own.results;
    const stem = own.file.name.replace(/\.[^.]*$/, "").slice(0, 200);  // what is added must not make it too long
    const said = (record) => record && !record.error;
    const first = said(prompt) ? prompt : said(negative) ? negative : null;
    const found = first ? [{ image: own.file.name, text: first.prompt }] : [];
    if (said(prompt) && said(negative)) found.push({ image: `${stem}.negative.txt`, text: negative.prompt });
    return found;
  });
}

async function download() {
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await asked("texts.zip", { method: "POST", headers, body: JSON.stringify({ texts: texts() }) });
    const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: "prompts.zip" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    find("#trouble").textContent = error.message;
  }
}

// what people do

form.addEventListener("submit", (event) => { event.preventDefault(); if (running === null) describe(); });
form.addEventListener("change", (event) => {
  if (event.target.id === "pictures") { add(event.target.files); event.target.value = ""; }
  shown();
});
form.addEventListener("input", shown);
find("#cancel").addEventListener("click", () => { running?.abort(); });
find("#clear").addEventListener("click", () => { pictures.length = 0; main.replaceChildren(); tell(""); shown(); });
find("#download").addEventListener("click", download);
// anywhere on the page: a picture that is dropped beside its place would else be opened in the page's stead
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) add(event.clipboardData.files); });

begin().catch((error) => { find("#trouble").textContent = error.message; });

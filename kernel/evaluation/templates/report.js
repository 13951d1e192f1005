"use strict";
// Every text goes in by textContent: whatever a prompt, a caption or a file name holds, it stays text.
const cards = JSON.parse(document.getElementById("cards").textContent);
const settings = JSON.parse(document.getElementById("settings").textContent);
const grid = document.querySelector("main");
const form = document.querySelector("form");
const more = document.getElementById("more");
const PAGE = 48;
const thumbnails = new Map();
let shown = [];
let drawn = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) { made.textContent = text; made.dir = "auto"; }
  return made;
}

// Pictures lie in parts of some hundreds, so that only the parts that are looked at are taken apart.
function thumbnail(index) {
  if (settings.folder) return settings.folder + "/" + String(index).padStart(6, "0") + ".jpg";
  const part = Math.floor(index / settings.part);
  if (!thumbnails.has(part)) thumbnails.set(part, document.getElementById("pictures-" + part).textContent.trim().split("\n"));
  return "data:image/jpeg;base64," + thumbnails.get(part)[index % settings.part];
}

function section(parent, title, content) {
  parent.append(element("p", "what", title), content);
}

function list(items, fill) {
  const made = element("ul");
  for (const item of items) {
    const row = element("li");
    fill(row, item);
    made.append(row);
  }
  return made;
}

function draw(card) {
  const made = element("article");
  made.id = "image-" + card.index;
  made.setAttribute("aria-label", "image " + card.id);
  if (card.picture) {
    const picture = element("img");
    picture.loading = "lazy";
    picture.alt = "image " + card.id;
    picture.src = thumbnail(card.index);
    made.append(picture);
  } else made.append(element("div", "missing", "no picture"));
  const said = element("div");
  const title = element("h3");
  const link = element("a", "", card.id);
  link.href = "#image=" + encodeURIComponent(card.id);
  link.title = "link to this image";
  title.append(link);
  if (card.cosine !== null) title.append(element("b", "", "cosine " + card.cosine.toFixed(3)));
  said.append(title);
  for (const reason of card.degraded) said.append(element("p", "bad", reason));
  if (card.prompt !== null) section(said, "true prompt", element("p", "true", card.prompt));
  if (card.nearest !== null) section(said, "prompt of the bank nearest to the answer", element("p", "", card.nearest));
  if (card.captions.length) section(said, "captions", list(card.captions, (row, text) => { row.textContent = text; row.dir = "auto"; }));
  if (card.modifiers.length) {
    const chips = element("p");
    for (const phrase of card.modifiers) chips.append(element("span", "chip", phrase), " ");
    section(said, "modifiers", chips);
  }
  if (card.neighbours.length) section(said, "neighbours, by distance", list(card.neighbours, (row, found) => {
    row.append(element("span", "distance", found[1].toFixed(3)), element("span", "", found[0]));
  }));
  if (card.disagreement !== null) said.append(element("p", "what", "disagreement of estimates " + card.disagreement.toFixed(3)));
  made.append(said);
  return made;
}

function texts(card) {
  if (card.text === undefined) card.text = [card.id, card.prompt, card.nearest, ...card.captions, ...card.modifiers,
    ...card.neighbours.map((found) => found[0]), ...card.degraded].join("\n").toLowerCase();
  return card.text;
}

const order = {
  worst: (a, b) => (a.cosine ?? 2) - (b.cosine ?? 2) || a.index - b.index,
  best: (a, b) => (b.cosine ?? -2) - (a.cosine ?? -2) || a.index - b.index,
  id: (a, b) => a.index - b.index,
  disagreement: (a, b) => (b.disagreement ?? -1) - (a.disagreement ?? -1) || a.index - b.index,
};

function drawMore() {
  const next = shown.slice(drawn, drawn + PAGE);
  grid.append(...next.map(draw));
  drawn += next.length;
  more.hidden = drawn >= shown.length;
}

function update() {
  const wanted = form.search.value.trim().toLowerCase();
  const below = form.below && form.below.value !== "" ? Number(form.below.value) : null;
  shown = cards.filter((card) => (!wanted || texts(card).includes(wanted))
    && (form.only.value === "all" || (form.only.value === "bad" ? card.bad : card.degraded.length > 0))
    && (below === null || (card.cosine !== null && card.cosine < below)));
  shown.sort(order[form.sort.value]);
  drawn = 0;
  grid.replaceChildren();
  drawMore();
  document.getElementById("count").textContent = shown.length.toLocaleString("en") + " of " + cards.length.toLocaleString("en") + " images";
}

function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("image");
  const found = wanted === null ? -1 : cards.findIndex((card) => card.id === wanted);
  if (found < 0) return;
  form.reset();
  update();
  while (!shown.slice(0, drawn).includes(cards[found])) drawMore();
  const card = document.getElementById("image-" + cards[found].index);
  for (const other of document.querySelectorAll("article.chosen")) other.classList.remove("chosen");
  card.classList.add("chosen");
  card.scrollIntoView({ block: "center" });
}

form.addEventListener("input", update);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", drawMore);
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && !more.hidden) drawMore(); }, { rootMargin: "800px" }).observe(more);
window.addEventListener("hashchange", follow);
update();
follow();

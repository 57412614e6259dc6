"use strict";
// The page of segmented images: pictures or a table of all, and one of them at large. Texts that come from files reach
// the page as text nodes alone, and addresses with every part encoded. What is shown of an image is loaded when it is
// seen, as a script that calls receive(), and forgotten when KEPT others were seen after it.

const page = JSON.parse(document.getElementById("data").textContent);
const KEPT = 100;
const DETAILS = ["axes", "values", "normalisation", "notes"]; // not columns of the table, which has to fit
const TITLES = ["image", "state", "nuclei", "width", "height"]; // said elsewhere of an image at large
const LARGEST_ZOOM = 40; // screen pixels of one of the image
const at = id => document.getElementById(id);
const show = { outlines: true, least: 0, key: null, up: true, text: "" };
let images = [];
let order = []; // what is shown of them, in order

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const makeTerms = rows => rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);

// ---- what is loaded of an image ----

const views = new Map(); // address -> promise of a view, the latest seen last
let received;
function receive(view) { received = view; }

const address = (image, file) =>
  image.folder + file.split("/").map(encodeURIComponent).join("/");

function load(image) {
  const source = address(image, `${page.views}/${image.image}.js`);
  const known = views.get(source) ?? new Promise((resolve, reject) => {
    const script = make("script", { src: source });
    // The load event follows the script's own run at once, so what was received is of this script.
    script.onload = () => { script.remove(); resolve(prepare(received)); };
    script.onerror = () => { script.remove(); views.delete(source); reject(new Error("its nuclei are missing")); };
    document.head.append(script);
  });
  views.delete(source);
  views.set(source, known);
  if (views.size > KEPT) views.delete(views.keys().next().value);
  return known;
}

function prepare(view) {
  view.outlines = view.paths.map(path => new Path2D(path));
  view.iou = view.columns.predicted_iou;
  return loadPicture(view.thumbnail).then(picture => Object.assign(view, { picture }));
}

function loadPicture(source) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error("its picture is missing"));
    picture.src = source;
  });
}

const isShown = (view, i) => !view.iou || view.iou[i] === null || view.iou[i] >= show.least;
const countShown = view => view.paths.reduce((count, _, i) => count + isShown(view, i), 0);
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 || what === "nuclei" ? "" : "s"}`;
const countNuclei = n => n === 1 ? "1 nucleus" : count(n, "nuclei");

// ---- drawing, and asking for, nuclei ----

function drawNuclei(context, view, scale, marked) { // scale: pixels of the page for one of the image
  if (!show.outlines) return;
  const sizes = view.columns.equivalent_diameter_px;
  const middle = sizes.length ? [...sizes].sort((a, b) => a - b)[sizes.length >> 1] : 1;
  // Thin where nuclei are small on the screen, so that outlines do not cover them.
  const width = Math.min(Math.max(middle * scale / 12, 0.6), 2) / scale;
  context.lineJoin = "round";
  view.outlines.forEach((outline, i) => {
    if (!isShown(view, i)) return;
    context.strokeStyle = page.colours[view.colours[i]];
    context.lineWidth = i === marked ? 2 * width : width;
    if (i === marked) { context.fillStyle = "rgb(255 255 255 / 0.22)"; context.fill(outline, "evenodd"); }
    context.stroke(outline);
  });
}

const probe = make("canvas").getContext("2d");
function findNucleus(view, x, y) { // in pixels of the image; -1: none that is shown
  if (!show.outlines) return -1;
  return view.boxes.findIndex(([left, top, right, bottom], i) =>
    x >= left && x <= right && y >= top && y <= bottom && isShown(view, i) &&
    probe.isPointInPath(view.outlines[i], x, y, "evenodd"));
}

function describeNucleus(view, i) {
  const value = name => view.columns[name]?.[i] ?? null;
  const with_um = (px, um, unit, um_unit) =>
    `${px.toLocaleString("en")} ${unit}` + (um === null ? "" : ` (${um.toLocaleString("en")} ${um_unit})`);
  const rows = [
    ["Area", with_um(value("area_px"), value("area_um2"), "px", "µm²")],
    ["Diameter", with_um(value("equivalent_diameter_px"), value("equivalent_diameter_um"), "px", "µm")],
  ];
  if (value("predicted_iou") !== null) rows.push(["Predicted IoU", value("predicted_iou").toFixed(2)]);
  if (value("gray_mean_raw") !== null) 
    rows.push(["Mean intensity", value("gray_mean_raw").toLocaleString("en", { maximumSignificantDigits: 4 })]);
  return [make("b", {}, `Nucleus ${value("label")}`), make("dl", {}, ...makeTerms(rows))];
}

function showTip(view, i, x, y) { // at a point of the window; i < 0: none
  const tip = at("tip");
  tip.hidden = i < 0;
  if (i < 0) return;
  (at("viewer").open ? at("viewer") : document.body).append(tip); // a dialog covers all that is not in it
  tip.replaceChildren(...describeNucleus(view, i));
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 16 + height < innerHeight ? y + 16 : Math.max(4, y - height - 12)}px`;
}

// ---- the pictures of all ----

const watcher = new IntersectionObserver(entries => entries.forEach(({ target, isIntersecting }) => {
  const image = target.image;
  image.seen = isIntersecting;
  if (isIntersecting) drawCard(image);
  else image.canvas.width = image.canvas.height = 0; // frees its memory
}), { rootMargin: "300px" });

function makeCard(image) {
  const canvas = image.canvas = make("canvas", { width: 0, height: 0 });
  const open = make("button", { className: "open", title: "Show at large", onclick: () => go(image) }, canvas);
  open.setAttribute("aria-label", `${image.image}, ${countNuclei(image.nuclei)}: show at large`);
  const locate = event => {
    const { left, top, width } = canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / width];
  };
  canvas.onpointermove = async event => { // a canvas that was drawn, so that there is something to load
    const view = await load(image), [x, y] = locate(event);
    if (event.pointerType === "mouse" && !at("viewer").open)
      showTip(view, findNucleus(view, x * view.width, y * view.width), event.clientX, event.clientY);
  };
  canvas.onpointerleave = () => { at("tip").hidden = true; };
  image.count = make("span", { className: "nuclei" }, countNuclei(image.nuclei));
  const name = make("span", { className: "name", title: image.file }, image.image);
  image.card = make("div", { className: "card", image }, open, name, image.count);
  watcher.observe(image.card);
}

async function drawCard(image) {
  let view;
  try {
    view = await load(image);
  } catch (error) {
    image.count.textContent = error.message;
    return;
  }
  if (!image.seen) return;
  const { canvas } = image, box = canvas.parentElement.clientWidth;
  const width = box * Math.min(1, view.width / view.height), height = width * view.height / view.width;
  canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d"), scale = canvas.width / view.width;
  context.imageSmoothingEnabled = scale < 4 * devicePixelRatio;
  context.drawImage(view.picture, 0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, canvas.height / view.height, 0, 0);
  drawNuclei(context, view, scale / devicePixelRatio);
  image.count.textContent = describeCount(view, image.nuclei);
}

function describeCount(view, nuclei) { // nuclei: of a large image more than the page draws one by one
  const all = view.paths.length, shown = countShown(view);
  if (!all) return countNuclei(nuclei);
  return shown === all ? countNuclei(all) : `${shown.toLocaleString("en")} of ${countNuclei(all)}`;
}

// ---- the table of all ----

const isNumber = key => images.every(image => image[key] === undefined || typeof image[key] === "number");

const isFilled = key => images.some(image => image[key] !== undefined);
const columns = () => Object.keys(page.headings).filter(key => isFilled(key) && !DETAILS.includes(key));

function makeHead(shown) {
  const heads = shown.map(key => {
    const head = make("th", { scope: "col", className: isNumber(key) ? "number" : key },
      make("button", { onclick: () => sortBy(key) }, page.headings[key]));
    if (show.key === key) head.setAttribute("aria-sort", show.up ? "ascending" : "descending");
    return head;
  });
  at("table").querySelector("thead tr").replaceChildren(...heads, make("th", { scope: "col" }, "Files"));
}

function sortBy(key) {
  show.up = show.key === key ? !show.up : !isNumber(key); // numbers: the largest first
  show.key = key;
  arrange();
}

function makeRow(image, shown, numbers) {
  const cells = shown.map(key => {
    const cell = make("td", { className: numbers.includes(key) ? "number" : key });
    const text = String(image[key] ?? "");
    if (key === "image") cell.append(
      image.results.length ? make("button", { onclick: () => go(image) }, text) : text,
      make("small", {}, image.file));
    else cell.append(text);
    if (image.state === "failed" && key === "state") cell.classList.add("bad");
    return cell;
  });
  return make("tr", {}, ...cells, image.why === undefined
    ? make("td", { className: "links" }, ...makeLinks(image)) : make("td", { className: "why bad" }, image.why));
}

function makeLinks(image) {
  const files = image.results.map(ending => [address(image, image.image + ending), image.image + ending, ending]);
  if (image.archive) files.push([image.archive, `${image.image}.zip`, "all as zip"]);
  return files.flatMap(([href, download, text]) => [make("a", { href, download }, text.replace(/^[_.]/, "")), " "]);
}

// ---- what is shown, and in which order ----

function arrange() {
  const collator = new Intl.Collator("en", { numeric: true });
  const { key, up } = show, numbers = key && isNumber(key);
  const compare = (a, b) => {
    if ((a[key] ?? "") === "" || (b[key] ?? "") === "") return ((a[key] ?? "") === "") - ((b[key] ?? "") === "");
    const sign = numbers ? a[key] - b[key] : collator.compare(a[key], b[key]);
    return up ? sign : -sign; // what is not known is last either way
  };
  const text = show.text.trim().toLowerCase();
  const found = images.filter(image => !text || `${image.image}\n${image.file}`.toLowerCase().includes(text));
  const sorted = key ? [...found].sort(compare) : found;
  order = sorted.filter(image => image.results.length);
  at("pictures").replaceChildren(...order.map(image => image.card));
  const shown = columns();
  makeHead(shown);
  const numeric = shown.filter(isNumber);
  at("table").querySelector("tbody").replaceChildren(...sorted.map(image => makeRow(image, shown, numeric)));
  at("none").hidden = sorted.length > 0;
}

function setImages(list) {
  images = list;
  for (const image of images) if (image.results.length && !image.card) makeCard(image);
  const done = images.filter(image => image.results.length), failed = images.filter(image => image.state === "failed");
  const nuclei = done.reduce((sum, image) => sum + image.nuclei, 0);
  at("title").textContent = images.length ? `${countNuclei(nuclei)} in ${count(done.length, "image")}` : "Nuclei";
  document.title = at("title").textContent;
  at("results").hidden = !images.length;
  for (const label of document.querySelectorAll(".least")) label.hidden = !images.some(image => image.scored);
  at("failed").hidden = !failed.length;
  at("failed-title").textContent = `${count(failed.length, "image")} failed`;
  at("failed").querySelector("ul").replaceChildren(...failed.map(image => make("li", {}, image.why)));
  arrange();
}

function redrawAll() {
  for (const image of order) if (image.seen) drawCard(image);
  redraw();
}

// ---- one image at large ----

const stage = at("stage");
let large = null; // { image, view, picture, scale, x, y, marked }: scale and place in pixels of the window
let opened = false; // by a click of this page, so that going back closes it

function go(image) {
  opened = true;
  location.hash = `image=${encodeURIComponent(image.folder + image.image)}`;
}

function step(by) {
  const next = large && order[order.indexOf(large.image) + by];
  if (next) location.replace(`#image=${encodeURIComponent(next.folder + next.image)}`);
}

function close() {
  if (opened) history.back();
  else location.replace("#");
}

async function follow() { // the address says which image is at large
  const wanted = location.hash.startsWith("#image=") ? decodeURIComponent(location.hash.slice(7)) : null;
  const image = images.find(one => one.results.length && one.folder + one.image === wanted);
  at("tip").hidden = true;
  if (!image) {
    large = null;
    opened = false;
    at("viewer").close();
    return;
  }
  if (!at("viewer").open) at("viewer").showModal();
  const mine = large = { image, view: null, marked: -1 };
  const place = order.indexOf(image);
  at("viewer-name").textContent = at("viewer-name").title = image.image;
  at("viewer-place").textContent = place < 0 ? "" : `${place + 1} / ${order.length}`;
  at("previous").disabled = place <= 0;
  at("next").disabled = place < 0 || place === order.length - 1;
  at("downloads").replaceChildren(...makeLinks(image));
  const size = [["Size", `${image.width} × ${image.height} px`]];
  const facts = Object.entries(page.headings).filter(([key]) => image[key] !== undefined && !TITLES.includes(key))
    .map(([key, heading]) => [heading, String(image[key])]);
  at("facts").replaceChildren(...makeTerms([["File", image.file], ...size, ...facts]));
  redraw();
  try {
    const view = await load(image);
    if (large !== mine) return;
    Object.assign(mine, { view, picture: view.picture });
    fit();
    mine.picture = await loadPicture(address(image, `${page.views}/${image.image}.jpg`));
    redraw();
    if (order[place + 1]) load(order[place + 1]).catch(() => {}); // it will say so itself
  } catch (error) {
    mine.fault = error.message;
    redraw();
  }
}

function fit() {
  if (!large?.view) return;
  const { clientWidth, clientHeight } = stage, { width, height } = large.view;
  large.fitting = Math.min(clientWidth / width, clientHeight / height);
  large.scale = large.fitting;
  large.x = (clientWidth - width * large.scale) / 2;
  large.y = (clientHeight - height * large.scale) / 2;
  redraw();
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  if (!large?.view) return;
  const scale = Math.min(Math.max(large.scale * factor, large.fitting / 2), LARGEST_ZOOM);
  large.x = x - (x - large.x) * scale / large.scale;
  large.y = y - (y - large.y) * scale / large.scale;
  large.scale = scale;
  redraw();
}

let drawing = 0;
function redraw() { drawing ||= requestAnimationFrame(() => { drawing = 0; drawLarge(); }); }

function drawLarge() {
  if (!large) return;
  const ratio = devicePixelRatio;
  stage.width = Math.round(stage.clientWidth * ratio);
  stage.height = Math.round(stage.clientHeight * ratio);
  const { view, scale, x, y } = large;
  at("count").textContent = large.fault ?? (view ? describeCount(view, large.image.nuclei) : "…");
  if (!view) return;
  stage.setAttribute("aria-label", `${large.image.image}, ${describeCount(view, large.image.nuclei)} outlined`);
  const context = stage.getContext("2d");
  context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
  context.imageSmoothingEnabled = scale < 4;
  context.drawImage(large.picture, 0, 0, view.width, view.height);
  drawNuclei(context, view, scale, large.marked);
}

function mark(event) {
  if (!large?.view) return;
  const { left, top } = stage.getBoundingClientRect();
  const { view, scale } = large;
  const found = findNucleus(view, (event.clientX - left - large.x) / scale, (event.clientY - top - large.y) / scale);
  showTip(view, found, event.clientX, event.clientY);
  if (found !== large.marked) { large.marked = found; redraw(); }
}

// Fingers and the mouse: one moves the image, two zoom it, and one that stays where it was asks for a nucleus.
const pointers = new Map();
let moved = false;
stage.onpointerdown = event => {
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  moved = pointers.size > 1;
};
stage.onpointermove = event => {
  if (!large?.view) return;
  const before = pointers.get(event.pointerId);
  if (!before) { mark(event); return; }
  const now = [event.clientX, event.clientY];
  if (!moved && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return;
  moved = true;
  at("tip").hidden = true;
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const { left, top } = stage.getBoundingClientRect();
    const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
    zoom(apart(now) / Math.max(apart(before), 1), other[0] - left, other[1] - top);
  } else {
    large.x += now[0] - before[0];
    large.y += now[1] - before[1];
    redraw();
  }
  pointers.set(event.pointerId, now);
};
stage.onpointerup = event => { pointers.delete(event.pointerId); if (!moved) mark(event); };
stage.onpointercancel = event => pointers.delete(event.pointerId);
stage.onpointerleave = () => { at("tip").hidden = true; };
stage.ondblclick = event => zoom(2, event.offsetX, event.offsetY);
stage.addEventListener("wheel", event => {
  event.preventDefault();
  at("tip").hidden = true;
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.offsetX, event.offsetY);
}, { passive: false });

// ---- switches and keys ----

function setOutlines(on) {
  show.outlines = at("outlines").checked = at("viewer-outlines").checked = on;
  at("tip").hidden = true;
  redrawAll();
}

function setLeast(least) {
  show.least = +least;
  for (const id of ["least", "viewer-least"]) {
    at(id).value = least;
    at(`${id}-value`).textContent = show.least.toFixed(2);
  }
  redrawAll();
}

function setLayout(table) {
  at("table").hidden = !table;
  at("pictures").hidden = table;
  at("as-table").setAttribute("aria-pressed", table);
  at("as-pictures").setAttribute("aria-pressed", !table);
}

for (const id of ["outlines", "viewer-outlines"]) at(id).onchange = event => setOutlines(event.target.checked);
for (const id of ["least", "viewer-least"]) at(id).oninput = event => setLeast(event.target.value);
at("search").oninput = event => { show.text = event.target.value; arrange(); };
at("as-pictures").onclick = () => setLayout(false);
at("as-table").onclick = () => setLayout(true);
at("previous").onclick = () => step(-1);
at("next").onclick = () => step(1);
at("close").onclick = close;
at("in").onclick = () => zoom(1.5);
at("out").onclick = () => zoom(1 / 1.5);
at("fit").onclick = fit;
at("viewer").oncancel = event => { event.preventDefault(); close(); };
const KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoom(1.5), "=": () => zoom(1.5),
  "-": () => zoom(1 / 1.5), 0: fit, o: () => setOutlines(!show.outlines), O: () => setOutlines(!show.outlines),
};
addEventListener("keydown", event => {
  const typing = event.target.matches("input[type=range], input[type=search], input[type=text]");
  if (at("viewer").open && KEYS[event.key] && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
addEventListener("hashchange", follow);
addEventListener("resize", () => { fit(); redrawAll(); });
setImages(page.images);
follow();

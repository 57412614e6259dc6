// The page of nuclei serve: files that are dropped are sent, one after the other, and asked after until they are done.

const MB = 1e6, ASK_MS = 400;
const sending = []; // { file, part } of what is not on the server yet; part: how much of it is, 0..1
const refused = []; // images of what the server did not take
let jobs = []; // as the server tells of them
let asking = false;
let asked = 0; // how often: an answer may be older than what was sent since

function add(files) {
  for (const file of files) {
    if (file.size <= page.max_mb * MB) sending.push({ file, part: 0 });
    else refuse(file, `${file.name} is refused: it has ${Math.round(file.size / MB).toLocaleString("en")} MB, more than ` +
      `${page.max_mb} MB: allow more by --max-mb, or use nuclei predict-images`);
  }
  report();
  if (sending.length && !sending[0].started) send();
}

function refuse(file, why) {
  refused.push({ image: file.name, file: file.name, state: "failed", why, folder: "", results: [] });
}

function send() { // the first of what is to be sent
  const entry = sending[0], { file } = entry;
  entry.started = true;
  const settings = new URLSearchParams({ channel: at("channel").value, plane: at("plane").value,
    pixel_size: at("pixel-size").value, normalise: at("normalise").checked });
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  request.open("PUT", `images/${encodeURIComponent(file.name)}?${settings}`);
  request.upload.onprogress = event => { entry.part = event.loaded / Math.max(event.total, 1); report(); };
  request.onloadend = () => {
    sending.shift();
    let said = {};
    try { said = JSON.parse(request.responseText); } catch { /* it is no answer of the program */ }
    if (request.status === 200) jobs.push(said); // until the server tells of all
    else refuse(file, said.error ?? (request.status
      ? `${file.name} was not taken (${request.status} ${request.statusText}): see the terminal of nuclei serve`
      : `${file.name} was not taken: is it a folder, or has nuclei serve ended?`));
    report();
    if (sending.length) send();
    ask();
  };
  request.send(file);
}

async function ask() {
  asked += 1;
  if (asking) return;
  asking = true;
  try {
    for (;;) {
      const before = countDone(jobs), number = asked;
      const answer = await fetch("images");
      jobs = await answer.json();
      if (countDone(jobs) !== before) showImages();
      report();
      if (number !== asked) continue;
      if (countDone(jobs) === jobs.length) break;
      await new Promise(done => setTimeout(done, ASK_MS));
    }
  } catch {
    at("progress").hidden = false;
    at("progress").lastElementChild.textContent = "nuclei serve does not answer: it has ended, or is to be started again";
  }
  asking = false;
}

const countDone = list => list.filter(job => job.state === "done").length;

function showImages() {
  const known = new Map(images.map(image => [image.folder + image.image, image])); // with what was drawn of them
  const now = jobs.flatMap(job => job.images).map(image => known.get(image.folder + image.image) ?? image);
  setImages([...now, ...refused]);
}

function report() {
  if (refused.some(image => !images.includes(image))) showImages();
  const open = jobs.filter(job => job.state !== "done"), all = jobs.length + sending.length, done = countDone(jobs);
  const rows = [
    ...open.map(job => [job.file, job.state === "working" ? `segmenting, ${job.seconds} s` : "waiting"]),
    ...sending.map(({ file, part, started }) => [file.name, started ? `sending, ${Math.round(100 * part)} %` : "waiting"]),
  ];
  at("jobs").replaceChildren(...rows.map(([name, state]) => make("li", {},
    make("span", { className: "name", title: name }, name), make("span", { className: "state" }, state))));
  at("progress").hidden = !rows.length;
  const bar = at("progress").firstElementChild, text = `${done} of ${count(all, "image")} done`;
  if (all > 1) bar.value = done / all;
  else bar.removeAttribute("value"); // of one image nobody knows how far it is
  if (at("progress").lastElementChild.textContent !== text) at("progress").lastElementChild.textContent = text;
  at("all").hidden = !images.length;
  at("all").firstElementChild.hidden = !jobs.some(job => job.images.some(image => image.results.length));
}

at("choose").onclick = () => at("files").click();
at("files").onchange = () => { add(at("files").files); at("files").value = ""; };
at("clear").onclick = async () => {
  await fetch("images", { method: "DELETE" });
  refused.length = 0;
  jobs = [];
  setImages([]);
  report();
};
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) addEventListener(kind, event => {
  event.preventDefault();
  at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  if (kind === "drop") add(event.dataTransfer.files);
});
ask();

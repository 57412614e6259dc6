// The browser of images: cards that are sorted and filtered, layers that are switched on and off, one image at large.
// Its data lie in the page, its pictures in a folder beside it; where that is missing, the cards do without.
(() => {
  "use strict";
  const PAGE = 48; // cards shown at once
  const words = text => text.replaceAll("_", " ");

  function make(tag, properties = {}, ...children) {
    const {dataset, ...rest} = properties;
    const node = Object.assign(document.createElement(tag), rest);
    Object.assign(node.dataset, dataset);
    node.append(...children);
    return node;
  }

  function build(root, data) {
    const {folder, rows, kinds, layers} = data;
    const address = (row, name) => `${folder}/${encodeURIComponent(row.id)}${name}`;
    let shown = [], limit = PAGE, current = -1;

    // Controls
    const select = (...options) => make("select", {}, ...options.map(([value, text]) => make("option", {value}, text)));
    const types = [...new Set(rows.map(row => row.type))];
    const sorting = select(["score", "score, worst first"], ["-score", "score, best first"],
      ...kinds.map(kind => [`-${kind}`, `most ${words(kind)}`]), ["-n_true", "most nuclei"], ["id", "image id"]);
    const type = select(["", "all types"], ...types.map(one => [one, words(one)]));
    const error = select(["", "any"], ...kinds.map(kind => [kind, words(kind)]), ["none", "no error"]);
    const bound = value => make("input", {type: "number", min: 0, max: 1, step: 0.05, value});
    const [low, high] = [bound("0"), bound("1")];
    const search = make("input", {type: "search", spellcheck: false});
    const switches = Object.keys(layers).map(name => {
      const box = make("input", {type: "checkbox", checked: name !== "errors", dataset: {layer: name}});
      return make("label", {className: "switch"}, box, words(name));
    });
    const field = (text, control) => make("label", {}, text, control);
    const controls = make("div", {className: "controls"}, field("sort by", sorting), field("type", type),
      field("error kind", error), field("score from", low), field("to", high), field("id begins with", search), ...switches);
    const legend = make("p", {className: "legend"}, ...Object.entries(layers).flatMap(([name, colours]) =>
      Object.entries(colours).map(([text, colour]) => {
        const mark = make("i");
        mark.style.background = colour;
        return make("span", {className: `of-${name}`}, mark, words(text));
      })));
    const count = make("p", {className: "count"});
    count.setAttribute("role", "status");
    const cards = make("ul", {className: "cards"});
    const more = make("button", {type: "button", className: "more"});
    const note = make("p", {className: "missing", hidden: true});

    // Pictures
    const describe = row => `${row.n_true} nuclei, ${row.n_pred} predicted`;
    const wrongs = row => kinds.filter(kind => row[kind]).map(kind => `${row[kind]} ${words(kind)}`).join(", ") || "no error";
    const stack = row => make("div", {className: "stack"},
      make("img", {loading: "lazy", src: address(row, ".jpg"), alt: `image ${row.id}: ${describe(row)}`}),
      ...Object.keys(layers).map(name =>
        make("img", {loading: "lazy", src: address(row, `_${name}.png`), alt: "", className: `layer-${name}`})));
    const card = (row, place) => {
      const score = make("b", {}, row.score.toFixed(3));
      const button = make("button", {type: "button", className: "card", dataset: {id: row.id}},
        ...(root.classList.contains("bare") ? [] : [stack(row)]), score, ` ${words(row.type)}`,
        make("small", {}, describe(row)), make("small", {}, wrongs(row)));
      button.addEventListener("click", () => open(place));
      return make("li", {}, button);
    };

    function update() {
      const [from, to] = [low, high].map(input => parseFloat(input.value));
      const key = sorting.value.replace(/^-/, ""), way = sorting.value.startsWith("-") ? -1 : 1;
      shown = rows.filter(row => (!type.value || row.type === type.value)
        && (!error.value || (error.value === "none" ? kinds.every(kind => !row[kind]) : row[error.value] > 0))
        && !(row.score < from) && !(row.score > to) && row.id.startsWith(search.value.trim()));
      shown.sort((a, b) => way * (key === "id" ? 0 : a[key] - b[key]) || (a.id < b.id ? -1 : 1));
      const mean = shown.reduce((sum, row) => sum + row.score, 0) / shown.length;
      count.textContent = `${shown.length} of ${rows.length} images${shown.length ? `, mean score ${mean.toFixed(4)}` : ""}`;
      cards.replaceChildren(...shown.slice(0, limit).map(card));
      more.hidden = shown.length <= limit;
      more.textContent = `show ${Math.min(PAGE, shown.length - limit)} more`;
    }

    // One image at large
    const title = make("h3", {id: "case-title"}), body = make("div");
    const button = (text, label, work) => {
      const made = make("button", {type: "button", title: label}, text);
      made.setAttribute("aria-label", label);
      made.addEventListener("click", work);
      return made;
    };
    const dialog = make("dialog", {className: "case"}, make("div", {className: "bar"},
      button("←", "previous image", () => step(-1)), button("→", "next image", () => step(1)), title,
      button("close", "close", () => dialog.close())), body);
    dialog.setAttribute("aria-labelledby", "case-title");
    function open(place) {
      current = place;
      const row = shown[place];
      title.textContent = `${row.id}: score ${row.score.toFixed(4)}`;
      const facts = make("p", {className: "facts"}, `${words(row.type)}, fold ${row.fold}; ${describe(row)}; ${wrongs(row)}.`
        + ` Image ${place + 1} of ${shown.length}.`);
      const command = make("code", {}, data.caseCommand.replace("{id}", row.id));
      const hint = make("p", {}, "Maps, candidates and selection of this image in one picture: ", command);
      const steps = make("div", {className: "steps"});
      if (row.steps && !root.classList.contains("bare")) {
        const source = address(row, "_steps.png");
        const picture = make("img", {src: source, alt: `every step of ${row.id}: image, truth, prediction, errors, maps, candidates`});
        steps.append(make("a", {href: source, target: "_blank", title: "open the picture alone"}, picture));
      } else steps.append(hint);
      body.replaceChildren(facts, ...(root.classList.contains("bare") ? [] : [layered(), stack(row)]), steps);
      dialog.scrollTop = 0;
      if (!dialog.open) dialog.showModal();
    }
    const layered = () => make("div", {className: "controls"}, ...switches.map(label => {
      const outer = label.firstChild;
      const box = make("input", {type: "checkbox", checked: outer.checked, dataset: {layer: outer.dataset.layer}});
      return make("label", {className: "switch"}, box, words(outer.dataset.layer));
    }), legend.cloneNode(true));
    function step(by) {
      const next = current + by;
      if (next < 0 || next >= shown.length) return;
      if (next >= limit) { limit += PAGE; update(); }
      open(next);
    }
    dialog.addEventListener("keydown", event => {
      const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (by && !event.altKey && !event.ctrlKey && !event.metaKey) step(by);
    });
    dialog.addEventListener("close", () => cards.children[current]?.querySelector("button").focus());

    root.addEventListener("change", event => {
      const {layer} = event.target.dataset;
      if (!layer) return;
      for (const box of root.querySelectorAll(`[data-layer="${layer}"]`)) box.checked = event.target.checked;
      root.classList.toggle(`no-${layer}`, !event.target.checked);
    });
    for (const control of [sorting, type, error, low, high, search])
      control.addEventListener("input", () => { limit = PAGE; update(); });
    more.addEventListener("click", () => {
      const first = limit;
      limit += PAGE;
      update();
      cards.children[first]?.querySelector("button").focus();
    });

    root.classList.add("no-errors");
    root.append(controls, legend, note, count, cards, more, dialog);
    const start = bare => {
      if (bare) {
        root.classList.add("bare");
        note.hidden = false;
        note.append("The pictures of the images are not beside this page. This makes them: ", make("code", {}, data.command));
      }
      update();
    };
    if (!rows.length) return start(false);
    const probe = new Image(); // one request tells whether the pictures are there
    probe.onload = () => start(false);
    probe.onerror = () => start(true);
    probe.src = address(rows[0], ".jpg");
  }

  for (const root of document.querySelectorAll(".browser"))
    build(root, JSON.parse(root.nextElementSibling.textContent));
})();

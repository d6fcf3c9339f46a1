// The drawing canvas: state, changes, mouse, keys, talk with Python. Gradio runs it, after canvas_paint.js, as one
// function with: element, props, trigger, watch.
//
// The value sent to Python: {picture, regions, last_id}. A region is {id, kind, …} with
//   box: {box: [x1, y1, x2, y2]}     polygon: {points: [[x, y], …]}     point: {point: [x, y]}
//   brush: {strokes: [{width, points}, …]}     mask: {mask: name}, of a mask that Python has made
// Region arrays are replaced, never changed in place, so that the undo history is a list of references.

// ---------------------------------------------------------------- changing regions

function remember() {
  history.push({ regions, active });
  if (history.length > 100) history.shift();
}

function positionOf(event) {
  const shown = canvas.getBoundingClientRect();
  return [
    round(clamp((event.clientX - shown.left) * picture.width / shown.width, 0, picture.width)),
    round(clamp((event.clientY - shown.top) * picture.height / shown.height, 0, picture.height)),
  ];
}

function brushWidth() {
  // The slider is in hundredths of the longer side, so that it means the same on a drawing and on a photograph.
  return Math.max(1, round(Number(brushSize.value) / 100 * Math.max(picture.width, picture.height)));
}

// For a reload of the page, see arrive.js. A browser may forbid the storage, or have no room.
function save() {
  try {
    sessionStorage.setItem("rgpt", JSON.stringify({ picture: picture.token, regions, last_id: lastId }));
  } catch { /* then a reload begins anew */ }
}

function publish() {
  props.value = { picture: picture.token, regions, last_id: lastId };
  trigger("input");
  save();
  refresh();
}

function addRegion(fields) {
  if (regions.length >= limits.regions) {
    say(`At most ${limits.regions} regions can be drawn; remove one first.`);
    return;
  }
  remember();
  lastId += 1;            // not reused: whoever reads an old <regionN> in the chat would take this region for it
  regions = [...regions, { id: lastId, ...fields }];
  active = lastId;
  publish();
}

// Masks that Python has made: known from now on, and drawn as regions if they are new. One undo takes all back. If they
// have names they replace those that ever had one, but for regions that were part of a question: these stay, without a
// name. Returns what to say about it.
let batch = null;
function takeFound() {
  const found = props.found;
  if (!found || found.batch === batch || found.picture !== picture.token) return "";
  batch = found.batch;
  const names = Object.keys(found.masks), named = found.add && names.some((name) => found.masks[name].label);
  const replaced = (r) => r.kind === "mask" && shapes[r.mask]?.named && r.id > askedUpTo && !names.includes(r.mask);
  const earlier = named ? regions.filter(replaced) : [];
  if (named) Object.values(shapes).forEach((shape) => { shape.label = null; });
  names.forEach((name) => { shapes[name] = shapeOf(found.masks[name]); });
  if (!found.add) return "";
  const fresh = names.filter((name) => !regions.some((region) => region.mask === name));
  const room = Math.max(0, limits.regions - regions.length + earlier.length);
  if (earlier.length || (fresh.length && room)) {
    remember();
    const added = fresh.slice(0, room).map((name, index) => ({ id: lastId + 1 + index, kind: "mask", mask: name }));
    lastId += added.length;
    regions = [...regions.filter((region) => !earlier.includes(region)), ...added];
    active = named ? null : lastId;
    publish();
  }
  if (!named) {
    if (names.length && !fresh.length) active = regions.find((region) => region.mask === names[0]).id;
    return "";
  }
  if (!draft) tool = "box";   // with which a click on a region puts it into the message
  trigger("listed");
  const shown = regions.filter(nameOf).length;
  return `${shown} ${shown === 1 ? "region has a name" : "regions have names"}: click one to put it into the message.`;
}

function removeRegion(id) {
  remember();
  regions = regions.filter((region) => region.id !== id);
  if (active === id) active = null;
  publish();
}

function undo() {
  if (draft && draft.kind === "polygon") {
    draft.points.pop();
    if (!draft.points.length) draft = null;
    refresh();
  } else if (history.length) {
    ({ regions, active } = history.pop());
    publish();
  }
}

function finishDraft() {
  const done = draft;
  draft = null;
  if (!done) return;
  if (done.kind === "box") {
    const box = boxOf(done.from, done.to);
    const hit = regionAt(done.from);
    if (Math.min(box[2] - box[0], box[3] - box[1]) * view.scale >= SMALLEST_BOX) addRegion({ kind: "box", box });
    else if (!hit || distance(done.from, done.to) * view.scale >= SMALLEST_BOX) refresh("Drag from one corner to the opposite one.");
    else mentionRegion(hit.id);
  } else if (done.kind === "polygon") {
    if (done.points.length >= 3) addRegion({ kind: "polygon", points: done.points });
    else refresh("A polygon needs at least three corners.");
  } else if (done.kind === "segment") {
    // A click, or some points of a scribble on the object.
    const step = (done.points.length - 1) / Math.max(1, Math.min(8, done.points.length) - 1);
    const points = done.points.length === 1 ? done.points
      : Array.from({ length: Math.min(8, done.points.length) }, (_, index) => done.points[Math.round(index * step)]);
    trigger("segment", { points, picture: picture.token });
    refresh("Looking for the object …");
  } else if (done.kind === "brush") {
    finishStroke({ width: done.width, points: done.points });
  }
}

function finishStroke(stroke) {
  const region = regions.find((r) => r.id === active);
  if (!region || region.kind !== "brush") {
    addRegion({ kind: "brush", strokes: [stroke] });
  } else if (region.strokes.length >= limits.strokes) {
    refresh("This region has very many strokes; start a new one.");
  } else {
    remember();
    const longer = { ...region, strokes: [...region.strokes, stroke] };
    regions = regions.map((r) => (r.id === region.id ? longer : r));
    publish();
  }
}

// ---------------------------------------------------------------- chips, tools, hint

function insertIntoMessage(id) {
  const box = document.querySelector(props.message);
  if (!box || box.disabled) return;
  // The selection stays where it was when the focus goes to the chip.
  const before = box.value.slice(0, box.selectionStart), after = box.value.slice(box.selectionEnd);
  const word = (before && !/\s$/.test(before) ? " " : "") + `<region${id}>` + (/^[\s.,;:?!]/.test(after) ? "" : " ");
  // Through the native setter and an input event, as typing does: the page's framework then sees the new text.
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, before + word + after);
  box.dispatchEvent(new Event("input", { bubbles: true }));
  box.setSelectionRange((before + word).length, (before + word).length);
  // On a touch screen the focus would bring up the keyboard and hide the picture.
  if (window.matchMedia("(pointer: fine)").matches) box.focus({ preventScroll: true });
}

function mentionRegion(id) {
  active = id;
  refresh(`<region${id}> is in the message.`);
  insertIntoMessage(id);
}

function chipFor(region) {
  const chip = document.createElement("span");
  chip.className = "rc-chip" + (region.id === active ? " rc-on" : "");
  chip.setAttribute("role", "listitem");
  chip.dataset.region = region.id;
  chip.style.background = colour(region.id);
  chip.style.color = ink(region.id);
  const insert = document.createElement("button"), remove = document.createElement("button");
  insert.type = remove.type = "button";
  insert.className = "rc-insert";
  insert.textContent = `<region${region.id}>`;
  insert.title = "Put it into the message";
  const kind = document.createElement("i");
  kind.textContent = nameOf(region) || region.kind;
  kind.className = nameOf(region) ? "" : "rc-kind";
  insert.append(kind);
  insert.onclick = () => mentionRegion(region.id);
  remove.className = "rc-remove";
  remove.textContent = "×";
  remove.title = "Remove this region";
  remove.setAttribute("aria-label", `Remove region ${region.id}`);
  remove.onclick = () => removeRegion(region.id);
  chip.append(insert, remove);
  return chip;
}

function say(text) {
  hint.textContent = text;
}

function refresh(message) {
  find(".rc-chips").replaceChildren(...regions.map(chipFor));
  const polygon = draft && draft.kind === "polygon";
  const chosen = regions.find((region) => region.id === active);
  find("[data-act=undo]").disabled = !history.length && !polygon;
  find("[data-act=clear]").disabled = !regions.length;
  find("[data-act=finish]").hidden = !(polygon && draft.points.length >= 3);
  find("[data-act=new]").hidden = !(tool === "brush" && chosen && chosen.kind === "brush");
  find(".rc-size").hidden = tool !== "brush";
  element.querySelectorAll("[data-tool]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  });
  say(message || (picture.image ? HINTS[tool] : ""));
  placeLabels();
  repaint();
}

function setTool(name) {
  if (draft && draft.kind === "polygon" && draft.points.length >= 3) finishDraft();
  draft = null;
  tool = name;
  refresh();
}

element.querySelectorAll("[data-tool]").forEach((button) => {
  button.onclick = () => setTool(button.dataset.tool);
});
find("[data-act=finish]").onclick = finishDraft;
find("[data-act=new]").onclick = () => { active = null; refresh("The next stroke begins a new region."); };
find("[data-act=undo]").onclick = undo;
find("[data-act=everything]").onclick = () => {
  if (!picture.image) return;
  trigger("everything");
  say("Looking for everything … this can take a while.");
};
find("[data-act=clear]").onclick = () => { remember(); regions = []; active = null; draft = null; publish(); };

// ---------------------------------------------------------------- mouse, pen, finger

function press(point, grab) {
  if (tool === "segment") {
    draft = { kind: "segment", width: 6 / view.scale, points: [point] };
  } else if (tool === "box") {
    draft = { kind: "box", from: point, to: point };
  } else if (tool === "brush") {
    draft = { kind: "brush", width: brushWidth(), points: [point] };
  } else if (tool === "point") {
    addRegion({ kind: "point", point });
  } else if (!draft) {
    draft = { kind: "polygon", points: [point] };
  } else if (draft.points.length >= 3 && distance(point, draft.points[0]) * view.scale < grab) {
    finishDraft();
  } else if (draft.points.length < limits.points && distance(point, draft.points.at(-1)) * view.scale > 2) {
    draft.points.push(point);
  }
  refresh();
}

function moveTo(point) {
  if (draft.kind === "box") draft.to = point;
  else if (draft.kind === "polygon") draft.hover = point;
  else if (draft.points.length < limits.points) {
    // Points closer than a twelfth of the brush add nothing but bytes.
    const step = Math.max(1 / view.scale, draft.width / 12);
    if (distance(point, draft.points.at(-1)) >= step) draft.points.push(point);
  }
  repaint();
}

let pressed = null;       // pointerId of the press under way: a second finger must not draw
canvas.addEventListener("pointerdown", (event) => {
  if (!picture.image || event.button || pressed !== null) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  pressed = event.pointerId;
  cursor = null;
  press(positionOf(event), event.pointerType === "mouse" ? 10 : 18);
});
canvas.addEventListener("pointermove", (event) => {
  if (!draft || (pressed !== null && event.pointerId !== pressed)) return;
  const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  (draft.kind === "brush" && all.length ? all : [event]).forEach((e) => moveTo(positionOf(e)));
});
canvas.addEventListener("pointerup", (event) => {
  if (event.pointerId !== pressed) return;
  pressed = null;
  if (!draft || draft.kind === "polygon") return;
  moveTo(positionOf(event));
  finishDraft();
});
canvas.addEventListener("pointercancel", (event) => {
  if (event.pointerId !== pressed) return;
  pressed = null;
  if (draft && draft.kind !== "polygon") draft = null;
  refresh();
});

// ---------------------------------------------------------------- keyboard

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LETTERS = { b: "box", p: "brush", g: "polygon", c: "point", ...(props.tools.includes("segment") ? { s: "segment" } : {}) };

function moveCursor([dx, dy], far) {
  const step = Math.max(picture.width, picture.height) / (far ? 20 : 100);
  const [x, y] = cursor || [picture.width / 2, picture.height / 2];
  cursor = [round(clamp(x + dx * step, 0, picture.width)), round(clamp(y + dy * step, 0, picture.height))];
  if (draft && draft.kind === "box") draft.to = cursor;
  if (draft && draft.kind === "polygon") draft.hover = cursor;
  const corner = draft && draft.kind === "box" ? "Press Enter at the opposite corner. " : "";
  say(`${corner}Cursor at ${Math.round(cursor[0])}, ${Math.round(cursor[1])}.`);
  repaint();
}

function pressKey(isEnter) {
  cursor = cursor || [picture.width / 2, picture.height / 2];
  if (draft && draft.kind === "polygon" && isEnter) finishDraft();
  else if (draft && draft.kind === "box") finishDraft();
  else {
    press(cursor, 0);
    if (draft && ["brush", "segment"].includes(draft.kind)) finishDraft();
    if (draft && draft.kind === "box") say("First corner set. Move with the arrow keys, Enter sets the opposite one.");
    if (draft && draft.kind === "polygon") say("Corner set. Space sets the next one, Enter finishes.");
  }
}

canvas.addEventListener("keydown", (event) => {
  if (!picture.image) return;
  const key = event.key, control = event.ctrlKey || event.metaKey;
  if (control && key.toLowerCase() === "z") undo();
  else if (control || event.altKey) return;
  else if (ARROWS[key]) moveCursor(ARROWS[key], event.shiftKey);
  else if (key === "Enter" || key === " ") pressKey(key === "Enter");
  else if (key === "Escape") { draft = null; refresh(); }
  else if ((key === "Delete" || key === "Backspace") && active !== null) removeRegion(active);
  else if (LETTERS[key.toLowerCase()]) setTool(LETTERS[key.toLowerCase()]);
  else return;
  event.preventDefault();
});
canvas.addEventListener("focus", repaint);
canvas.addEventListener("blur", repaint);

// ---------------------------------------------------------------- pictures dropped, pasted, chosen

// A name that nobody can guess: on the server an upload lies under its content's hash and this name.
function secretly(file) {
  const random = [...crypto.getRandomValues(new Uint8Array(16))].map((v) => v.toString(16).padStart(2, "0")).join("");
  const ending = (/\.[a-z0-9]{1,5}$/i.exec(file.name) || [""])[0];
  return new File([file], random + ending, { type: file.type });
}

function upload(files) {
  const file = [...(files || [])].find((candidate) => candidate.type.startsWith("image/"));
  const input = document.querySelector(props.upload_input);
  if (!file || !input) return false;
  const parcel = new DataTransfer();
  parcel.items.add(secretly(file));
  input.files = parcel.files;
  relaying = true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  relaying = false;
  return true;
}

let relaying = false;
// Before Gradio's own listener: a chosen file, too, is sent under another name.
document.addEventListener("change", (event) => {
  if (relaying || !element.isConnected || !event.target.matches(props.upload_input)) return;
  if (upload(event.target.files)) event.stopImmediatePropagation();
}, true);

find(".rc-empty").onclick = () => { const input = document.querySelector(props.upload_input); if (input) input.click(); };
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("rc-drop"); });
stage.addEventListener("dragleave", () => stage.classList.remove("rc-drop"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("rc-drop");
  upload(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (element.isConnected && upload(event.clipboardData && event.clipboardData.files)) event.preventDefault();
});

// ---------------------------------------------------------------- news from Python

function showPicture() {
  picture.src = props.src;
  frame.hidden = !picture.src;
  find(".rc-empty").hidden = Boolean(picture.src);
  picture.image = null;
  canvas.dataset.shown = "";
  if (!picture.src) return;
  const image = new Image();
  image.onload = () => {
    if (image.src !== picture.src) return;      // a later picture has overtaken this one
    picture.image = image;
    picture.width = picture.width || image.naturalWidth;
    picture.height = picture.height || image.naturalHeight;
    fit();
    refresh();
    canvas.dataset.shown = picture.token || "";
  };
  image.src = picture.src;
}

function sync() {
  const value = props.value || {};
  if ((value.picture || null) !== picture.token) {
    // A new picture: nothing drawn on the old one may survive.
    Object.assign(picture, { token: value.picture || null, width: value.width || 0, height: value.height || 0,
                             pointRadius: value.point_radius || 2 });
    regions = value.regions || [];
    lastId = value.last_id || 0;
    active = draft = cursor = null;
    history = [];
    askedUpTo = 0;
    shapes = {};
    if (picture.token) save();
    showPicture();
  } else if (props.src !== picture.src) {
    showPicture();
  }
  if (props.asked !== asked) {
    // A question was asked, and keeps what it showed: drawing goes on with a new region, or with one that is chosen.
    asked = props.asked;
    askedUpTo = lastId;
    active = null;
  }
  refresh(takeFound());
}

find("[data-tool=segment]").hidden = !props.tools.includes("segment");
find("[data-act=everything]").hidden = !props.tools.includes("everything");
watch(["value", "src", "asked", "found"], sync);
new ResizeObserver(fit).observe(stage);
sync();
element.dataset.ready = "1";

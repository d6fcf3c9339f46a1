// How the canvas looks: fitting, painting, labels. First part of the function whose other part is canvas.js.
//
// Frames. Every coordinate that is kept or sent is in pixels of the upright original picture (x right, y down),
// whatever the size at which it is shown. `view.scale` is CSS pixels a picture pixel; labels and grab distances are in
// CSS pixels.

const find = (selector) => element.querySelector(selector);
const canvas = find("canvas"), pen = canvas.getContext("2d");
const stage = find(".rc-stage"), frame = find(".rc-frame"), labels = find(".rc-labels"), hint = find(".rc-hint");
const brushSize = find(".rc-size input");
const limits = props.limits;

const HINTS = {
  box: "Drag to draw a box. Keyboard: arrow keys move, Enter sets a corner.",
  brush: "Paint over the object; several strokes make one region.",
  polygon: "Click the corners; click the first one again, or press Enter, to finish.",
  point: "Click on the object.",
  segment: "Click on an object, or scribble on it: its mask becomes a region.",
};
const SMALLEST_BOX = 4;   // CSS pixels; a shorter drag is a click
const LABEL_HEIGHT = 20;
const LABEL_FONT = `700 13px/${LABEL_HEIGHT}px system-ui, sans-serif`;
const LABEL_REACH = 70;   // CSS pixels between a region's corner and its name
const LONGEST_NAME = 24;

let picture = { token: null, src: "", image: null, width: 0, height: 0, pointRadius: 2 };
let view = { scale: 1 };
let regions = [], active = null, lastId = 0, history = [], asked = null;
let askedUpTo = 0;        // regions with an id up to this one were there when a question was asked
let tool = "box";
let draft = null;         // what is being drawn: {kind, …}, not yet a region and without an id
let cursor = null;        // [x, y] of the keyboard cursor
let shapes = {};          // masks by name, as Python sends them: {bounds, size, runs, label}; see shapeOf

// ---------------------------------------------------------------- geometry

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 100) / 100;
const colour = (id) => props.palette[(id - 1) % props.palette.length][0];
const ink = (id) => props.palette[(id - 1) % props.palette.length][1];
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const boxOf = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];

// Tight bounds [x1, y1, x2, y2] in picture pixels: where a label wants to sit.
function boundsOf(region) {
  if (region.kind === "box") return region.box;
  if (region.kind === "mask") return shapes[region.mask] ? shapes[region.mask].bounds : [0, 0, 1, 1];
  const radius = region.kind === "point" ? picture.pointRadius : 0;
  let bounds = [Infinity, Infinity, -Infinity, -Infinity];
  const add = ([x, y], r) => {
    bounds = [Math.min(bounds[0], x - r), Math.min(bounds[1], y - r),
              Math.max(bounds[2], x + r), Math.max(bounds[3], y + r)];
  };
  if (region.kind === "point") add(region.point, radius);
  if (region.kind === "polygon") region.points.forEach((point) => add(point, 0));
  if (region.kind === "brush") region.strokes.forEach((s) => s.points.forEach((point) => add(point, s.width / 2)));
  return bounds;
}

// A mask from its runs (false and true pixels in turn, row by row): `inside` is one byte a pixel, `tinted` holds
// pictures of it by colour; `label` is null or [name, score], `named` whether it ever was more than null.
function shapeOf({ bounds, size: [height, width], runs, label }) {
  const inside = new Uint8Array(height * width);
  let at = 0;
  runs.forEach((run, index) => {
    if (index % 2) inside.fill(1, at, at + run);
    at += run;
  });
  return { bounds, width, height, inside, tinted: {}, label, named: Boolean(label) };
}

function tintedShape(shape, fill) {
  if (shape.tinted[fill]) return shape.tinted[fill];
  const { width, height, inside } = shape, layer = document.createElement("canvas");
  layer.width = width;
  layer.height = height;
  const brush = layer.getContext("2d"), image = brush.createImageData(width, height);
  const rgb = [1, 3, 5].map((start) => parseInt(fill.slice(start, start + 2), 16));
  const edge = (index) => {
    const x = index % width;
    return !(inside[index - width] && inside[index + width] && x && inside[index - 1] && x < width - 1 && inside[index + 1]);
  };
  for (let index = 0; index < inside.length; index += 1) {
    if (inside[index]) image.data.set([...rgb, edge(index) ? 255 : 105], index * 4);
  }
  brush.putImageData(image, 0, 0);
  shape.tinted[fill] = layer;
  return layer;
}

function distanceToLine(point, points) {
  let least = distance(point, points[0]);
  for (let i = 1; i < points.length; i += 1) {
    const [ax, ay] = points[i - 1], [bx, by] = points[i], length = (bx - ax) ** 2 + (by - ay) ** 2;
    const t = length ? clamp(((point[0] - ax) * (bx - ax) + (point[1] - ay) * (by - ay)) / length, 0, 1) : 0;
    least = Math.min(least, distance(point, [ax + t * (bx - ax), ay + t * (by - ay)]));
  }
  return least;
}

const blank = document.createElement("canvas").getContext("2d");   // untransformed, to ask about paths
function contains(region, [x, y]) {
  const [x1, y1, x2, y2] = boundsOf(region), grab = 6 / view.scale;
  if (region.kind === "point") return distance([x, y], region.point) <= Math.max(picture.pointRadius, grab);
  if (x < x1 || y < y1 || x > x2 || y > y2) return false;
  if (region.kind === "brush") return region.strokes.some((s) => distanceToLine([x, y], s.points) <= s.width / 2);
  if (region.kind === "polygon") {
    const path = new Path2D();
    region.points.forEach((point, index) => (index ? path.lineTo(...point) : path.moveTo(...point)));
    return blank.isPointInPath(path, x, y);
  }
  if (region.kind === "mask") {
    const shape = shapes[region.mask];
    if (!shape) return false;
    const column = Math.min(shape.width - 1, Math.floor(x * shape.width / picture.width));
    const row = Math.min(shape.height - 1, Math.floor(y * shape.height / picture.height));
    return Boolean(shape.inside[row * shape.width + column]);
  }
  return true;
}

function extentOf(region) {
  const [x1, y1, x2, y2] = boundsOf(region);
  return (x2 - x1) * (y2 - y1);
}

// The region under a point; of several the smallest.
function regionAt(point) {
  return regions.filter((region) => contains(region, point)).sort((a, b) => extentOf(a) - extentOf(b))[0] || null;
}

// ---------------------------------------------------------------- drawing

let painting = false;
function repaint() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => { painting = false; paint(); });
}

function fit() {
  if (!picture.image) return;
  const room = stage.clientWidth;
  if (!room) return;
  const tallest = Math.max(220, Math.min(560, window.innerHeight * 0.62));
  view.scale = Math.min(room / picture.width, tallest / picture.height);
  const width = Math.max(1, Math.round(picture.width * view.scale));
  const height = Math.max(1, Math.round(picture.height * view.scale));
  const ratio = window.devicePixelRatio || 1;
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  paint();
  placeLabels();
}

function outline(stroke, width) {
  pen.lineWidth = (width + 2) / view.scale;
  pen.strokeStyle = "rgba(255, 255, 255, .8)";
  pen.stroke();
  pen.lineWidth = width / view.scale;
  pen.strokeStyle = stroke;
  pen.stroke();
}

function shade(fill, opacity) {
  pen.globalAlpha = opacity;
  pen.fillStyle = fill;
  pen.fill();
  pen.globalAlpha = 1;
}

function tracePath(points, closed) {
  pen.beginPath();
  points.forEach((point, index) => (index ? pen.lineTo(...point) : pen.moveTo(...point)));
  if (closed) pen.closePath();
}

// Strokes overlap themselves: painted opaque on a layer of their own, laid over the picture once.
const layer = document.createElement("canvas");
function paintStrokes(strokes, fill, opacity) {
  layer.width = canvas.width;
  layer.height = canvas.height;
  const brush = layer.getContext("2d");
  brush.setTransform(pen.getTransform());
  brush.lineCap = brush.lineJoin = "round";
  brush.strokeStyle = brush.fillStyle = fill;
  for (const { width, points } of strokes) {
    brush.lineWidth = width;
    brush.beginPath();
    if (points.length === 1) {
      brush.arc(...points[0], width / 2, 0, 2 * Math.PI);
      brush.fill();
    } else {
      points.forEach((point, index) => (index ? brush.lineTo(...point) : brush.moveTo(...point)));
      brush.stroke();
    }
  }
  pen.save();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.globalAlpha = opacity;
  pen.drawImage(layer, 0, 0);
  pen.restore();
}

function paintRegion(region) {
  const fill = colour(region.id), on = region.id === active, width = on ? 3 : 2;
  if (region.kind === "brush") {
    paintStrokes(region.strokes, fill, on ? 0.6 : 0.45);
    return;
  }
  if (region.kind === "mask") {
    if (!shapes[region.mask]) return;
    pen.globalAlpha = on ? 1 : 0.8;
    pen.drawImage(tintedShape(shapes[region.mask], fill), 0, 0, picture.width, picture.height);
    pen.globalAlpha = 1;
    return;
  }
  if (region.kind === "box") {
    const [x1, y1, x2, y2] = region.box;
    pen.beginPath();
    pen.rect(x1, y1, x2 - x1, y2 - y1);
  } else if (region.kind === "polygon") {
    tracePath(region.points, true);
  } else {
    pen.beginPath();
    pen.arc(...region.point, Math.max(picture.pointRadius, 5 / view.scale), 0, 2 * Math.PI);
  }
  shade(fill, on ? 0.3 : 0.18);
  outline(fill, width);
}

function paintDraft() {
  const fill = colour(lastId + 1);
  if (draft.kind === "box") {
    const [x1, y1, x2, y2] = boxOf(draft.from, draft.to);
    pen.beginPath();
    pen.rect(x1, y1, x2 - x1, y2 - y1);
    shade(fill, 0.15);
    outline(fill, 2);
  } else if (draft.kind === "segment") {
    paintStrokes([draft], fill, 0.9);
  } else if (draft.kind === "brush") {
    const extended = regions.find((r) => r.id === active);
    const joins = extended && extended.kind === "brush";
    paintStrokes([draft], joins ? colour(extended.id) : fill, 0.55);
  } else {
    tracePath(draft.hover ? [...draft.points, draft.hover] : draft.points, false);
    outline(fill, 2);
    draft.points.forEach((point, index) => {
      pen.beginPath();
      pen.arc(...point, (index ? 4 : 6) / view.scale, 0, 2 * Math.PI);
      pen.fillStyle = index ? "#fff" : fill;
      pen.fill();
      outline(fill, 1.5);
    });
  }
}

function paintCursor() {
  const [x, y] = cursor, arm = 12 / view.scale;
  pen.beginPath();
  pen.moveTo(x - arm, y);
  pen.lineTo(x + arm, y);
  pen.moveTo(x, y - arm);
  pen.lineTo(x, y + arm);
  outline("#111", 2);
}

function paint() {
  if (!picture.image) return;
  const scale = canvas.width / picture.width;
  pen.setTransform(scale, 0, 0, canvas.height / picture.height, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture.image, 0, 0, picture.width, picture.height);
  pen.lineJoin = "round";
  // Large ones first, so that a small one inside a large one stays on top.
  [...regions].sort((a, b) => extentOf(b) - extentOf(a)).forEach(paintRegion);
  if (draft) paintDraft();
  if (cursor && document.activeElement === canvas) paintCursor();
}

// ---------------------------------------------------------------- labels: numbers, and names where there are some

function overlaps(a, b) {
  return a.x < b.x + b.width + 2 && b.x < a.x + a.width + 2 && a.y < b.y + b.height + 2 && b.y < a.y + a.height + 2;
}

// "circle 0.87" of a region that a recognizer has named, else ""; of a long name its beginning, the table has all of it.
function nameOf(region) {
  const shape = region.kind === "mask" && shapes[region.mask];
  if (!shape || !shape.label) return "";
  const letters = [...shape.label[0]];
  const name = letters.length > LONGEST_NAME ? letters.slice(0, LONGEST_NAME - 1).join("").trimEnd() + "…" : shape.label[0];
  return `${name} ${shape.label[1].toFixed(2)}`;
}

// Beside its region where there is room, else the nearest free place, which must not be further away than `reach`
// (CSS pixels) or there is none: no two labels ever cover each other.
function labelPlace(bounds, width, taken, reach = Infinity) {
  const height = LABEL_HEIGHT, room = { x: canvas.clientWidth - width, y: canvas.clientHeight - height };
  const [x1, y1, x2, y2] = bounds.map((value) => value * view.scale);
  const at = (x, y) => ({ x: clamp(x, 0, Math.max(0, room.x)), y: clamp(y, 0, Math.max(0, room.y)), width, height });
  const wanted = [
    at(x1, y1 - height - 2), at(x1 + 2, y1 + 2), at(x2 - width, y1 - height - 2), at(x1, y2 + 2),
    at(x2 - width, y2 + 2), at(x2 + 2, y1), at(x1 - width - 2, y1),
  ];
  const free = (place) => !taken.some((other) => overlaps(place, other));
  const first = wanted.find(free);
  if (first) return first;
  let best = null;
  for (let y = 0; y <= room.y; y += height / 2) {
    for (let x = 0; x <= room.x; x += width / 2) {
      const place = at(x, y), far = Math.hypot(x - x1, y - y1);
      if (far < reach && (!best || far < best.far) && free(place)) best = { ...place, far };
    }
  }
  return best || (reach < Infinity ? null : wanted[0]);
}

function placeLabels() {
  labels.textContent = "";
  const taken = [];
  for (const region of regions) {
    const name = nameOf(region), bounds = boundsOf(region);
    let text = name ? `${region.id} ${name}` : String(region.id), place = null;
    if (name) {
      // Without room near the region the number has to do: its chip and the table have the name, too.
      blank.font = LABEL_FONT;
      const width = Math.ceil(Math.min(blank.measureText(text).width + 14, canvas.clientWidth));
      place = labelPlace(bounds, width, taken, LABEL_REACH);
      if (!place) text = String(region.id);
    }
    place = place || labelPlace(bounds, 12 + 9 * text.length, taken);
    taken.push(place);
    const label = document.createElement("span");
    label.textContent = text;
    label.className = region.id === active ? "rc-on" : "";
    Object.assign(label.style, { left: place.x + "px", top: place.y + "px", width: place.width + "px", font: LABEL_FONT,
                                 background: colour(region.id), color: ink(region.id) });
    labels.append(label);
  }
}
